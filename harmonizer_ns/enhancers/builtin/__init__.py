# SPDX-License-Identifier: Apache-2.0
"""The built-in enhancer: a small network mixes, per pixel, the render and what photos show of the same place.

May import the files of enhancers beside it. The formulas are in `network`, and `enhancer` is what callers hold.
"""

from harmonizer_ns.enhancers.builtin.enhancer import BuiltinEnhancer as BuiltinEnhancer
from harmonizer_ns.enhancers.builtin.inputs import BuiltinInputs as BuiltinInputs
from harmonizer_ns.enhancers.builtin.inputs import gather_inputs as gather_inputs
from harmonizer_ns.enhancers.builtin.network import BuiltinNetwork as BuiltinNetwork
