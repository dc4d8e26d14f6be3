# SPDX-License-Identifier: Apache-2.0
import pickle
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from pair_toys import HEIGHT, WIDTH, coordinates, plane_pair, resize_file, write_pair
from torch.utils.data import DataLoader

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import load_image, save_image
from harmonizer_ns.training.config import DataConfig
from harmonizer_ns.training.pairs_data.batch import collate
from harmonizer_ns.training.pairs_data.crops import centre_window, covered, random_window
from harmonizer_ns.training.pairs_data.dataset import FIXING, MixtureSampler, PairDataset, items_of, load_item, shard
from harmonizer_ns.warp import backproject, pixel_grid


def crop_of(height, width, zoom=1.5, references=0, **options):
    return DataConfig(height=height, width=width, zoom=zoom, references=references, **options)


CROP = crop_of(16, 24)


def windows(crop, count=50, flip=False):
    chance = random.Random(0)
    return [random_window(HEIGHT, WIDTH, crop, flip, chance) for _ in range(count)]


# --- crops ---


def test_crops_show_what_the_window_says():
    """Away from the window's rim, to a tenth of a pixel."""
    crop = crop_of(12, 18, zoom=3)
    for window in windows(crop, 20):
        cut = window.cut(coordinates()[None])[0]
        x, y = pixel_grid(crop.width, crop.height).unbind(-1)
        expected_x = (window.left + x * window.width / crop.width) / WIDTH
        expected_y = (window.top + y * window.height / crop.height) / HEIGHT
        inner = (slice(2, -2), slice(2, -2))
        torch.testing.assert_close(cut[0][inner], expected_x[inner], atol=0.1 / WIDTH, rtol=0)
        torch.testing.assert_close(cut[1][inner], expected_y[inner], atol=0.1 / HEIGHT, rtol=0)


def test_crops_are_not_stretched_and_stay_inside():
    for window in windows(crop_of(12, 18, zoom=4)):
        assert abs(window.width / window.height - 18 / 12) < 0.1
        assert 0 <= window.top <= HEIGHT - window.height
        assert 0 <= window.left <= WIDTH - window.width


def test_scales_lie_between_covering_and_the_zoom():
    widths = [window.width for window in windows(crop_of(16, 24, zoom=1.5), 300)]
    assert min(widths) == WIDTH / 1.5
    assert max(widths) == WIDTH


def test_small_images_are_enlarged_only_as_far_as_needed():
    assert all((w.height, w.width) == (HEIGHT, WIDTH) for w in windows(crop_of(64, 96, zoom=4)))


def test_a_crop_at_full_resolution_copies_pixels():
    image = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))
    assert torch.equal(centre_window(HEIGHT, WIDTH, (HEIGHT, WIDTH)).cut(image), image)


def test_a_pixels_ray_does_not_change_by_cropping():
    camera = torch.tensor([[[40.0, 0, 25], [0, 42, 15], [0, 0, 1]]])
    for window in windows(crop_of(12, 18, zoom=3), 10):
        inside = torch.linalg.inv(window.intrinsics(camera)[0]) @ torch.tensor([3.5, 4.5, 1])
        there = torch.tensor([window.left + 3.5 * window.width / 18, window.top + 4.5 * window.height / 12, 1.0])
        torch.testing.assert_close(inside, torch.linalg.inv(camera[0]) @ there)


def test_a_mirrored_crop_is_the_mirror_image_and_has_no_camera():
    window = next(w for w in windows(CROP, flip=True) if w.flip)
    straight = replace(window, flip=False)
    assert torch.equal(window.cut(coordinates()[None]), straight.cut(coordinates()[None]).flip(-1))
    assert torch.equal(window.cut_nearest(coordinates()[None]), straight.cut_nearest(coordinates()[None]).flip(-1))
    with pytest.raises(ValueError, match="mirrored"):
        window.intrinsics(torch.eye(3)[None])


def test_covering_another_size_keeps_proportions():
    photo = covered(coordinates(100, 40), HEIGHT, WIDTH)
    assert photo.shape == (3, HEIGHT, WIDTH)
    slope = (photo[0, 16, 30] - photo[0, 16, 10]) / 20 * 100  # source pixels for each of ours
    assert slope == pytest.approx(40 / HEIGHT, rel=0.05)
    assert photo[0].mean() == pytest.approx(0.5, abs=0.01)


# --- items ---


def test_everything_of_a_pair_is_cropped_alike(tmp_path):
    pair = write_pair(tmp_path, "a", references=2)
    view = load_item((pair,), crop_of(12, 18, zoom=3, references=2), chance=random.Random(4))
    assert view.image.shape == view.target.shape == (1, 3, 12, 18)
    assert view.references.shape == (1, 2, 3, 12, 18)
    place = view.image[0, :2]
    for other in (view.target[0, :2], view.references[0, 0, :2], view.references[0, 1, :2]):
        assert torch.equal(other, place)
    assert [round(image[2].mean().item(), 1) for image in (view.image[0], view.target[0])] == [0.2, 0.8]
    known = load_item((write_pair(tmp_path, "b", geometry=True),), crop_of(12, 18, zoom=3), chance=random.Random(4))
    depth = known.depth[0, 0] - 1
    torch.testing.assert_close(depth, known.image[0, 0], atol=0.02, rtol=0)  # nearest, images are bilinear


@pytest.mark.parametrize("baseline", [0.3, 0.6, 1.0])
def test_photos_are_cut_where_they_show_what_the_crop_shows(tmp_path, baseline):
    """A photo covers no less of a crop than of the whole view; red tells places."""
    pair = plane_pair(tmp_path, baseline, 192, 108)
    covered = []
    for seed in range(20):
        view = load_item((pair,), crop_of(64, 64, references=2), chance=random.Random(seed))
        for photo in view.references[0]:
            inside = (view.target[0, 0] >= photo[0].min()) & (view.target[0, 0] <= photo[0].max())
            covered.append(inside.float().mean())
    assert torch.stack(covered).mean() > 1 - baseline / 4  # of the whole view


def test_depth_and_cameras_of_a_crop_give_the_same_world_points(tmp_path):
    pair = write_pair(tmp_path, "a", geometry=True)
    crop = crop_of(16, 24, zoom=2)
    view = next(
        v for v in (load_item((pair,), crop, chance=random.Random(i)) for i in range(50)) if v.image[0, 0].max() < 0.8
    )
    points = backproject(view.depth, view.cameras())[0]
    x = 40 * points[..., 0] / points[..., 2] + WIDTH / 2  # the uncropped camera
    torch.testing.assert_close(x / WIDTH, view.image[0, 0], atol=0.01, rtol=0)


def test_references_are_repeated_and_an_image_without_any_is_its_own(tmp_path):
    one, none = write_pair(tmp_path, "a", references=1), write_pair(tmp_path, "b", geometry=True)
    repeated = load_item((one,), crop_of(16, 24, references=2))
    assert torch.equal(repeated.references[:, 0], repeated.references[:, 1])
    assert repeated.references[0, 0, 2].mean() == pytest.approx(0.4, abs=0.01)
    own = load_item((none,), crop_of(16, 24, references=1))
    assert torch.equal(own.references[:, 0], own.image)
    assert load_item((one,), CROP).references is None


def test_references_of_another_size_are_brought_to_the_images(tmp_path):
    pair = write_pair(tmp_path, "a", references=1)
    resize_file(pair.references[0], 2 * WIDTH, 2 * HEIGHT)
    view = load_item((pair,), crop_of(12, 18, references=1), chance=random.Random(1))
    torch.testing.assert_close(view.references[0, 0, :2], view.image[0, :2], atol=0.03, rtol=0)


def test_only_pairs_without_cameras_are_mirrored(tmp_path):
    def mirrored(pair):
        views = [load_item((pair,), CROP, chance=random.Random(i)) for i in range(20)]
        return sum((view.image[0, 0, 0, 0] > view.image[0, 0, 0, -1]).item() for view in views)

    assert 4 < mirrored(write_pair(tmp_path, "a")) < 16
    assert mirrored(write_pair(tmp_path, "b", geometry=True)) == 0


def test_batches_fill_what_only_some_pairs_have(tmp_path):
    rich, poor = write_pair(tmp_path, "a", 1, geometry=True), write_pair(tmp_path, "b", 1)
    batch = collate([load_item((pair,), crop_of(16, 24, references=1)) for pair in (poor, rich)])
    assert batch.names == ("b", "a")
    assert batch.depth[0].abs().max() == 0
    assert batch.depth[1].min() > 0
    assert len(batch.cameras()) == 2


def test_clips_keep_order_and_share_one_crop(tmp_path):
    frames = tuple(write_pair(tmp_path, f"f{i}", 1, geometry=True, clip="walk", frame=i) for i in range(3))
    save_image(frames[2].image, coordinates(blue=1.0))
    clip = load_item(frames, crop_of(16, 24, references=1), clip=True, chance=random.Random(0))
    assert clip.frames == 3
    assert clip.image.shape == (1, 3, 3, 16, 24)
    assert clip.references.shape == (1, 3, 1, 3, 16, 24)
    assert clip.intrinsics.shape == (1, 3, 3, 3)
    assert clip.names == ("f2",)
    assert clip.image[0, :, 2].mean((1, 2)).tolist() == pytest.approx([0.2, 0.2, 1.0], abs=0.01)
    assert torch.equal(clip.image[0, 0, :2], clip.image[0, 2, :2])
    last = clip.frame(2)
    assert last.image.shape == (1, 3, 16, 24)
    assert last.depth.shape == (1, 1, 16, 24)
    two = collate([clip, clip])
    assert two.image.shape == (2, 3, 3, 16, 24)
    assert len(two.cameras()) == 6
    with pytest.raises(ValueError, match="single views"):
        last.frame(0)


def test_clips_are_runs_of_consecutive_frames(tmp_path):
    pair = write_pair(tmp_path, "x")
    numbers = {"a": [4, 2, 3, 7, 8], "b": [0, 1]}
    pairs = [replace(pair, name=f"{c}{n}", clip=c, frame=n) for c, ns in numbers.items() for n in ns] + [pair]
    runs = [[p.name for p in item] for item in items_of(pairs, 2)]
    assert sorted(runs) == [["a2", "a3"], ["a3", "a4"], ["a7", "a8"], ["b0", "b1"]]
    assert [[p.name for p in item] for item in items_of(pairs, 3)] == [["a2", "a3", "a4"]]
    with pytest.raises(InputError, match="clip of 4 consecutive frames"):
        PairDataset([pairs], CROP, frames=4)


# --- draws ---


@pytest.fixture
def files(tmp_path):
    return [[write_pair(tmp_path, f"{name}{i}") for i in range(size)] for name, size in (("a", 3), ("b", 2))]


def same(a, b):
    return a.names == b.names and a.seeds == b.seeds and torch.equal(a.image, b.image)


def test_a_draw_depends_on_its_number_alone(files):
    """In any order, in a fresh process, after a resume: the same."""
    first = PairDataset(files, crop_of(12, 18), seed=3)
    drawn = [first[i] for i in range(12)]
    again = pickle.loads(pickle.dumps(PairDataset(files, crop_of(12, 18), seed=3)))
    assert all(same(again[i], drawn[i]) for i in (11, 4, 0, 7))
    assert not all(same(PairDataset(files, crop_of(12, 18), seed=4)[i], drawn[i]) for i in range(12))
    crops = {view.names[0]: set() for view in drawn}
    for view in drawn:
        crops[view.names[0]].add(view.image[0, :2].sum().item())
    assert max(len(found) for found in crops.values()) > 1  # another crop in another epoch


def test_workers_load_what_the_process_itself_would(files):
    dataset = PairDataset(files, CROP)
    loader = DataLoader(dataset, batch_size=None, sampler=range(4), num_workers=2)
    assert all(same(loaded, dataset[i]) for i, loaded in enumerate(loader))


def test_processes_together_see_the_batch_of_one(files):
    dataset = PairDataset(files, CROP)
    for step in range(3):
        whole = dataset.batch(shard(step, 4))
        parts = collate([dataset.batch(shard(step, 2, rank, 2)) for rank in range(2)])
        assert same(whole, parts)


def test_the_fingerprint_tells_other_data_but_not_other_places(files, tmp_path):
    fingerprint = PairDataset(files, CROP).fingerprint()
    moved = [[replace(pair, image=tmp_path / "elsewhere") for pair in file] for file in files]
    assert PairDataset(moved, CROP).fingerprint() == fingerprint
    others = [
        PairDataset(files[:1], CROP),
        PairDataset(files, crop_of(16, 16)),
        PairDataset(files, CROP, seed=1),
        PairDataset(files, crop_of(16, 24, references=1)),
        PairDataset(files, crop_of(16, 24, weights=(1, 5))),
    ]
    assert fingerprint not in {other.fingerprint() for other in others}


def test_the_middle_is_taken_when_nothing_is_left_to_chance(files):
    view = load_item((files[0][0],), crop_of(16, 16))
    assert view.image[0, 0].mean() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(view.image, load_item((files[0][0],), crop_of(16, 16)).image)
    whole = load_item((files[0][0],), crop_of(HEIGHT, WIDTH))
    assert torch.equal(whole.image[0], load_image(files[0][0].image))


def test_every_item_comes_once_an_epoch():
    sampler = MixtureSampler([7, 30], (3, 1), seed=5)
    drawn = [sampler.draw(i) for i in range(3000)]
    for source, size in ((0, 7), (1, 30)):
        own = [draw for draw in drawn if draw.source == source]
        for epoch in range(len(own) // size):
            part = own[epoch * size : (epoch + 1) * size]
            assert sorted(draw.index for draw in part) == list(range(size))
            assert {draw.epoch for draw in part} == {epoch}
        assert [d.index for d in own[:size]] != [d.index for d in own[size : 2 * size]]


@pytest.mark.parametrize("weights", [(3.0, 1.0, 0.0), (1.0, 1e-6, 2.0), (1.0, 1.0, 1.0)])
def test_sources_come_by_their_weights(weights):
    sampler = MixtureSampler([5, 50, 500], weights)
    counts = Counter(sampler.draw(i).source for i in range(4096))
    for source, weight in enumerate(weights):
        share = weight / sum(weights)
        assert counts[source] / 4096 == pytest.approx(share, abs=2e-3)
        assert (counts[source] > 0) == (weight > 0)


def test_artifacts_come_so_many_times_as_often_within_their_file(files):
    streams = ["sparse", "isp", "relight", "cycle"]
    marked = [[replace(files[0][i % len(files[0])], source={"stream": streams[i % 4]}) for i in range(8)], files[1]]
    one, three = (PairDataset(marked, crop_of(16, 24, fixing=f, weights=(3, 1))) for f in (1.0, 3.0))

    def share(dataset, number=4096):
        drawn = Counter()
        for i in range(number):
            source, index, _ = dataset.sampler.draw(i)
            pair = dataset.items[source][index][0]
            drawn["fixing" if pair.stream in FIXING else pair.stream and "other"] += 1
        return {name: count / number for name, count in drawn.items()}

    assert share(one) == pytest.approx({"fixing": 3 / 8, "other": 3 / 8, "": 1 / 4}, abs=0.05)
    assert share(three) == pytest.approx({"fixing": 9 / 16, "other": 3 / 16, "": 1 / 4}, abs=2e-3)
    assert one.fingerprint() != three.fingerprint()
    with pytest.raises(InputError, match="fixing should be positive"):
        crop_of(16, 24, fixing=0.0)


def test_without_weights_every_item_is_as_likely():
    sampler = MixtureSampler([10, 30, 0])
    assert Counter(sampler.draw(i).source for i in range(1024)) == {0: 256, 1: 768}


def test_many_sources_fit_into_a_block():
    sampler = MixtureSampler([10_000] + [1] * 100)
    assert set(Counter(sampler.draw(i).source for i in range(1024))) == set(range(101))


@pytest.mark.parametrize(
    ("sizes", "weights", "message"),
    [
        ([3, 4], (1,), "1 weights"),
        ([3, 4], (1, -1), "should be positive"),
        ([3, 4], (1, float("nan")), "should be positive"),
        ([3, 0], (0, 1), "nothing to draw"),
        ([0], (), "nothing to draw"),
        ([], (), "nothing to draw"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(sizes, weights, message):
    with pytest.raises(InputError, match=message):
        MixtureSampler(sizes, weights)
