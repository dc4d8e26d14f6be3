# SPDX-License-Identifier: Apache-2.0
"""Differentiable Gaussian rasterization behind `gsplat.rasterization`'s call signature, on the CPU too."""

from harmonizer_ns.raster.api import rasterization, rasterization_cpu
from harmonizer_ns.raster.threads import get_num_threads, set_num_threads

__all__ = ["get_num_threads", "rasterization", "rasterization_cpu", "set_num_threads"]
