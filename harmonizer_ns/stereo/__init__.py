# SPDX-License-Identifier: Apache-2.0
"""Geometry from the photos: plane sweep, consistency between views, fusion; to be filled.

May import the small modules, captures and raster only.
"""
