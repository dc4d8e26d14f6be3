# SPDX-License-Identifier: Apache-2.0
"""Train Gaussian splats with gsplat's conventions, and repair them from viewpoints nobody photographed."""
