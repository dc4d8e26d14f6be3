# SPDX-License-Identifier: Apache-2.0
import json
import re

import pytest
import torch
from toy import arc_cameras
from toy_enhancer import ToyEnhancer

from harmonizer_ns.cli.main import main
from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.pictures import as_video, pair_scenes, two_folders
from harmonizer_ns.images import load_image, save_image
from harmonizer_ns.metrics import psnr
from harmonizer_ns.pairs import Pair, write_pairs


def picture(seed, height=24, width=32):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def write(folder, *names, first=0, **size):
    for number, name in enumerate(names):
        save_image(folder / name, picture(first + number, **size))
    return folder


@pytest.fixture
def fixer(tmp_path):
    """Two scenes of one and two cameras, as Fixer writes them."""
    for scene, cameras in (("street", ["front", "left"]), ("yard", ["front"])):
        for first, kind in ((0, "render"), (50, "gt")):
            for camera in cameras:
                write(tmp_path / scene / kind / camera, "2.png", "10.png", "9.png", first=first)
    return tmp_path


def test_a_folder_of_pairs_is_judged_picture_by_picture(tmp_path):
    write(tmp_path / "mine/render", "b.png", "a.png")
    write(tmp_path / "mine/gt", "a.png", "b.png", "more.png")
    (scene,) = pair_scenes(tmp_path / "mine")
    views = list(scene.views(None))
    assert (scene.name, [view.shows for view in views]) == ("mine", ["a", "b"])
    assert torch.equal(views[0].pictures["plain"], load_image(tmp_path / "mine/render/a.png"))
    assert torch.equal(views[0].truth, load_image(tmp_path / "mine/gt/a.png"))
    assert all(view.place is None for view in views)
    assert [view.place.frame for view in as_video(scene).views(None)] == [0, 1]


def test_fixers_folders_are_clips_of_their_cameras(fixer):
    street, yard = pair_scenes(fixer)
    assert (street.name, yard.name) == ("street", "yard")
    views = list(street.views(None))
    assert [view.shows for view in views] == [f"{c}/{t}" for c in ("front", "left") for t in (2, 9, 10)]
    assert [view.place for view in views][:3] == [("street/front", i) for i in range(3)]
    assert [views[i + 1].follows(views[i]) for i in range(5)] == [True, True, False, True, True]


def test_two_folders_are_told_by_their_pictures(tmp_path, capsys):
    renders, photos = write(tmp_path / "r", "x.png", "y.png"), write(tmp_path / "p", "x.jpg", "y.jpg", first=5)
    main(["evaluate", str(renders), str(photos), "--device", "cpu", "--output", str(tmp_path / "out")])
    (scene,) = json.loads((tmp_path / "out/report.json").read_text())["scenes"]
    expected = [psnr(load_image(renders / f"{n}.png")[None], load_image(photos / f"{n}.jpg")[None]) for n in "xy"]
    assert scene["psnr_render"] == pytest.approx(torch.cat(expected).mean().item())
    assert scene["psnr_enhanced"] is None
    printed = capsys.readouterr().out
    assert "pictures as they are" in printed
    assert "PASS" not in printed
    assert {path.name for path in (tmp_path / "out/r").iterdir()} == {"0000.png", "0001.png", "plain", "truth"}


class Memory(ToyEnhancer):
    """Darkens, and remembers what it was shown."""

    def __init__(self):
        self.seen = []

    max_references, max_context = 2, 4

    def enhance(self, frames, context):
        self.seen.append((context.references[0], len(context.history)))
        return Repaired(0.5 * frames.rgb, torch.ones_like(frames.alpha))


def test_a_pairs_file_is_judged_by_its_test_pairs_with_their_references(tmp_path):
    write(tmp_path, *(f"{i}.png" for i in range(8)))
    write(tmp_path, "reference.png", height=48, width=64)
    files = [tmp_path / f"{i}.png" for i in range(8)]
    train = [Pair("t", files[0], files[1])]
    clip = [Pair(f"c{i}", files[i], files[7], clip="walk", frame=i) for i in (3, 2)]
    single = Pair("s", files[5], files[6], references=(tmp_path / "reference.png",))
    write_pairs(tmp_path / "set.json", train, [*clip, single])
    scenes = pair_scenes(tmp_path / "set.json")
    enhancer = Memory()
    views = {scene.name: list(scene.views(enhancer)) for scene in scenes}
    assert {name: [view.shows for view in found] for name, found in views.items()} == {
        "set": ["s"],
        "walk": ["c2", "c3"],
    }
    alone, first, second = enhancer.seen
    assert alone[0].rgb.shape == (1, 3, 24, 32)
    assert (first, second) == ((None, 0), (None, 1))
    view = views["set"][0]
    assert torch.allclose(view.pictures["enhanced"], 0.5 * view.pictures["plain"])
    assert view.seconds > 0
    write_pairs(tmp_path / "set.json", train)
    assert [view.shows for view in pair_scenes(tmp_path / "set.json")[0].views(None)] == ["t"]


def test_a_pairs_own_depth_gives_the_flow(tmp_path):
    from safetensors.torch import save_file

    write(tmp_path, "a.png", "b.png")
    save_file({"depth": torch.full((24, 32), 4.0)}, tmp_path / "d.safetensors")
    cameras = arc_cameras(1, 32, 24)
    files = tmp_path / "a.png", tmp_path / "b.png"
    pairs = [Pair(str(i), *files, clip="c", frame=i, depth=tmp_path / "d.safetensors", cameras=cameras) for i in (0, 1)]
    write_pairs(tmp_path / "p.json", pairs)
    (scene,) = pair_scenes(tmp_path / "p.json")
    first, second = scene.views(None)
    flow = second.flow_to(first)
    assert flow.offset.abs().max() < 1e-3
    assert flow.valid.float().mean() > 0.9
    assert scene.positions["held-out"].shape == (2, 3)


def test_videos_of_pairs_reach_the_report(fixer, tmp_path):
    main(["evaluate", str(fixer / "yard"), "--device", "cpu", "--output", str(tmp_path / "out")])
    (scene,) = json.loads((tmp_path / "out/report.json").read_text())["scenes"]
    assert scene["scores"]["truth"].keys() >= {"warp_error", "flicker", "fvd"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "gt/a.png").unlink(), "gt/a.png"),
        (lambda f: write(f / "gt", "a.png", height=12), "32x24 pixels, its truth .* 32x12"),
        (lambda f: [path.unlink() for path in (f / "render").iterdir()], "render holds no images"),
        (lambda f: (f / "gt/a.png").write_bytes(b"x"), "cannot read .*a.png"),
        (lambda f: (f / "gt").rename(f / "truth"), "holds nothing to measure"),
    ],
)
def test_pairs_that_cannot_be_compared_are_one_clear_error(change, message, tmp_path, capsys):
    folder = tmp_path / "set"
    write(folder / "render", "a.png", "b.png")
    write(folder / "gt", "a.png", "b.png")
    change(folder)
    with pytest.raises(SystemExit) as error:
        main(["evaluate", str(folder), "--device", "cpu", "--output", str(tmp_path / "out")])
    assert re.search(message, str(error.value))
    assert not (tmp_path / "out").exists()


def test_paths_that_hold_nothing_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "holds nothing to measure"), ("gone", "there is no")):
        with pytest.raises(SystemExit, match=message):
            main(["evaluate", str(tmp_path / name), "--device", "cpu"])
    with pytest.raises(InputError, match="no folder"):
        two_folders(tmp_path / "gone", tmp_path / "empty")
