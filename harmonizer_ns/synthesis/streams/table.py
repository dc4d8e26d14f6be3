# SPDX-License-Identifier: Apache-2.0
"""One table names all streams of training pairs."""

from __future__ import annotations

from harmonizer_ns.synthesis.streams.base import Stream
from harmonizer_ns.synthesis.streams.curation import (
    CrossReferenceSettings,
    CycleSettings,
    SparseSettings,
    UnderfitSettings,
    make_cross_reference,
    make_cycle,
    make_sparse,
)
from harmonizer_ns.synthesis.streams.isp import IspSettings, make_isp
from harmonizer_ns.synthesis.streams.regions import RegionSettings, make_regions
from harmonizer_ns.synthesis.streams.reinsert import ReinsertSettings, make_reinsert
from harmonizer_ns.synthesis.streams.relight import RelightSettings, make_relight
from harmonizer_ns.synthesis.streams.shadows import ShadowSettings, make_shadows

STREAMS: dict[str, Stream] = {
    "sparse": Stream(SparseSettings, make_sparse, "capture", reconstructs=True),
    "underfit": Stream(UnderfitSettings, make_sparse, "capture", reconstructs=True),
    "cycle": Stream(CycleSettings, make_cycle, "capture", reconstructs=True),
    "cross_reference": Stream(CrossReferenceSettings, make_cross_reference, "capture", reconstructs=True),
    "isp": Stream(IspSettings, make_isp, "clip"),
    "regions": Stream(RegionSettings, make_regions, "clip"),
    "relight": Stream(RelightSettings, make_relight, "capture"),
    "reinsert": Stream(ReinsertSettings, make_reinsert, "capture"),
    "shadows": Stream(ShadowSettings, make_shadows, "nothing"),
}
