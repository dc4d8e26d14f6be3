# SPDX-License-Identifier: Apache-2.0
"""Recipes: what they may say, and which items and splits follow from them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch
from toy import write_capture
from toy_streams import TOYS

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import save_image
from harmonizer_ns.strict_dataclasses import build
from harmonizer_ns.synthesis.recipes.plan import Plan, make_plan
from harmonizer_ns.synthesis.recipes.recipe import read_recipe, with_folders
from harmonizer_ns.synthesis.streams.table import STREAMS

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "recipes").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _toys(monkeypatch):
    for name, stream in TOYS.items():
        monkeypatch.setitem(STREAMS, name, stream)


def photos(folder: Path, count: int, seed: int) -> Path:
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        save_image(folder / f"{i}.png", torch.rand(3, 6, 8, generator=generator))
    return folder


def plan_of(folder: Path, text: str, scenes: tuple[Path, ...] = (), singles: tuple[Path, ...] = ()) -> Plan:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return make_plan(with_folders(read_recipe(path), scenes, singles))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("streams: []", "list of streams"),
        ("streams: [{kind: magic}]", "'magic'; the kinds are sparse"),
        ("streams: [{kind: spares}]", "did you mean sparse"),
        ("streams: [{kind: dim, cuont: 3}]", "'cuont'; did you mean count"),
        ("streams: [{kind: sparse, settings: {step: 3}}]", "'step'; did you mean steps"),
        ("streams: [{kind: sparse, settings: {reconstructor: nerv}}]", "reconstructor is 'nerv'; did you mean nerf"),
        ("streams: [{kind: flat, photos: [a]}]", "photos"),
        ("streams: [{kind: noise}]", "count"),
        ("streams: [{kind: dim, count: 0}]", "count"),
        ("streams: [{kind: dim, name: ../x}]", r"\.\./x"),
        ("streams: [{kind: dim}, {kind: noise, name: DIM, count: 1}]", "dim"),
        ("streams: [{kind: isp, settings: {masks: {source: bokses}}}]", "source is 'bokses'; did you mean boxes"),
        ("streams: [{kind: dim, settings: {seconds: soon}}]", "seconds is 'soon', expected float"),
        ("streams: [{kind: dim, scenes: a}]", "scenes is 'a'"),
        ("seed: x\nstreams: [{kind: dim}]", "seed"),
        ("test_fraction: 1\nstreams: [{kind: dim}]", "test_fraction"),
        ("a: [", "cannot read"),
    ],
)
def test_bad_recipes_are_refused_by_name(tmp_path, text, named):
    with pytest.raises(InputError, match=named):
        plan_of(tmp_path, text)


def test_a_recipe_that_is_not_there_is_told_with_the_nearest_name():
    with pytest.raises(InputError, match="mix-tny; did you mean mix-tiny"):
        read_recipe(Path("mix-tny"))


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    sides: tuple[int, float] = (1, 1.0)
    many: tuple[str, ...] = ()
    mode: Literal["a", "b"] = "a"
    width: int | None = None
    weights: dict[str, float] = field(default_factory=dict)


def test_plain_data_becomes_nested_dataclasses():
    plain = {"inner": {"size": 2}, "sides": [3, 4], "many": ["x"], "mode": "b", "width": None, "weights": {1: 2}}
    assert build(Outer, plain, "") == Outer(Inner(2), (3, 4.0), ("x",), "b", None, {"1": 2.0})


@pytest.mark.parametrize(
    "plain",
    [{"inner": {"siez": 2}}, {"sides": [3]}, {"sides": [3.5, 4]}, {"mode": "c"}, {"width": True}, {"weights": [1]}, 3],
)
def test_plain_data_of_wrong_types_is_refused(plain):
    with pytest.raises(InputError, match="where"):
        build(Outer, plain, "where")


def test_streams_that_name_no_folders_take_those_of_the_command_line(tmp_path):
    a, b, singles = photos(tmp_path / "a", 3, 0), photos(tmp_path / "b", 3, 1), photos(tmp_path / "p", 2, 2)
    text = "streams: [{kind: dim, clip: 3}, {kind: dim, name: own, scenes: [b], clip: 2, count: 3}]"
    plan = plan_of(tmp_path, text, (a,), (singles,))
    assert {item.name for item in plan.items} == {
        *("dim/a_00", "dim/0_00", "dim/1_00", "own/b_00", "own/b_01", "own/b_02")
    }
    assert {item.folder for item in plan.items} == {str(a), str(b), str(singles)}


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("dim", {}, "--scenes or --photos"),
        ("flat", {"singles": True}, "--photos is of no use"),
        ("flat", {}, "give --scenes"),
        ("noise, count: 2", {"scenes": True}, "--scenes is of no use"),
    ],
)
def test_folders_that_are_missing_or_of_no_use_are_told(tmp_path, kind, options, named):
    given = {key: (photos(tmp_path / "a", 3, 0),) for key in options}
    with pytest.raises(InputError, match=named):
        plan_of(tmp_path, f"streams: [{{kind: {kind}}}]", **given)


def test_photos_do_not_crowd_out_scenes(tmp_path):
    plan = plan_of(
        tmp_path,
        "streams: [{kind: dim, count: 8, clip: 2}]",
        (photos(tmp_path / "a", 3, 0), photos(tmp_path / "b", 3, 1)),
        (photos(tmp_path / "p", 9, 2),),
    )
    assert sorted(item.scene for item in plan.items if len(item.files) == 2) == ["a", "a", "b", "b"]
    assert len({item.name for item in plan.items}) == 8


def test_a_longer_recipe_on_more_scenes_keeps_the_items_of_the_shorter(tmp_path):
    a, b = photos(tmp_path / "a", 6, 0), photos(tmp_path / "b", 6, 1)
    short = plan_of(tmp_path, "streams: [{kind: dim, clip: 2, count: 2}, {kind: noise, count: 2}]", (a,))
    long = plan_of(tmp_path, "name: other\nstreams: [{kind: noise, count: 4}, {kind: dim, clip: 2, count: 6}]", (b, a))
    assert {item.digest for item in short.items} < {item.digest for item in long.items}


def test_items_follow_a_scene_that_moves_and_notice_one_that_changes(tmp_path):
    a = photos(tmp_path / "a", 3, 0)
    text = "streams: [{kind: dim, clip: 3, settings: {masks: masks}}]"
    first = plan_of(tmp_path, text, (a,)).items[0]
    (tmp_path / "other").mkdir()
    moved = a.rename(tmp_path / "other" / "a")
    assert plan_of(tmp_path, text, (moved,)).items[0].digest == first.digest
    photos(moved / "masks", 1, 4)
    assert plan_of(tmp_path, text, (moved,)).items[0].digest != first.digest


def test_clips_do_not_cross_from_one_camera_of_a_rig_to_the_next(tmp_path):
    capture = write_capture(tmp_path / "rig")
    names = sorted(file.name for file in (capture / "images").iterdir())
    text = (capture / "transforms.json").read_text()
    for i, name in enumerate(names):
        camera = "left" if i < len(names) // 2 else "right"
        (capture / "images" / camera).mkdir(exist_ok=True)
        (capture / "images" / name).rename(capture / "images" / camera / name)
        text = text.replace(f"images/{name}", f"images/{camera}/{name}")
    (capture / "transforms.json").write_text(text)
    plan = plan_of(tmp_path, "streams: [{kind: dim, clip: 3, count: 20}]", (capture,))
    assert len(plan.items) == 20
    assert all(len({Path(file).parent for file in item.files}) == 1 for item in plan.items)
    assert len({item.files for item in plan.items}) > 3


def test_scenes_that_cannot_be_used_are_told_and_the_others_planned(tmp_path):
    scenes = (photos(tmp_path / "a", 2, 0), photos(tmp_path / "b", 3, 1), tmp_path / "none")
    plan = plan_of(tmp_path, "streams: [{kind: dim, clip: 3}, {kind: flat}]", scenes)
    assert [item.scene for item in plan.items] == ["b"]
    told = "\n".join(plan.problems)
    assert "a has 2 images, dim makes clips of 3" in told
    assert told.count("no capture that can be used") == 3


def test_scenes_of_one_name_are_told_apart(tmp_path):
    plan = plan_of(
        tmp_path,
        "streams: [{kind: dim, clip: 2}]",
        (photos(tmp_path / "x" / "a b", 2, 0), photos(tmp_path / "y" / "a b", 2, 1)),
    )
    assert len({item.name for item in plan.items}) == 2
    assert all(item.name.startswith("dim/a-b-") for item in plan.items)


@pytest.mark.parametrize("seed", range(4))
def test_every_sort_of_scene_is_in_both_splits_and_copies_never_cross(tmp_path, seed):
    scenes = tuple(photos(tmp_path / f"s{i}", 3, i) for i in range(3))
    singles = photos(tmp_path / "p", 5, 9)
    for i in range(2):  # a frame of s0 is one of the photos, one of s1 is in s2 as well
        save_to = (singles / "copy.png", scenes[2] / "copy.png")[i]
        save_to.write_bytes((scenes[i] / "1.png").read_bytes())
    text = f"seed: {seed}\nstreams: [{{kind: dim, clip: 2}}, {{kind: noise, count: 5}}]"
    plan = plan_of(tmp_path, text, scenes, (singles,))
    tests = plan.test_scenes
    assert ("s0" in tests) == ("copy" in tests)
    assert ("s1" in tests) == ("s2" in tests)
    for sort in (["s0", "s1", "s2"], list("01234"), [f"noise/0000{i}" for i in range(5)]):
        assert 0 < len(tests & set(sort)) < len(sort)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_can_be_read(path):
    assert read_recipe(path).streams


def test_recipes_are_shipped():
    assert {"mix", "shadows"} <= {path.stem for path in SHIPPED}
