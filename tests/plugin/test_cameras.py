# SPDX-License-Identifier: Apache-2.0
import torch
from toy import arc_cameras

from harmonizer_ns.plugin.cameras import from_nerfstudio, is_pinhole, to_nerfstudio
from harmonizer_ns.plugin.renderer import ray_lengths
from harmonizer_ns.warp import backproject


def test_cameras_survive_the_round_trip():
    cameras = arc_cameras(3, 20, 14)
    back = from_nerfstudio(to_nerfstudio(cameras))
    torch.testing.assert_close(back.camera_to_world, cameras.camera_to_world)
    torch.testing.assert_close(back.intrinsics, cameras.intrinsics)
    assert (back.width, back.height) == (20, 14)
    assert is_pinhole(to_nerfstudio(cameras))


def test_rays_agree_with_nerfstudio():
    camera = arc_cameras(1, 20, 14)
    bundle = to_nerfstudio(camera).generate_rays(camera_indices=0, keep_shape=True)
    points = backproject(torch.ones(1, 1, 14, 20), camera)[0]
    lengths = ray_lengths(camera)[0, 0, ..., None]
    torch.testing.assert_close(bundle.origins + bundle.directions * lengths, points, atol=1e-5, rtol=1e-5)


def test_distortion_is_noticed():
    cameras = to_nerfstudio(arc_cameras(2, 20, 14))
    cameras.distortion_params = torch.tensor([[0.1, 0, 0, 0, 0, 0]]).expand(2, 6)
    assert not is_pinhole(cameras)
