# SPDX-License-Identifier: Apache-2.0
"""This package is for geometry from the photos: plane sweep, consistency between views, fusion. It is still empty.

May import the small modules, captures and raster only.
"""
