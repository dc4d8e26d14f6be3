# SPDX-License-Identifier: Apache-2.0
"""Pairs files as training sees them: checked, loaded, cropped, and drawn so that every step knows its own items.

Imports the small modules and `training.config`. `draws.PairsData` is the whole; `dataset` says what comes when.
"""
