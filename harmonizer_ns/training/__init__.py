# SPDX-License-Identifier: Apache-2.0
"""This package trains enhancers from pairs of damaged and clean images: diffusion networks and the built-in one.

Imports enhancers and what stands below them. `setup.train` builds a run; `loop.Run.train` reads like the method.
"""
