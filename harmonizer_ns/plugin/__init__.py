# SPDX-License-Identifier: Apache-2.0
"""The nerfstudio plugin: the methods that ``ns-train`` lists; the only package that imports nerfstudio.

It may import everything but bench, cli and gsplat_trainer; the flow starts in `pipeline`, which trains on photos and on
repairs.
"""
