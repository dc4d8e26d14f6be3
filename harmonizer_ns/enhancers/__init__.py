# SPDX-License-Identifier: Apache-2.0
"""Enhancers: one-step networks that repair rendered frames. Names and classes are listed in `specs`."""
