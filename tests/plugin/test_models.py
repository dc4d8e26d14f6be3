# SPDX-License-Identifier: Apache-2.0
from copy import deepcopy

import pytest
import torch
from nerfstudio.data.scene_box import SceneBox
from nerfstudio.models import splatfacto
from nerfstudio.models.splatfacto import SplatfactoModel
from toy import arc_cameras, gaussian_scene

from harmonizer_ns.plugin.cameras import to_nerfstudio
from harmonizer_ns.plugin.models import ENHANCED, EnhancedOutputs, HarmonizeSplatfactoModelConfig
from harmonizer_ns.raster import rasterization


def splat(**options):
    scene = gaussian_scene(60)
    torch.manual_seed(0)
    model = HarmonizeSplatfactoModelConfig(**options).setup(
        scene_box=SceneBox(torch.tensor([[-1.0] * 3, [1.0] * 3])),
        num_train_data=3,
        seed_points=(scene["means"], (scene["colors"] * 255).byte()),
        metadata={},
        device="cpu",
        grad_scaler=None,
    )
    model.step = 1200
    return model


def nudged_camera():
    return to_nerfstudio(arc_cameras(1, 33, 25))[0:1]


@pytest.mark.parametrize(
    "options", [{}, {"sh_degree": 0}, {"rasterize_mode": "antialiased"}, {"output_depth_during_training": True}]
)
@pytest.mark.parametrize("training", [True, False])
def test_splatfacto_behaves_as_upstream(monkeypatch, options, training):
    """Upstream's own code, with its two CUDA calls disarmed, gives the same images and gradients."""
    ours = splat(num_downscales=1, resolution_schedule=2000, background_color="black", **options)
    upstream = deepcopy(ours)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    monkeypatch.setattr(splatfacto, "rasterization", rasterization)
    monkeypatch.setattr(splatfacto, "get_viewmat", splatfacto.get_viewmat.__wrapped__)  # not compiled
    for model in (ours, upstream):
        model.train(training)
        model.optimizers = {}
    result = ours.get_outputs(nudged_camera())
    expected = SplatfactoModel.get_outputs(upstream, nudged_camera())
    assert result.keys() == expected.keys()
    for name, image in expected.items():
        torch.testing.assert_close(result[name], image, atol=1e-5, rtol=1e-4)
    if training:
        result["rgb"].sum().backward()
        expected["rgb"].sum().backward()
        for name, parameter in upstream.gauss_params.items():
            torch.testing.assert_close(ours.gauss_params[name].grad, parameter.grad, atol=1e-4, rtol=1e-3)


def test_seed_colours_become_the_base_colour():
    scene = gaussian_scene(60)
    for degree in (0, 2):
        torch.testing.assert_close(splat(sh_degree=degree).colors, scene["colors"], atol=1 / 255, rtol=0)


def test_enhancement_is_listed_last_and_paid_for_once_when_read():
    calls = []

    def enhance(outputs):
        calls.append(1)
        return outputs["rgb"] + 1

    outputs = EnhancedOutputs({"rgb": torch.zeros(2), "depth": torch.ones(2)}, enhance)
    assert list(outputs) == ["rgb", "depth", ENHANCED]
    assert not calls
    for _ in range(2):
        assert outputs[ENHANCED].tolist() == [1.0, 1.0]
    assert calls == [1]
    assert outputs["rgb"].tolist() == [0.0, 0.0]


def test_every_way_of_reading_sees_the_image():
    for read in (
        lambda o: dict(o.items())[ENHANCED],
        lambda o: list(o.values())[-1],
        lambda o: o.get(ENHANCED),
    ):
        assert read(EnhancedOutputs({"rgb": 1}, lambda o: o["rgb"] + 1)) == 2
    assert EnhancedOutputs({}, lambda o: 0).get("nothing", 5) == 5
