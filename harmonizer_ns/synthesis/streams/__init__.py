# SPDX-License-Identifier: Apache-2.0
"""Streams: each is one way to damage frames, listed in `table`; the method reads in its ``make_...`` function.

May import scenes and what these may import, captures, splats and references.
"""
