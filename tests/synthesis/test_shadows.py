# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from harmonizer_ns.errors import InputError
from harmonizer_ns.synthesis.scenes import meshes
from harmonizer_ns.synthesis.scenes.cameras import Lens, look_at
from harmonizer_ns.synthesis.scenes.insertion import design_insertion
from harmonizer_ns.synthesis.scenes.layers import LayerRenderer
from harmonizer_ns.synthesis.scenes.meshes import rotation
from harmonizer_ns.synthesis.scenes.objects import Material, Part, flat
from harmonizer_ns.synthesis.scenes.render import Light, Stage
from harmonizer_ns.synthesis.streams.shadows import ShadowSettings, compose, make_shadows

TINY = ShadowSettings(width=48, height=32, frames=2, spp=4, outdoors=0.0, objects=(1, 1))
LENS = Lens(40, 30, 40.0)
POSE = look_at(np.array([[0.0, -3.0, 2.0]]), np.zeros(3))[0]
GREY = Material(flat(np.full(3, 0.5)))


def digest(clip) -> str:
    tensors = [t for made in clip for t in (made.image, made.target, made.mask, made.geometry.depth)]
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


@pytest.fixture(scope="module")
def clip():
    pytest.importorskip("mitsuba")
    return make_shadows(None, TINY, 1)


def lit_stage() -> Stage:
    lamp = meshes.floor(0.4, 0.4).rotated(rotation("x", 180)).moved(-1.5, 0.0, 3.0)
    return Stage([Part(meshes.floor(20, 20), GREY)], [Light(lamp, np.full(3, 60.0))])


def test_a_clip_lacks_shadows_within_its_mask_and_nothing_else(clip):
    assert len(clip) == 2
    assert clip[0].parameters == clip[1].parameters
    for made in clip:
        outside = (made.mask == 0).expand(3, -1, -1)
        assert 0.1 < outside.float().mean() < 1
        assert torch.equal(made.image[outside], made.target[outside])
        inside = made.mask[0] == 1
        assert (made.target - made.image)[:, inside].mean() < -0.01
        assert 15 < -10 * (made.image - made.target).square().mean().log10() < 42
        bytes_ = made.image * 255
        torch.testing.assert_close(bytes_, bytes_.round(), atol=1e-4, rtol=0)


def test_geometry_belongs_to_the_frames(clip):
    first, second = (made.geometry for made in clip)
    assert torch.equal(first.rgb[0], clip[0].image)
    assert (first.alpha == 1).all()
    assert (first.depth > 0).all(), "a room is closed"
    moved = (first.cameras.centers - second.cameras.centers).norm()
    assert 0 < moved < 0.5


def test_the_result_does_not_depend_on_process_or_threads(clip):
    code = (
        "import drjit, mitsuba; mitsuba.set_variant('scalar_rgb'); drjit.set_thread_count(1)\n"
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_shadows import TINY, digest, make_shadows\n"
        "print(digest(make_shadows(None, TINY, 1)))"
    )
    run = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-1] == digest(clip)


def test_a_thing_that_touches_no_light_path_changes_nothing():
    pytest.importorskip("mitsuba")
    unseen = Part(meshes.sphere(0.2).moved(0, 0, -5), GREY)
    layers = LayerRenderer(lit_stage(), [unseen]).layers(POSE, LENS, 4, 3)
    image, target, mask = compose(layers, 1.0)
    assert torch.equal(image, target)
    assert not mask.any()
    assert target.std() > 0


def test_the_pasted_thing_keeps_its_look_and_loses_its_shadow():
    pytest.importorskip("mitsuba")
    renderer = LayerRenderer(lit_stage(), [Part(meshes.sphere(0.3), GREY)])
    layers = renderer.layers(POSE, LENS, 16, 3)
    solid, bare = layers.alpha[..., 0] == 1, layers.alpha[..., 0] == 0
    assert solid.sum() == pytest.approx(np.pi * (0.3 * 40 / np.sqrt(12)) ** 2, rel=0.4)
    np.testing.assert_array_equal(layers.full[solid], layers.pasted[solid])
    ratio = layers.full[bare].mean(axis=-1) / layers.pasted[bare].mean(axis=-1)
    assert ratio.min() < 0.5, "the shadow, to the right of the ball"
    _, xs = np.nonzero(bare.reshape(30, 40))
    assert xs[ratio < 0.7].min() > 18
    assert (ratio[xs < 12] == 1).mean() > 0.5, "the same samples where no path meets the ball"


@pytest.mark.parametrize("turn", [0, 180])
def test_the_matte_sees_both_sides_of_a_sheet(turn):
    pytest.importorskip("mitsuba")
    sheet = Part(meshes.quad(0.8, 0.8).rotated(rotation("z", turn)), GREY)
    alpha = LayerRenderer(lit_stage(), [sheet]).layers(POSE, LENS, 4, 0).alpha[..., 0]
    assert alpha[12, 20] == 1
    assert alpha[25, 20] == 0


def test_depth_is_that_of_pixel_centres():
    pytest.importorskip("mitsuba")
    depth = LayerRenderer(lit_stage(), []).depth(POSE, LENS)
    ys, xs = np.mgrid[:30, :40] + 0.5
    rays = np.stack([(xs - 20) / 40, (ys - 15) / 40, np.ones_like(xs)], axis=-1) @ POSE[:3, :3].T
    expected = -POSE[2, 3] / rays[..., 2]
    near = (rays[..., 2] < 0) & (expected < 6)
    assert near.sum() > 300
    np.testing.assert_allclose(depth[near], expected[near], rtol=1e-4)


def test_inserted_things_stand_on_their_support():
    supports = set()
    for seed in range(4):
        scene = design_insertion(np.random.default_rng(seed), (64, 36), 5, seed % 2 == 0, 2)
        supports.add(scene.facts["support"])
        level = min(part.mesh.vertices[:, 2].min() for part in scene.inserted)
        tops = {0.0, *(part.mesh.vertices[:, 2].max().round(9) for part in scene.stage.parts)}
        assert min(abs(level - top) for top in tops) < 0.02
        assert (scene.facts["support"] == "ground") == (level < 0.1)
        assert len(scene.poses) == 5
        assert (np.linalg.norm(np.diff(scene.poses[:, :3, 3], axis=0), axis=1) < 0.4).all()
    assert supports == {"ground", "table"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 8}, "got 8"),
        ({"frames": 0}, "got 0"),
        ({"spp": 6}, "multiple of 4, got 6"),
        ({"outdoors": 1.5}, r"got 1\.5"),
        ({"objects": (0, 2)}, r"got \(0, 2\)"),
    ],
)
def test_settings_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        ShadowSettings(**wrong)


def test_without_mitsuba_the_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(InputError, match=r"pip install 'harmonizer-ns\[synthesis\]'"):
        make_shadows(None, TINY, 0)
