# SPDX-License-Identifier: Apache-2.0
import torch
from toy import arc_cameras, gaussian_scene

from harmonizer_ns.enhancers.base import Context, Repaired
from harmonizer_ns.enhancers.consensus import ConsensusEnhancer, consensus_depth, photo_consensus, splat_depth
from harmonizer_ns.enhancers.identity import IdentityEnhancer
from harmonizer_ns.raster import rasterization
from harmonizer_ns.types import Frames


def render(cameras, scene=None):
    image, alpha, _ = rasterization(
        **(scene or gaussian_scene()),
        viewmats=cameras.world_to_camera,
        Ks=cameras.intrinsics,
        width=cameras.width,
        height=cameras.height,
        packed=False,
        render_mode="RGB+ED",
    )
    image, alpha = image.permute(0, 3, 1, 2), alpha.permute(0, 3, 1, 2)
    return Frames(image[:, :3].clamp(0, 1), alpha, image[:, 3:] * (alpha > 1e-3), cameras)


def with_floater(frames):
    """A grey patch close to the camera that only this view shows."""
    rgb, depth = frames.rgb.clone(), frames.depth.clone()
    rgb[..., 16:28, 24:40], depth[..., 16:28, 24:40] = 0.5, 0.8
    return Frames(rgb, frames.alpha, depth, frames.cameras)


cameras = arc_cameras(5, 64, 48, span=0.3)
photos, truth = render(cameras[[1, 3, 4]]), render(cameras[2])
FLOATER = (..., slice(16, 28), slice(24, 40))


def test_own_depth_splats_onto_itself():
    depth = splat_depth(truth, truth.cameras)
    torch.testing.assert_close(depth, truth.depth, atol=1e-4, rtol=1e-4)


def test_a_floater_is_seen_through_and_the_rest_keeps_its_depth():
    broken = with_floater(truth)
    depth = consensus_depth(broken, photos)
    inside = (depth[FLOATER] - truth.depth[FLOATER]).abs() < 0.05 * truth.depth[FLOATER]
    assert inside.float().mean() > 0.6
    assert (depth == truth.depth).float().mean() > 0.5


def test_consensus_repairs_the_floater_and_trusts_it():
    broken = with_floater(truth)
    agreed = photo_consensus(broken, photos)
    weight = agreed.confidence[FLOATER]
    error = ((agreed.rgb - truth.rgb).abs().mean(1, keepdim=True)[FLOATER] * weight).sum() / weight.sum()
    before = (broken.rgb - truth.rgb).abs().mean(1, keepdim=True)[FLOATER].mean()
    assert weight.mean() > 0.3
    assert error < 0.4 * before


def test_disagreeing_photos_are_not_trusted():
    rgb = photos.rgb.clone()
    rgb[0] = 1 - rgb[0]
    disagreeing = Frames(rgb, photos.alpha, photos.depth, photos.cameras)
    assert (
        photo_consensus(truth, disagreeing).confidence.mean() < 0.5 * photo_consensus(truth, photos).confidence.mean()
    )


def test_without_photos_an_unchanged_render_teaches_nothing():
    result = ConsensusEnhancer(IdentityEnhancer()).enhance(truth)
    assert torch.equal(result.rgb, truth.rgb)
    assert result.confidence.max() == 0


class Repainter:
    max_references = 0

    def enhance(self, frames, context=Context()):
        return Repaired(1 - frames.rgb, torch.full_like(frames.alpha, 0.7))


def test_without_photos_the_inner_repair_counts():
    result = ConsensusEnhancer(Repainter()).enhance(truth)
    assert torch.equal(result.rgb, 1 - truth.rgb)
    assert result.confidence.max() <= 0.7
    assert result.confidence.mean() > 0.5


def test_one_photo_counts_half_at_most():
    result = ConsensusEnhancer(IdentityEnhancer()).enhance(truth, Context(references=(photos[0],)))
    assert result.confidence.max() <= 0.5
