# SPDX-License-Identifier: Apache-2.0
"""Protocols: what they may say, how they split, and what a scene prepared by them holds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy import capture_of, write_capture, write_colmap

from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.enhancers.digest import weights_digest
from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.prepared import folder_of, prepare
from harmonizer_ns.evaluation.protocols import Protocol, Run, claim, parse_protocol, read_protocol
from harmonizer_ns.evaluation.splits import RULES, Split
from harmonizer_ns.files import file_digest, shipped, write_json
from harmonizer_ns.types import Cameras, Frames

SHIPPED = shipped("protocols", ".json")
PLAIN = {"version": 1, "splits": {"4th": {"rule": "every", "train": 4}}, "runs": [{"steps": 10}]}


def protocol(**changes) -> Protocol:
    return parse_protocol({**PLAIN, "name": "mine", **changes}, "mine.json")


def line_capture(positions):
    """A capture without pictures whose cameras stand at these positions."""
    frames = []
    for position in positions:
        pose = torch.eye(4)
        pose[:3, 3] = torch.tensor(position)
        camera = Cameras(pose[None], torch.eye(3)[None], 8, 8)
        frames.append(Frames(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), camera))
    names = tuple(f"images/{i:03d}.png" for i in range(len(frames)))
    return capture_of("line", names, frames, torch.zeros(0, 3))


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_protocols_survive_a_round_trip(name, tmp_path):
    read = read_protocol(name)
    assert read.name == name
    assert read.source
    write_json(tmp_path / "again.json", read.settings())
    assert read_protocol(tmp_path / "again.json") == read
    assert read_protocol(SHIPPED[name]) == read


def test_the_papers_protocols_are_shipped():
    assert {"sparse", "few", "far", "nerfbusters", "dl3dv", "mipnerf360-sparse"} <= set(SHIPPED)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "version 2|version is 2"),
        ({"widht": 240}, "did you mean width"),
        ({"width": "240"}, "width is '240'"),
        ({"width": 8}, "at least 16"),
        ({"width": 240, "factor": 4}, "a width .* or a factor"),
        ({"resize": "bicubik"}, "did you mean bicubic"),
        ({"judged": 0}, "judged should be at least 1"),
        ({"splits": {}}, "at least one split"),
        ({"splits": {"a": {"rule": "evry", "train": 4}}}, "did you mean every"),
        ({"splits": {"a": {"rule": "every"}}}, "train should be at least 2"),
        ({"splits": {"a": {"rule": "names", "pattern": "("}}}, "no regular expression"),
        ({"splits": {"a": {"rule": "side", "pattern": "x"}}}, "others have none"),
        ({"splits": {"a": {"rule": "spread", "train": 3, "judged_every": 1}}}, "all photos are judged"),
        ({"runs": [{"steps": 10}, {"steps": 10}]}, "different steps"),
        ({"runs": [{"steps": 10, "seeds": [1, 1]}]}, "different numbers"),
        ({"runs": [{"steps": 1.5}]}, "steps is 1.5"),
        ({"runs": 3}, "runs is 3"),
    ],
)
def test_what_is_wrong_is_named(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        protocol(**changes)
    assert "mine.json" in str(caught.value)


def test_an_unknown_protocol_is_answered_with_a_name():
    with pytest.raises(InputError, match="did you mean sparse"):
        read_protocol("sprase")


def test_the_enhancers_weights_are_named_and_checked(tmp_path):
    complete = protocol().complete()
    assert complete.enhancer.sha256 == weights_digest("builtin")
    assert complete.complete() == complete
    with pytest.raises(InputError, match="sha256 0000"):
        protocol(enhancer={"name": "builtin", "sha256": "0" * 64}).complete()
    assert protocol(enhancer={"name": "none"}).complete().enhancer.sha256 is None


def test_a_folder_is_for_one_protocol(tmp_path):
    claim(tmp_path, protocol(width=64, scenes=["a"]))
    claim(tmp_path, protocol(width=64, scenes=["b"]))
    with pytest.raises(InputError, match=r"another --output: width 64 against 80") as caught:
        claim(tmp_path, protocol(width=80))
    assert "\n" not in str(caught.value)
    assert json.loads((tmp_path / "protocol.json").read_text())["width"] == 64


# --- splits -----------------------------------------------------------------------------------------------------------

POSITIONS = [(0.3 * i, 0.1 * (i % 3), 0.0) for i in range(23)]


@pytest.mark.parametrize(
    "split",
    [
        Split("every", train=4),
        Split("spread", train=6),
        Split("spread", train=6, judged_every=8),
        Split("side"),
        Split("clusters"),
        Split("names", pattern="1"),
    ],
    ids=lambda split: f"{split.rule}{split.judged_every or ''}",
)
def test_no_photo_is_on_both_sides(split):
    train, judged = split.of(line_capture(POSITIONS))
    assert not set(train) & set(judged)
    assert train
    assert judged
    assert list(train) == sorted(train)
    assert list(judged) == sorted(judged)
    if not split.judged_every:
        assert set(train) | set(judged) == set(range(23))


def test_every_rule_is_tested():
    assert set(RULES) == {"every", "spread", "side", "clusters", "names"}


def test_rules_choose_what_they_say():
    capture = line_capture(POSITIONS)
    assert Split("every", train=4).of(capture).train == (0, 4, 8, 12, 16, 20)
    assert Split("spread", train=3).of(capture).train == (0, 11, 22)
    sides = Split("spread", train=4, judged_every=8).of(capture)
    assert sides.judged == (0, 8, 16)
    assert sides.train == (1, 7, 14, 22)  # of 20 photos the numbers 0, 6, 12, 19
    assert Split("names", pattern=r"02\d").of(capture).judged == (20, 21, 22)


def test_one_side_lies_beyond_the_other_whatever_the_order():
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0)).tolist()
    capture = line_capture([POSITIONS[i] for i in order])
    train, judged = ([order[i] for i in part] for part in Split("side").of(capture))
    assert max(train) < min(judged) or max(judged) < min(train)
    assert abs(len(train) - len(judged)) <= 1
    assert order[0] in train


def test_clusters_are_found():
    near = [(0.1 * i, 0.0, 0.0) for i in range(5)]
    distant = [(5 + 0.1 * i, 1.0, 0.0) for i in range(9)]
    mixed = [*distant[:2], *near, *distant[2:]]
    assert Split("clusters").of(line_capture(mixed)).judged == (2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (Split("names", pattern="eval"), "line: .*with and without 'eval' in their names; of its 23 23 would train"),
        (Split("spread", train=23), "'spread' needs photos, 24 or more; of its 23 23 would train and 0 be judged"),
        (Split("spread", train=24, judged_every=8), "28 or more; of its 23 20 would train and 3 be judged"),
    ],
)
def test_a_capture_that_is_too_small_is_refused(split, words):
    with pytest.raises(InputError, match=words):
        split.of(line_capture(POSITIONS))


@pytest.mark.parametrize(("train", "judged_every"), [(24, 8), (12, 8), (5, 2), (9, 3), (9, 0)])
def test_so_many_photos_as_are_asked_for_are_enough(train, judged_every):
    split = Split("spread", train=train, judged_every=judged_every)
    assert len(split.of(line_capture([(i, 0.0, 0.0) for i in range(split.least)])).train) == train
    with pytest.raises(InputError, match=f"{split.least} or more"):
        split.of(line_capture([(i, 0.0, 0.0) for i in range(split.least - 1)]))


# --- prepared scenes --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colmap(tmp_path_factory):
    """Ten photos; the points differ in which photos show them."""
    import pycolmap

    folder = write_colmap(tmp_path_factory.mktemp("scenes") / "toy")
    sparse = str(folder / "sparse" / "0")
    model = pycolmap.Reconstruction(sparse)
    tracks = {1: (0, 4), 2: (0, 1, 2, 3), 3: (1, 2, 3, 5, 6, 7, 9)}
    plain = pycolmap.Reconstruction()
    plain.add_camera_with_trivial_rig(model.cameras[1])
    for number, image in sorted(model.images.items()):
        new = pycolmap.Image(name=image.name, camera_id=1, image_id=number)
        new.points2D = pycolmap.Point2DList([pycolmap.Point2D([1.0, 1.0]) for _ in range(3)])
        plain.add_image_with_trivial_frame(new, image.cam_from_world())
    for key, photos in tracks.items():
        track = pycolmap.Track()
        for photo in photos:
            track.add_element(photo + 1, key - 1)
        plain.add_point3D(model.points3D[key].xyz, track, model.points3D[key].color)
    plain.write_binary(sparse)
    return folder


def test_seed_points_that_held_out_photos_alone_show_are_not_used(colmap, tmp_path):
    whole = load_capture(colmap, with_tracks=True)
    (scene,) = prepare(protocol(), [colmap], tmp_path)
    assert (scene.train, scene.judged, scene.points) == (3, 7, 1)  # photos 0, 4 and 8 train
    kept = load_capture(folder_of(tmp_path, "toy"))
    assert whole.seen is not None
    (shown,) = set(whole.seen[0].tolist()) & set(whole.seen[4].tolist())
    torch.testing.assert_close(kept.points, whole.points[shown : shown + 1])
    assert "at least 2 photos" in scene.seeds
    seen = whole.seeded_by([0, 1, 2]).seen
    assert seen is not None
    assert [len(shown) for shown in seen[:5]] == [1, 2, 2, 2, 0]


def test_a_prepared_scene_is_the_capture_resized(colmap, tmp_path):
    whole = load_capture(colmap, 32)
    (scene,) = prepare(protocol(width=32, judged=3, resize="bicubic"), [colmap], tmp_path)
    made = load_capture(folder_of(tmp_path, "toy"))
    assert scene.judged == len(made.test) == 3
    assert len(made) == 6
    originals = [int(Path(name).name.split("_")[0]) for name in made.names]
    for index, original in enumerate(originals):
        assert torch.equal(made.photo(index), whole.photo(original))
        torch.testing.assert_close(made.cameras[index].intrinsics, whole.cameras[original].intrinsics)
        torch.testing.assert_close(made.cameras[index].camera_to_world, whole.cameras[original].camera_to_world)
    assert [originals[i] for i in made.train] == [0, 4, 8]


def test_a_capture_keeps_its_own_split_where_that_is_asked_for(tmp_path):
    folder = write_capture(tmp_path / "own")  # photos 2 and 7 are held out
    mine = {"splits": {"4th": {"rule": "every", "train": 4, "own": True}}}
    (scene,) = prepare(protocol(**mine), [folder], tmp_path)
    assert (scene.train, scene.judged) == (8, 2)
    assert "its own split" in scene.seeds
    (scene,) = prepare(protocol(), [folder], tmp_path)
    assert (scene.train, scene.judged) == (3, 7)
    assert "held-out photos may have helped" in scene.seeds


def test_a_scene_that_is_too_small_for_a_split_is_left_out_and_told(colmap, tmp_path):
    mine = protocol(splits={"3": {"rule": "spread", "train": 3}, "all": {"rule": "spread", "train": 10}})
    left_out = []
    assert [scene.name for scene in prepare(mine, [colmap], tmp_path, left_out)] == ["toy-3"]
    assert left_out == [
        "the split 'all' of toy: the rule 'spread' needs photos, 11 or more; of its 10 10 would train and 0 be judged"
    ]
    with pytest.raises(InputError, match="the split 'all' of toy"):
        prepare(protocol(splits={"all": {"rule": "spread", "train": 10}}), [colmap], tmp_path / "none", [])


def test_what_is_prepared_stays_and_what_has_changed_is_prepared_anew(colmap, tmp_path):
    first = prepare(protocol(width=32), [colmap], tmp_path)
    file = folder_of(tmp_path, "toy") / "transforms.json"
    before = file.stat().st_mtime_ns, file_digest(file)
    assert prepare(protocol(width=32), [colmap], tmp_path) == first
    assert (file.stat().st_mtime_ns, file_digest(file)) == before
    assert prepare(protocol(width=48), [colmap], tmp_path)[0].digest != first[0].digest


def test_each_split_is_a_scene(colmap, tmp_path):
    splits = {"2": {"rule": "spread", "train": 2}, "5": {"rule": "spread", "train": 5}}
    scenes = prepare(protocol(splits=splits), [colmap], tmp_path)
    assert [(scene.name, scene.train) for scene in scenes] == [("toy-2", 2), ("toy-5", 5)]


def test_scenes_of_one_name_are_refused(colmap, tmp_path):
    with pytest.raises(InputError, match="several scenes are named 'toy'"):
        prepare(protocol(), [colmap, colmap.parent / "." / "toy"], tmp_path)


def test_runs_are_values():
    assert replace(Run(10), seeds=(3,)) == Run(10, seeds=(3,))
