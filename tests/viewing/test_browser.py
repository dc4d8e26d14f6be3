# SPDX-License-Identifier: Apache-2.0
"""The real viewer in a real browser: toggle the enhancer, move the camera, see the picture change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from devtools import CHROMIUM, free_port, open_page, wait_for
from toy import arc_cameras, gaussian_scene
from toy_enhancer import ToyEnhancer

from harmonizer_ns.cli import view
from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.splats.files import write_splats

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is missing: apt-get install chromium")


class Inverting(ToyEnhancer):
    """An enhancer whose work nobody can overlook."""

    fails = False

    def enhance(self, frames, context):
        if self.fails:
            raise RuntimeError("the GPU is out of memory")
        return Repaired(1 - frames.rgb, torch.ones_like(frames.alpha))


@pytest.fixture
def scene_file(tmp_path: Path) -> Path:
    scene = gaussian_scene()
    splats = {
        "means": scene["means"],
        "scales": scene["scales"].log(),
        "quats": scene["quats"],
        "opacities": torch.logit(scene["opacities"]),
        "sh0": ((scene["colors"] - 0.5) / 0.28209479177387814)[:, None],
        "shN": torch.zeros(len(scene["means"]), 0, 3),
    }
    write_splats(tmp_path / "scene.ply", splats)
    return tmp_path / "scene.ply"


def picture(screenshot: np.ndarray) -> np.ndarray:
    """The part of the page that the control panel does not cover."""
    return screenshot[80:520, 60:480].astype(float)


def test_a_person_can_toggle_the_enhancer_move_and_read_errors(scene_file, tmp_path, monkeypatch):
    enhancer = Inverting()
    monkeypatch.setattr(view, "load_enhancer", lambda name, device: enhancer)
    monkeypatch.setattr(view, "overview", lambda *_: arc_cameras(1, 160, 120))
    viewer = view.serve(view.ViewConfig(scene_file, enhance=False, port=free_port(), max_side=240))
    try:
        with open_page(f"http://127.0.0.1:{viewer.port}", tmp_path) as page:

            def shot(name):
                return picture(page.screenshot(tmp_path / f"{name}.png"))

            wait_for(lambda: viewer.server.get_clients() and shot("loading").std() > 20, 60)
            (before,) = wait_for(lambda: stable(shot, "1_before"))
            page.click_label("Enhance")
            wait_for(lambda: "ms per frame" in viewer.panel.status)
            (after,) = wait_for(lambda: differs(shot("2_enhanced"), before, 30))
            page.drag((250, 300), (400, 330))
            (moved,) = wait_for(lambda: differs(shot("3_moved"), after, 10))
            enhancer.fails = True
            page.drag((400, 330), (300, 300))
            wait_for(lambda: "GPU is out of memory" in page.evaluate("document.body.innerText"))
            enhancer.fails = False
            page.drag((300, 300), (350, 320))
            wait_for(lambda: "ms per frame" in page.evaluate("document.body.innerText"))
            assert before.shape == after.shape == moved.shape
    finally:
        viewer.close()


def stable(shot, name):
    """A picture that is the same twice, in a tuple."""
    first, second = shot(name), shot(name)
    return (second,) if np.array_equal(first, second) else None


def differs(image, other, by):
    """The image, in a tuple, when it is far enough from another."""
    return (image,) if abs(image - other).mean() > by else None
