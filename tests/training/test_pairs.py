# SPDX-License-Identifier: Apache-2.0
import json
import os
from dataclasses import replace

import pytest
import torch
from pair_toys import HEIGHT, WIDTH, coordinates, resize_file, toy_camera, truncate, write_pair
from PIL import Image
from safetensors.torch import save_file

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import save_image
from harmonizer_ns.pairs import Pair, read_pairs, write_pairs
from harmonizer_ns.training.pairs_data.checks import check_pairs
from harmonizer_ns.types import cat_cameras


def write_json(path, train, test=None):
    path.write_text(json.dumps({"train": train, "test": test or {}}))
    return path


@pytest.fixture
def full(tmp_path):
    """A pair that has everything."""
    pair = write_pair(tmp_path / "images", "a", 2, mask=True, geometry=True, prompt="mend", clip="walk", frame=3)
    return replace(pair, source={"recipe": "sparse", "seed": 1})


def test_pairs_survive_a_file(tmp_path, full):
    plain = write_pair(tmp_path, "b")
    write_pairs(tmp_path / "pairs.json", [full, plain], [replace(plain, name="c", source="isp")])
    pairs = read_pairs(tmp_path / "pairs.json")
    assert pairs.train == (full, plain)
    cameras = pairs.train[0].cameras
    assert (cameras.width, cameras.height, len(cameras)) == (WIDTH, HEIGHT, 3)
    torch.testing.assert_close(cameras.camera_to_world, full.cameras.camera_to_world, atol=0, rtol=0)
    torch.testing.assert_close(cameras.intrinsics, full.cameras.intrinsics, atol=0, rtol=0)
    assert pairs.train[1].cameras is None
    assert pairs.test == (replace(plain, name="c", source="isp"),)


def test_written_paths_are_relative_so_that_the_folder_can_move(tmp_path, full):
    (tmp_path / "old").mkdir()
    os.rename(tmp_path / "images", tmp_path / "old" / "images")
    moved = write_pair(tmp_path / "old" / "images", "m", 1)
    write_pairs(tmp_path / "old" / "pairs.json", [moved])
    os.rename(tmp_path / "old", tmp_path / "new")
    (pair,) = read_pairs(tmp_path / "new" / "pairs.json").train
    assert pair.image == tmp_path / "new" / "images" / "m_image.png"
    check_pairs([[pair]])


def test_difix_reads_the_first_reference(tmp_path, full):
    write_pairs(tmp_path / "pairs.json", [full])
    entry = json.loads((tmp_path / "pairs.json").read_text())["train"]["a"]
    assert entry["ref_image"] == "images/a_reference0.png"
    assert entry["ref_images"] == ["images/a_reference0.png", "images/a_reference1.png"]


def test_a_file_of_difix_is_read(tmp_path):
    entry = {"image": "x.png", "target_image": "y.png", "ref_image": "z.png", "prompt": "remove degradation"}
    (pair,) = read_pairs(write_json(tmp_path / "d.json", {"0": entry})).train
    assert pair == Pair("0", tmp_path / "x.png", tmp_path / "y.png", (tmp_path / "z.png",), "remove degradation")


def test_a_failed_write_leaves_the_old_file(tmp_path, full):
    path = tmp_path / "pairs.json"
    write_pairs(path, [full])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="two pairs are named 'a'"):
        write_pairs(path, [full, full])
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["images", "pairs.json"]


@pytest.mark.parametrize("outside", ["../x.png", "/etc/passwd", "inner/../../x.png", "link/x.png"])
def test_paths_stay_in_the_folder_unless_allowed(tmp_path, outside):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    path = write_json(folder / "pairs.json", {"a": {"image": "i.png", "target_image": outside}})
    with pytest.raises(InputError, match=r"'target_image' is .* outside"):
        read_pairs(path)
    (pair,) = read_pairs(path, allow_outside=True).train
    assert pair.target_image == (folder / outside).resolve()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("text", "is 'text', not a pair"),
        ({"target_image": "t.png"}, "has no 'image'"),
        ({"image": "i.png"}, "has no 'target_image'"),
        ({"image": 3, "target_image": "t.png"}, "'image' is 3, not a path"),
        ({"image": "i.png", "target_image": "t.png", "clip": "c"}, 'one of "clip" and "frame"'),
        ({"image": "i.png", "target_image": "t.png", "clip": "c", "frame": "1"}, "'frame' is '1'"),
        ({"image": "i.png", "target_image": "t.png", "ref_images": "r.png"}, "'ref_images' is 'r.png'"),
        ({"image": "i.png", "target_image": "t.png", "cameras": {}}, "no camera of image"),
        (
            {
                "image": "i.png",
                "target_image": "t.png",
                "cameras": {"image": {"camera_to_world": [[1]], "intrinsics": [[1]]}},
            },
            "should be a 4x4 list",
        ),
    ],
)
def test_a_broken_pair_is_named_with_what_is_wrong(tmp_path, entry, message):
    path = write_json(tmp_path / "pairs.json", {"good": {"image": "i.png", "target_image": "t.png"}, "bad": entry})
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    assert "train/bad" in str(caught.value)
    assert message in str(caught.value)
    assert "good" not in str(caught.value).replace("no good pairs file", "")


def test_cameras_are_checked(tmp_path):
    def entry(pose=None, focal=40.0, references=()):
        good = toy_camera()
        camera = {
            "camera_to_world": pose or good.camera_to_world[0].tolist(),
            "intrinsics": [[focal, 0, 1], [0, 40, 1], [0, 0, 1]],
        }
        cameras = {"image": camera, "references": list(references), "width": 40, "height": 30}
        return {"image": "i.png", "target_image": "t.png", "cameras": cameras}

    skewed = torch.eye(4)
    skewed[0, 1] = 0.5
    infinite = torch.eye(4).tolist()
    infinite[0][3] = float("inf")
    path = write_json(
        tmp_path / "p.json",
        {
            "skewed": entry(skewed.tolist()),
            "flat": entry(focal=0),
            "more": entry(references=[1]),
            "inf": entry(infinite),
        },
    )
    with pytest.raises(InputError) as caught:
        read_pairs(path)
    told = (
        "train/skewed: pose of image is not rigid",
        "train/flat: intrinsics of image: the focal",
        "train/more:",
        "train/inf: ",
    )
    for text in told:
        assert text in str(caught.value)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"train": []}', "\xff"])
def test_what_is_no_pairs_file_is_refused(tmp_path, content):
    path = tmp_path / "pairs.json"
    path.write_bytes(content.encode("latin1"))
    with pytest.raises(InputError, match=r"pairs\.json"):
        read_pairs(path)


def test_a_missing_pairs_file_is_named(tmp_path):
    with pytest.raises(InputError, match="nothing_here"):
        read_pairs(tmp_path / "nothing_here.json")


def test_good_pairs_pass(tmp_path, full):
    check_pairs([[full, write_pair(tmp_path, "b")], [write_pair(tmp_path, "c", 1)]])


def test_all_bad_files_are_named_at_once(tmp_path, full):
    gone, cut, small, depthless = (write_pair(tmp_path, name, 1, mask=True) for name in "gcsd")
    gone.image.unlink()
    cut = replace(cut, target_image=tmp_path / "cut.jpg")
    save_image(cut.target_image, coordinates())
    truncate(cut.target_image)
    truncate(small.target_image)
    resize_file(small.mask, WIDTH - 1, HEIGHT)
    full.depth.write_bytes(full.depth.read_bytes()[:-4])
    other = tmp_path / "other.safetensors"
    save_file({"depth": torch.ones(WIDTH, HEIGHT), "alpha": torch.ones(HEIGHT, WIDTH)}, other)
    with pytest.raises(InputError) as caught:
        check_pairs([[full, gone, cut, small], [replace(depthless, depth=other)]])
    message = str(caught.value)
    assert "6 problems" in message
    assert f"no image file at {gone.image}" in message
    assert f"cannot read {cut.target_image} as an image" in message
    assert f"cannot read {small.target_image} as an image" in message
    assert f"s: {small.mask} is 47x32, its image is 48x32" in message
    assert f"{full.depth} is not a whole depth file" in message
    assert f"{other} has 'depth' of shape [48, 32], expected [32, 48]" in message


def test_long_lists_are_cut_and_counted(tmp_path):
    pairs = [Pair(str(i), tmp_path / f"{i}.png", tmp_path / f"{i}.png") for i in range(50)]
    with pytest.raises(InputError) as caught:
        check_pairs([pairs])
    assert "50 problems" in str(caught.value)
    assert str(caught.value).count("no image file at") == 20
    assert "and 30 more" in str(caught.value)


def test_references_may_have_their_own_size_unless_cameras_speak_of_them(tmp_path):
    pair = write_pair(tmp_path, "a", 1)
    resize_file(pair.references[0], 20, 30)
    check_pairs([[pair]])
    with pytest.raises(InputError, match=r"reference0\.png is 20x30"):
        check_pairs([[replace(pair, cameras=cat_cameras([toy_camera(), toy_camera()]))]])


def test_cameras_are_of_the_images_size(tmp_path, full):
    """The file tells the size; an older one that does not is completed from the image."""
    path = tmp_path / "pairs.json"
    write_pairs(path, [full])
    content = json.loads(path.read_text())
    cameras = content["train"]["a"]["cameras"]
    assert (cameras.pop("width"), cameras.pop("height")) == (WIDTH, HEIGHT)
    (old,) = read_pairs(write_json(tmp_path / "old.json", content["train"])).train
    assert (old.cameras.width, old.cameras.height) == (WIDTH, HEIGHT)
    cameras.update(width=WIDTH, height=HEIGHT + 1)
    with pytest.raises(InputError, match=r"a: its cameras say 48x33, .*a_image\.png is 48x32"):
        check_pairs([read_pairs(write_json(tmp_path / "other.json", content["train"])).train])


def test_clips_are_checked_within_their_own_file(tmp_path):
    first, second = (write_pair(tmp_path, name, clip="walk", frame=1) for name in "ab")
    check_pairs([[first], [second]])
    with pytest.raises(InputError, match="walk has frame 1 more than once"):
        check_pairs([[first, second]])
    for path in (second.image, second.target_image):
        resize_file(path, 24, 16)
    with pytest.raises(InputError, match="walk has frames of different sizes: 24x16, 48x32"):
        check_pairs([[first, replace(second, frame=2)]])


def test_rotated_photos_count_upright(tmp_path):
    pair = write_pair(tmp_path, "a")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    with Image.open(pair.image) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(pair.image.with_suffix(".jpg"), exif=exif)
    check_pairs([[replace(pair, image=pair.image.with_suffix(".jpg"))]])
