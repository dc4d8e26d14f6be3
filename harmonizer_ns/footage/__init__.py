# SPDX-License-Identifier: Apache-2.0
"""Footage: images, folders and videos go through an enhancer, and an interrupted run goes on where it was.

May import enhancers and the small modules. The flow reads in `files.enhance_path` and `sequence.FrameEnhancer.run`.
"""
