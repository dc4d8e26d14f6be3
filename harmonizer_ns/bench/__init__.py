# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of enhancers, the rasterizer and the viewer: what ``harmonizer bench`` runs, and nothing else imports.

May import everything below cli, the trainers too. Each benchmark is a file: a dataclass of options, and `run`.
"""
