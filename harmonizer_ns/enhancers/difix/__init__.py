# SPDX-License-Identifier: Apache-2.0
"""Difix: one step of SD-Turbo repairs a frame, with reference photos and previous outputs as it was trained.

May import the files of enhancers beside it. The formulas are in `network`, and `enhancer` is what callers hold.
"""

from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer as DifixEnhancer
from harmonizer_ns.enhancers.difix.network import DifixNetwork as DifixNetwork
