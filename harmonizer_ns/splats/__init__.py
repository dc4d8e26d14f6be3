# SPDX-License-Identifier: Apache-2.0
"""This package holds Gaussian splats: what they are, how they are drawn, their files, and a quick fit to photos.

May import the small modules, captures and raster. `fit.SplatReconstructor` reads like Kerbl et al. 2023.
"""
