# SPDX-License-Identifier: Apache-2.0
"""Enhancers: networks that repair rendered frames in one step, all under the contract of `base`.

May import the small modules only. The table of names is in `specs`; `stream` and `gpu_sharing` are how trainers and
viewers use any of them, and the flow of the large networks reads in `one_step.OneStepEnhancer.enhance`.
"""
