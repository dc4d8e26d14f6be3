# SPDX-License-Identifier: Apache-2.0
"""This package reads pairs for training: checked, loaded, cropped, and drawn so that each step knows its items.

Imports the small modules and `training.config`. `draws.PairsData` is the whole; `dataset` says what comes when.
"""
