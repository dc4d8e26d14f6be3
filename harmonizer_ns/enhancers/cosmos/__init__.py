# SPDX-License-Identifier: Apache-2.0
"""Cosmos: one step of a video model repairs a frame (Fixer), or continues its own last outputs (Harmonizer).

May import the files of enhancers beside it. The formulas are in `network`, and `enhancer` is what callers hold.
"""

from harmonizer_ns.enhancers.cosmos.enhancer import CosmosEnhancer as CosmosEnhancer
from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork as CosmosNetwork
