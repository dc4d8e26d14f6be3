# SPDX-License-Identifier: Apache-2.0
"""This package is for geometry from the photos: depth by plane sweeps, agreement between views, seed points.

`depth.estimate_depth` and `fusion.dense_seeds` are the ways in. May import the small modules, captures and raster only.
"""
