# SPDX-License-Identifier: Apache-2.0
"""Gaussian splats: what they are, how they are drawn, their files, and a quick fit of them to photos.

May import the small modules, captures and raster. `fit.SplatReconstructor` reads like Kerbl et al. 2023.
"""
