# SPDX-License-Identifier: Apache-2.0
"""A run whose enhancer is a Difix folder: small random weights, so repairs are noise, but it is all of the way."""

import json

import pytest
import torch
from runs import run, start, tiny_config
from tiny_difix import write_tiny_difix
from toy_enhancer import ToyEnhancer

from harmonizer_ns.distill import repairs
from harmonizer_ns.distill.gate import GateConfig
from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer, free_share

BELIEVE_EVERYTHING = GateConfig(alpha_low=0.0, alpha_high=0.01, photo_noise=1.0, unseen_weight=1.0)


@pytest.fixture(scope="module")
def difix(tmp_path_factory):
    return write_tiny_difix(tmp_path_factory.mktemp("difix") / "tiny")


def config(capture, tmp_path, difix, **changes):
    """Two rounds of three views; every repair is believed."""
    return tiny_config(capture, tmp_path, pipeline__enhancer=str(difix), pipeline__gate=BELIEVE_EVERYTHING, **changes)


def test_pseudo_views_come_from_a_difix_folder(capture, tmp_path, difix, caplog, monkeypatch):
    seen = []
    enhance = DifixEnhancer.enhance

    def recorded(self, frames, context=Context()):
        repaired = enhance(self, frames, context)
        seen.append((frames, context, repaired.rgb[0]))
        return repaired

    monkeypatch.setattr(DifixEnhancer, "enhance", recorded)
    trainer = start(config(capture, tmp_path, difix))
    trainer.train()
    assert caplog.text.count("NVIDIA License, non-commercial use only") == 1
    views = list(trainer.pipeline.repairs.store)
    assert [view.step for view in views] == [10] * 3 + [20] * 3
    for view, (frames, context, repaired) in zip(views, seen[:6], strict=True):
        assert len(context.references[0]) >= 1
        torch.testing.assert_close(view.rgb, repaired, atol=0.51 / 255, rtol=0)
        assert (repaired - frames.rgb[0]).abs().mean() > 0.05
    report = json.loads((trainer.base_dir / "harmonize_report.json").read_text())
    assert report["summary"]["enhancer"] == str(difix)
    assert (report["summary"]["rounds"], report["summary"]["pseudo_views"]) == (2, 6)
    rows = report["held_out"]
    assert rows["harmonize: rgb_enhanced"]["psnr"] < rows["harmonize: rgb"]["psnr"]


class Elsewhere(ToyEnhancer):
    """Works as the enhancer does, but is told to move to the meta device, as if that were a GPU."""

    def __init__(self, enhancer):
        self.enhancer, self.max_references, self.log = enhancer, enhancer.max_references, []

    def to(self, device):
        self.log.append(torch.device(device).type)

    def enhance(self, frames, context):
        assert frames.rgb.is_meta
        self.log.append("repair")
        return self.enhancer.enhance(*context)


class Parked(ParkedEnhancer):
    """Shows the enhancer frames that are on the meta device."""

    def enhance(self, frames, context=Context()):
        return super().enhance(frames.to("meta"), (frames, context))


@pytest.mark.parametrize(
    ("free", "moves"),
    [(0.1, ["meta", "repair", "repair", "repair", "cpu"] * 2), (0.9, ["meta", *["repair"] * 6])],
)
def test_the_enhancer_leaves_a_full_device_between_rounds(capture, tmp_path, difix, monkeypatch, free, moves):
    parked = []

    def park(enhancer):
        parked.append(Elsewhere(enhancer))
        return Parked(parked[0], lambda device: free)

    monkeypatch.setattr(repairs, "ParkedEnhancer", park)
    run(config(capture, tmp_path, difix, final_report=False))
    assert parked[0].log == moves


@pytest.mark.gpu
def test_the_enhancer_leaves_the_gpu_between_rounds(capture, tmp_path, difix, monkeypatch):
    places = []
    monkeypatch.setattr(repairs, "ParkedEnhancer", lambda enhancer: ParkedEnhancer(enhancer, lambda _: 0.0))
    enhance = DifixEnhancer.enhance

    def recorded(self, frames, context=Context()):
        weight = self.network.prompt_embedding
        places.append((weight.device.type, weight.dtype))
        return enhance(self, frames, context)

    monkeypatch.setattr(DifixEnhancer, "enhance", recorded)
    trainer = run(config(capture, tmp_path, difix, final_report=False))
    assert places == [("cuda", torch.bfloat16)] * 6
    network = trainer.pipeline.repairs.enhancer._enhancer.network
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    assert 0 < free_share(torch.device("cuda")) <= 1
