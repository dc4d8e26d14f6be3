# SPDX-License-Identifier: Apache-2.0
"""This package is for geometry from the photos: plane sweeps, agreement between views, keypoints, seed points.

`geometry.photo_geometry` is the way in for runs, which keep what it finds; `geometry.look_at` and
`depth.estimate_depth` keep nothing. May import the small modules, captures and raster only.
"""
