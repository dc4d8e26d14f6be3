# SPDX-License-Identifier: Apache-2.0
"""Captures: photos of a scene with cameras and seed points, as COLMAP or nerfstudio leave them.

It may import the small modules only. Begin with `load_capture` in ``capture.py``.
"""
