# SPDX-License-Identifier: Apache-2.0
"""Harmonizer: make 3D reconstructions look right from viewpoints nobody photographed.

Importing this package is cheap: neither nerfstudio nor diffusers is loaded (a test enforces it).
"""

__version__ = "0.1.0"
