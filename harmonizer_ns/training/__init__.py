# SPDX-License-Identifier: Apache-2.0
"""Training of enhancers from pairs of damaged and clean images: one loop, for diffusion networks and the built-in one.

Imports enhancers and what stands below them. `setup.train` builds a run; `loop.Run.train` reads like the method.
"""
