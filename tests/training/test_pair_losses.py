# SPDX-License-Identifier: Apache-2.0
import math
import random

import pytest
import torch
from torch.nn import functional as F
from torchvision import models
from torchvision.models.optical_flow import raft_small

from harmonizer_ns.features import load_features
from harmonizer_ns.flow import Flow, load_raft, raft_flow
from harmonizer_ns.images import resize
from harmonizer_ns.training.config import LossConfig
from harmonizer_ns.training.criterion import Criterion
from harmonizer_ns.training.losses.perceptual import (
    VGG16_WEIGHTS,
    feature_distance,
    gram_loss,
    gram_matrix,
    patch_loss,
    random_square,
)
from harmonizer_ns.training.losses.preserve import clean_pixels, preservation_loss
from harmonizer_ns.training.losses.temporal import true_motion, warp_loss
from harmonizer_ns.training.pairs_data.batch import PairBatch, collate


def images(count=2, height=32, width=40, seed=0):
    """Smooth pictures with detail."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 6, generator=generator)
    fine = torch.rand(count, 3, height, width, generator=generator)
    return (0.7 * F.interpolate(coarse, (height, width), mode="bicubic") + 0.3 * fine).clamp(0, 1)


def toy_features(image):
    """Two layers whose activations are easy to follow by hand."""
    return [image, F.avg_pool2d(torch.cat([image, 1 - image[:, :1]], dim=1), 2)]


@pytest.fixture(scope="module")
def squeezenet_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def descend(start, loss, steps, rate=0.02):
    """Pixels after steps of Adam on the loss alone, at a falling rate."""
    x = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()
    return x.detach()


def judged(output, target, seeds=(1, 2), **weights):
    """The weighted sum of the losses that are named; those of pixels are of colours in [-1, 1]."""
    return Criterion(LossConfig(**weights))(output, output.detach(), target, seeds, step=1)[0]


def l1_loss(x, y):
    return judged(x, y, l1=1 / 2)


def l2_loss(x, y):
    return judged(x, y, l2=1 / 4)


NAMES = ("l1", "l2", "lpips", "patches", "gram")


@pytest.fixture(scope="module")
def losses(squeezenet_file):
    """Name -> loss of output, target and seeds."""
    features = load_features("squeeze", squeezenet_file)
    lpips = Criterion(LossConfig(lpips=1.0, net="squeeze", backbone=squeezenet_file))
    return {
        "l1": lambda x, y, seeds=(1, 2): l1_loss(x, y),
        "l2": lambda x, y, seeds=(1, 2): l2_loss(x, y),
        "lpips": lambda x, y, seeds=(1, 2): lpips(x, x, y, seeds, step=1)[0],
        "patches": lambda x, y, seeds=(1, 2): patch_loss(x, y, features, seeds, patches=1, sides=(32, 64)),
        "gram": lambda x, y, seeds=(1, 2): gram_loss(x, y, toy_features, seeds, weights=(1.0, 1.0)),
    }


# --- what all have in common ---


@pytest.mark.parametrize("name", NAMES)
def test_equal_images_cost_nothing_and_others_something(losses, name):
    x, y = images(), images(seed=1)
    assert losses[name](y.clone(), y).item() == pytest.approx(0, abs=1e-10)
    assert losses[name](x, y) > 1e-4


@pytest.mark.parametrize("name", [*NAMES, "preserve", "temporal"])
def test_shapes_that_would_broadcast_are_refused(squeezenet_file, name):
    criterion = Criterion(LossConfig(**{name: 1.0}, net="squeeze", backbone=squeezenet_file))
    both, one = images(2), images(1)
    for shown in ((both, both, one), (both, one, both), (one, both, both), [both[:, :1]] * 3):
        with pytest.raises(ValueError, match="one shape"):
            criterion(*shown, seeds=(1, 2), step=1)


@pytest.mark.parametrize(
    ("name", "small"), [("l1", 2e-4), ("l2", 1e-8), ("lpips", 4e-3), ("patches", 4e-3), ("gram", 1e-5)]
)
def test_a_blurred_image_optimised_directly_drives_the_loss_below_a_small_value(losses, name, small):
    target = images(height=48, width=48)
    blurred = resize(resize(target, 16, 16), 48, 48)
    sharp = descend(blurred, lambda x: losses[name](x, target), steps=150)
    assert losses[name](blurred, target) > 4 * small
    assert losses[name](sharp, target) < small


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_costs_the_mean_of_its_images(losses, name):
    """So that several processes together see the loss of one."""
    x, y = images(), images(seed=1)
    alone = [losses[name](x[i : i + 1], y[i : i + 1], [i + 1]).item() for i in range(2)]
    assert losses[name](x, y).item() == pytest.approx(sum(alone) / 2, rel=1e-4)


# --- pixels ---


def test_pixel_losses_are_means_over_everything():
    x, y = images(1, 3, 4), images(1, 3, 4, seed=1)
    differences = [(x[0, c, i, j] - y[0, c, i, j]).item() for c in range(3) for i in range(3) for j in range(4)]
    assert l1_loss(x, y).item() == pytest.approx(sum(map(abs, differences)) / 36, rel=1e-5)
    assert l2_loss(x, y).item() == pytest.approx(sum(d * d for d in differences) / 36, rel=1e-5)


# --- features ---


def test_patch_loss_agrees_with_a_slow_reference():
    x, y = images(), images(seed=1)
    expected = []
    for i, seed in enumerate((7, 8)):
        chance = random.Random(seed)
        for _ in range(3):
            side = chance.randint(8, 20)
            top, left = chance.randint(0, 32 - side), chance.randint(0, 40 - side)
            layers = []
            for a, b in zip(
                toy_features(x[i : i + 1, :, top : top + side, left : left + side]),
                toy_features(y[i : i + 1, :, top : top + side, left : left + side]),
                strict=True,
            ):
                distances = [
                    ((p / p.norm() - q / q.norm()) ** 2).sum().item()
                    for p, q in zip(a[0].flatten(1).T, b[0].flatten(1).T, strict=True)
                ]
                layers.append(sum(distances) / len(distances))
            expected.append(sum(layers) / len(layers))
    found = patch_loss(x, y, toy_features, [7, 8], patches=3, sides=(8, 20))
    assert found.item() == pytest.approx(sum(expected) / 6, rel=1e-4)


def test_patches_lie_at_the_same_place_in_output_and_target():
    """Each call's squares of output and target show the same place: colours tell where that is."""
    seen = []

    def recording(image):
        seen.append(image.detach())
        return [image]

    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    place = torch.stack([x, y, torch.ones_like(x)])[None]
    patch_loss(place, place.clone(), recording, [3], patches=8, sides=(8, 100))
    assert len(seen) == 16
    assert all(torch.equal(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True))
    sides = {patch.shape[-1] for patch in seen}
    assert all(patch.shape[-1] == patch.shape[-2] for patch in seen)
    assert len(sides) > 3
    assert 8 <= min(sides) <= max(sides) <= 40
    assert len({patch[0, :2, 0, 0].tolist().__str__() for patch in seen}) > 3


def test_feature_distance_does_not_depend_on_the_scale_of_activations():
    a, b = images(1), images(1, seed=1)
    assert feature_distance(100 * a, 0.3 * b).item() == pytest.approx(feature_distance(a, b).item(), rel=1e-4)
    assert torch.isfinite(feature_distance(torch.zeros_like(a), b))


def test_there_is_one_seed_for_each_image():
    with pytest.raises(ValueError, match="zip"):
        patch_loss(images(), images(), toy_features, [1])
    with pytest.raises(ValueError, match="zip"):
        gram_loss(images(), images(), toy_features, [1], weights=(1.0, 1.0))


def test_squares_cover_the_image_and_stay_inside():
    chance = random.Random(0)
    squares = [random_square(10, 14, 6, chance) for _ in range(400)]
    assert {(rows.start, columns.start) for rows, columns in squares} == {(i, j) for i in range(5) for j in range(9)}
    assert all(side.stop - side.start == 6 for square in squares for side in square)
    assert random_square(10, 14, 400, chance) == (slice(0, 10), slice(0, 14))


# --- gram ---


def test_gram_loss_agrees_with_a_slow_reference():
    x, y, weights = images(), images(seed=1), (0.5, 2.0)
    total = 0.0
    for i, seed in enumerate((4, 5)):
        chance = random.Random(seed)
        top, left = chance.randint(0, 32 - 12), chance.randint(0, 40 - 12)
        layers = [toy_features(image[i : i + 1, :, top : top + 12, left : left + 12]) for image in (x, y)]
        for weight, a, b in zip(weights, *layers, strict=True):
            _, channels, height, width = a.shape
            for p in range(channels):
                for q in range(channels):
                    g = [(f[0, p] * f[0, q]).sum().item() / (channels * height * width) for f in (a, b)]
                    total += weight * (g[0] - g[1]) ** 2 / 2
    found = gram_loss(x, y, toy_features, [4, 5], side=12, weights=weights)
    assert found.item() == pytest.approx(total, rel=1e-3)


def test_gram_matrices_do_not_tell_where_things_are():
    x = images(1)
    shuffled = x.flatten(2)[..., torch.randperm(x[0, 0].numel())].view_as(x)
    torch.testing.assert_close(gram_matrix(x), gram_matrix(shuffled))


def test_each_image_has_its_own_gram_matrix():
    """Swapping two images of a batch is not free, as it would be with one matrix for the batch."""
    x = images()
    assert gram_loss(x.flip(0), x, toy_features, [1, 1], weights=(1.0, 1.0)) > 1e-6


def test_vgg_weights_are_the_papers():
    assert [round(1 / w, 2) for w in VGG16_WEIGHTS] == [2.6, 4.8, 3.7, 5.6, 0.15]


def test_gram_matrices_are_exact_under_autocast():
    x = 30 * images(1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert gram_matrix(x).dtype == torch.float32
        torch.testing.assert_close(gram_matrix(x), gram_matrix(x.double()).float(), rtol=1e-5, atol=0)


# --- temporal ---


def shifting_clip(frames=4, step=3, height=24, width=40):
    """A picture that moves ``step`` pixels to the left in each frame, and the flow back to the frame before."""
    wide = images(1, height, width + step * frames)
    clip = [wide[..., i * step : i * step + width] for i in range(frames)]
    offset = torch.zeros(1, 2, height, width)
    offset[:, 0] = step
    valid = torch.zeros(1, 1, height, width, dtype=torch.bool)
    valid[..., : width - step] = True
    return clip, Flow(offset, valid)


def test_warp_loss_agrees_with_a_slow_reference():
    output, previous = images(), images(seed=1)
    generator = torch.Generator().manual_seed(2)
    offset = torch.randint(-3, 4, (2, 2, 32, 40), generator=generator).float()
    valid = torch.rand(2, 1, 32, 40, generator=generator) < 0.5
    losses = []
    for n in range(2):
        errors = []
        for i in range(32):
            for j in range(40):
                if valid[n, 0, i, j]:
                    u, v = (j + int(offset[n, 0, i, j])), (i + int(offset[n, 1, i, j]))
                    there = previous[n, :, min(max(v, 0), 31), min(max(u, 0), 39)]
                    errors.append((output[n, :, i, j] - there).square().mean().item())
        losses.append(sum(errors) / len(errors))
    assert warp_loss(output, previous, Flow(offset, valid)).item() == pytest.approx(sum(losses) / 2, rel=1e-4)


def test_a_moving_clip_that_is_steady_costs_nothing_and_flicker_does():
    clip, motion = shifting_clip()
    assert warp_loss(clip[1], clip[0], motion).item() < 1e-10
    assert warp_loss(clip[1] + 0.1, clip[0], motion).item() == pytest.approx(0.01, rel=1e-3)
    still = Flow(torch.zeros_like(motion.offset), motion.valid)
    assert warp_loss(clip[1], clip[0], still) > 1e-3


def test_without_valid_pixels_there_is_no_loss_and_no_nan():
    clip, motion = shifting_clip()
    output = clip[1].clone().requires_grad_()
    loss = warp_loss(output, clip[0], Flow(motion.offset, torch.zeros_like(motion.valid)))
    loss.backward()
    assert loss == 0
    assert output.grad.abs().max() == 0


def test_a_clip_optimised_directly_becomes_right_and_steady():
    """From flickering frames: the temporal loss falls below 1e-6 while the frames reach their targets."""
    clip, motion = shifting_clip()
    targets = torch.cat(clip)
    noise = torch.randn(targets.shape, generator=torch.Generator().manual_seed(5))

    def temporal(frames):
        return sum(warp_loss(frames[t : t + 1], frames[t - 1 : t], motion) for t in (1, 2, 3)) / 3

    start = targets + 0.2 * noise
    frames = descend(start, lambda x: l2_loss(x, targets) + temporal(x), steps=200)
    assert temporal(start).item() > 1e-2
    assert temporal(frames).item() < 1e-6
    assert l2_loss(frames, targets).item() < 1e-6


def single_view(target, depth=0.0, x=0.0):
    """A batch of one, seen by a camera at ``x`` with focal length 20; without a depth nothing is known of it."""
    pose = torch.eye(4)[None]
    pose[0, 0, 3] = x
    K = torch.tensor([[[20.0, 0, 20], [0, 20, 12], [0, 0, 1]]])
    return PairBatch(("a",), (0,), target, target, torch.full_like(target[:, :1], depth), pose, K)


def test_true_motion_is_exact_where_depth_is_known():
    clip, expected = shifting_clip(step=3)
    motion = true_motion(single_view(clip[1], 2.0, x=0.3), single_view(clip[0], 2.0, x=0.0))  # 20 * 0.3 / 2 = 3 pixels
    assert torch.equal(motion.valid, expected.valid)
    torch.testing.assert_close(motion.offset * motion.valid, expected.offset * motion.valid)
    assert warp_loss(clip[1], clip[0], motion).item() < 1e-8


def test_true_motion_without_depth_is_unknown_or_rafts(tmp_path):
    clip, _ = shifting_clip()
    assert not true_motion(single_view(clip[1]), single_view(clip[0])).valid.any()
    torch.manual_seed(0)
    torch.save(raft_small(weights=None).state_dict(), tmp_path / "raft.pth")
    raft = load_raft("small", tmp_path / "raft.pth")
    estimated = raft_flow(raft, clip[1], clip[0])
    assert estimated.valid.any()
    found = true_motion(single_view(clip[1]), single_view(clip[0]), raft)
    assert torch.equal(found.offset, estimated.offset)
    mixed = true_motion(
        collate([single_view(clip[1], 2.0, x=0.3), single_view(clip[1])]),
        collate([single_view(clip[0], 2.0), single_view(clip[0])]),
        raft,
    )
    assert mixed.offset[0, 0, 5, 5].item() == pytest.approx(3, abs=1e-4)
    torch.testing.assert_close(mixed.offset[1], estimated.offset[0])


# --- preservation ---


def test_preservation_agrees_with_a_slow_reference():
    target = images(1, 12, 14)
    image, output = target.clone(), images(1, 12, 14, seed=1)
    image[..., 7:] += 0.06 * torch.rand(1, 3, 12, 7, generator=torch.Generator().manual_seed(3))
    total, clean = 0.0, torch.zeros(12, 14, dtype=torch.bool)
    for i in range(12):
        for j in range(14):
            window = (slice(max(i - 3, 0), i + 4), slice(max(j - 3, 0), j + 4))
            clean[i, j] = (image - target)[0][:, window[0], window[1]].abs().mean() <= 0.02
            for c in range(3):
                moved = (output - image)[0, c, i, j].abs().item()
                total += clean[i, j].item() * max(0.0, moved - (target - image)[0, c, i, j].abs().item())
    assert 20 < clean.sum() < 150
    assert torch.equal(clean_pixels(image, target)[0, 0], clean)
    assert preservation_loss(output, image, target).item() == pytest.approx(total / (3 * 12 * 14), rel=1e-4)


def test_neither_the_input_nor_the_target_cost_anything():
    target = images()
    image = target + 0.01
    assert preservation_loss(image, image, target) == 0
    assert preservation_loss(target, image, target).item() < 1e-7


def test_blurring_a_clean_input_costs_far_more_than_l2_sees():
    target = images()
    blurred = resize(resize(target, 16, 20), 32, 40)
    assert preservation_loss(blurred, target, target) > 5 * l2_loss(blurred, target)


def test_damaged_parts_may_change_freely():
    target = images()
    image = (target + 0.5 * images(seed=4)).clamp(0, 1)
    assert preservation_loss(images(seed=5), image, target) == 0


def test_errors_that_cross_zero_are_not_clean():
    """Stripes of +-0.2 around the target: every few pixels the error is 0, none of them is right."""
    target = torch.full((1, 3, 16, 32), 0.5)
    stripes = 0.2 * torch.sin(torch.arange(32) * math.pi / 4)
    assert not clean_pixels(target + stripes, target).any()


def test_a_blurred_output_optimised_directly_returns_to_the_clean_input():
    target = images()
    blurred = resize(resize(target, 16, 20), 32, 40)
    x = descend(blurred, lambda x: preservation_loss(x, target, target), steps=100, rate=0.01)
    assert preservation_loss(blurred, target, target).item() > 0.02
    assert preservation_loss(x, target, target).item() < 1e-3
