# SPDX-License-Identifier: Apache-2.0
"""The nerfstudio plugin: the only package that imports nerfstudio."""
