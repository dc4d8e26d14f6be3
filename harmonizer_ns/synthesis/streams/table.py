# SPDX-License-Identifier: Apache-2.0
"""The streams of training pairs, in one visible table."""

from __future__ import annotations

from harmonizer_ns.synthesis.streams.base import Stream
from harmonizer_ns.synthesis.streams.isp import IspSettings, make_isp
from harmonizer_ns.synthesis.streams.regions import RegionSettings, make_regions

STREAMS: dict[str, Stream] = {
    "isp": Stream(IspSettings, make_isp, "clip"),
    "regions": Stream(RegionSettings, make_regions, "clip"),
}
