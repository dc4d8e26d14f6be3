# SPDX-License-Identifier: Apache-2.0
"""Physically rendered scenes: the demo that ships with the project, and random ones to train enhancers on.

May import the small modules alone. A capture comes about in `procedural.photograph` and in `demo.make_demo`.
"""
