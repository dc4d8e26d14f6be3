# SPDX-License-Identifier: Apache-2.0
"""This package trains the built-in network: pairs are warped once, cropped, learned from, validated, calibrated.

Imports training and enhancers. `trainee.BuiltinTrainee` holds what is particular; `training.loop` runs it.
"""
