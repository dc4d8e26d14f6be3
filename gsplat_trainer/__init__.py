# SPDX-License-Identifier: Apache-2.0
"""Train Gaussian splats with gsplat's conventions, and repair them from viewpoints nobody photographed.

It may import all of harmonizer_ns but plugin, bench and cli; the flow reads top down in `trainer`, and `scene` is
what it works on.
"""
