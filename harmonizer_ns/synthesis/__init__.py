# SPDX-License-Identifier: Apache-2.0
"""Training pairs: damaged images beside what they should look like, made from captures, from photos or from nothing.

May import the small modules, references, captures, raster and splats. `recipes` turns a YAML file into a folder of
pairs; `streams` are the ways to damage, those of the Difix3D+ and DiffusionHarmonizer papers; `scenes` are rendered.
"""
