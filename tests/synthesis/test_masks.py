# SPDX-License-Identifier: Apache-2.0
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harmonizer_ns.errors import InputError
from harmonizer_ns.images import to_float, to_uint8
from harmonizer_ns.synthesis.streams import segmenters
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.boxes import project_box, read_boxes
from harmonizer_ns.synthesis.streams.grabcut import object_mask
from harmonizer_ns.synthesis.streams.masks import MaskConfig, feather, foreground
from harmonizer_ns.types import Cameras

WIDTH, HEIGHT = 96, 64


@pytest.fixture
def cameras() -> Cameras:
    """Three cameras side by side that look along z."""
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, 0, 3] = torch.tensor([-0.2, 0.0, 0.2])
    intrinsics = torch.tensor([[80.0, 0, WIDTH / 2], [0, 80.0, HEIGHT / 2], [0, 0, 1]]).repeat(3, 1, 1)
    return Cameras(poses, intrinsics, WIDTH, HEIGHT)


def moving_disc(radius: int = 13) -> tuple[torch.Tensor, torch.Tensor]:
    """A mottled orange disc that moves 3 pixels a frame over mottled blue; frames and true masks."""
    generator = torch.Generator().manual_seed(0)
    back = torch.tensor([0.2, 0.3, 0.6])[:, None, None] + 0.08 * torch.randn(3, HEIGHT, WIDTH, generator=generator)
    disc = torch.tensor([0.9, 0.5, 0.1])[:, None, None] + 0.08 * torch.randn(3, HEIGHT, WIDTH, generator=generator)
    ys, xs = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    masks = torch.stack([(xs - 40 - 3 * i) ** 2 + (ys - 36) ** 2 < radius**2 for i in range(3)])[:, None]
    frames = torch.stack([torch.where(masks[i], disc.roll(3 * i, 2), back) for i in range(3)])
    return to_float(to_uint8(frames)), masks


def clip_in(folder: Path, cameras: Cameras | None = None) -> Clip:
    return Clip(tuple(folder / "images" / f"{i}.jpg" for i in range(3)), moving_disc()[0], cameras)


def write_masks(folder: Path, masks: torch.Tensor) -> None:
    folder.mkdir(parents=True)
    for i, mask in enumerate(masks):
        Image.fromarray((mask[0].numpy() * 7).astype(np.uint8)).save(folder / f"{i}.png")


def test_an_object_is_found_and_followed(tmp_path):
    truth = moving_disc()[1]
    mask = foreground(clip_in(tmp_path), MaskConfig(), 3) > 0
    for found, true in zip(mask, truth, strict=True):
        assert (found & true).sum() / (found | true).sum() > 0.85
    assert torch.equal(mask, foreground(clip_in(tmp_path), MaskConfig(), 3) > 0)


def test_masks_follow_larger_frames_too():
    frames, truth = (torch.nn.functional.interpolate(x.float(), scale_factor=5) for x in moving_disc())
    found, true = object_mask(frames, (0.03, 0.4), 3), truth > 0
    assert (found & true).sum() / (found | true).sum() > 0.85


def test_nothing_to_be_found_is_said(tmp_path):
    with pytest.raises(InputError, match=r"no object that covers 90% to 95% .* mask's share"):
        foreground(clip_in(tmp_path), MaskConfig(share=(0.9, 0.95)), 0)


def test_masks_from_files_in_the_scenes_folder(tmp_path):
    masks = moving_disc()[1]
    write_masks(tmp_path / "mine", masks)
    assert torch.equal(foreground(clip_in(tmp_path), MaskConfig("files", "mine"), 0) > 0, masks)


def test_missing_and_empty_masks_are_named(tmp_path):
    with pytest.raises(InputError, match=r"masks/0\.png"):
        foreground(clip_in(tmp_path), MaskConfig("files"), 0)
    write_masks(tmp_path / "masks", torch.zeros(3, 1, HEIGHT, WIDTH, dtype=torch.bool))
    with pytest.raises(InputError, match=r"0\.jpg .files masks. is empty"):
        foreground(clip_in(tmp_path), MaskConfig("files"), 0)


@pytest.mark.parametrize("values", [{"share": (0.5, 0.2)}, {"share": (0.0, 0.2)}])
def test_bad_settings_are_refused(values):
    with pytest.raises(ValueError, match="mask"):
        MaskConfig(**values)


def test_feathering_stays_inside():
    mask = torch.zeros(1, 1, 30, 30)
    mask[..., 8:22, 8:22] = 1
    soft = feather(mask, 2)
    assert (soft[mask == 0] == 0).all()
    assert soft.max() == 1
    assert ((soft > 0) & (soft < 1)).any()
    assert torch.equal(feather(torch.ones(1, 1, 9, 9), 2), torch.ones(1, 1, 9, 9))
    assert torch.equal(feather(mask, 0), mask)


def box(path: Path, *boxes: dict) -> Path:
    path.write_text(json.dumps(boxes))
    return path


def inside_by_points(corners: np.ndarray, cameras: Cameras) -> torch.Tensor:
    """Slow reference: which pixels a dense sampling of the box's volume in front of the camera reaches."""
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, 60)] * 3, indexing="ij"), -1).reshape(-1, 3)
    axes = corners[[1, 2, 4]] - corners[0]
    points = torch.from_numpy(corners[0] + grid @ axes).float()
    masks = torch.zeros(len(cameras), 1, HEIGHT, WIDTH, dtype=torch.bool)
    for i in range(len(cameras)):
        local = points @ cameras.world_to_camera[i, :3, :3].T + cameras.world_to_camera[i, :3, 3]
        local = local[local[:, 2] > 0.02]
        pixels = local @ cameras.intrinsics[i].T
        x, y = (pixels[:, :2] / pixels[:, 2:]).floor().long().T
        seen = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
        masks[i, 0, y[seen], x[seen]] = True
    return masks


def test_a_projected_box_covers_its_volume(tmp_path, cameras):
    turned = {"center": [0.1, 0, 3], "size": [1, 0.6, 1.4], "rotation": [math.cos(0.3), 0.1, math.sin(0.3), 0]}
    (corners,) = read_boxes(box(tmp_path / "boxes.json", turned))
    mask, reference = project_box(corners, cameras), inside_by_points(corners, cameras)
    assert (mask & reference).sum() / (mask | reference).sum() > 0.93
    assert not (mask & ~reference).sum() > 0.07 * mask.sum()


def test_a_box_across_the_cameras_plane_is_cut(tmp_path, cameras):
    passing = {"center": [0.9, 0.3, 1], "size": [0.8, 0.4, 6]}
    (corners,) = read_boxes(box(tmp_path / "boxes.json", passing))
    mask, reference = project_box(corners, cameras), inside_by_points(corners, cameras)
    assert reference.any()
    assert not reference.all()
    assert (mask & reference).sum() / (mask | reference).sum() > 0.9


def test_quaternions_and_matrices_agree(tmp_path):
    angle = 0.7
    matrix = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    plain = {"center": [1, 2, 3], "size": [1, 2, 3]}
    quaternion = [math.cos(angle / 2), 0, math.sin(angle / 2), 0]
    a, b = read_boxes(box(tmp_path / "b.json", {**plain, "rotation": matrix}, {**plain, "rotation": quaternion}))
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_a_box_that_is_seen_is_chosen(tmp_path, cameras):
    seen, behind = ({"center": [0, 0, z], "size": [1, 1, 1]} for z in (3, -3))
    box(tmp_path / "boxes.json", behind, seen)
    masks = [foreground(clip_in(tmp_path, cameras), MaskConfig("boxes"), seed) for seed in range(4)]
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    box(tmp_path / "boxes.json", behind)
    with pytest.raises(InputError, match="none of the 1 boxes"):
        foreground(clip_in(tmp_path, cameras), MaskConfig("boxes"), 0)
    with pytest.raises(InputError, match=r"boxes need cameras: .*belongs to no capture"):
        foreground(clip_in(tmp_path), MaskConfig("boxes"), 0)


@pytest.mark.parametrize(
    "bad",
    [
        {"center": [0, 0, 1]},
        {"center": [0, 0, 1], "size": [1, 1, 0]},
        {"center": [0, 0, None], "size": [1, 1, 1]},
        {"center": [0, 0, 1], "size": [1, 1, 1], "rotation": [[1, 0, 0], [0, 1, 0], [0, 0, 2]]},
        3,
    ],
)
def test_bad_boxes_are_refused(tmp_path, bad):
    with pytest.raises(InputError, match=r"boxes\.json"):
        read_boxes(box(tmp_path / "boxes.json", bad))


@pytest.fixture(scope="module")
def sam(tmp_path_factory) -> str:
    """A SAM 2 of random weights."""
    from transformers import Sam2ImageProcessor, Sam2VideoConfig, Sam2VideoModel, Sam2VideoProcessor
    from transformers.models.sam2_video.video_processing_sam2_video import Sam2VideoVideoProcessor

    torch.manual_seed(0)
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 1, 1],
        "image_size": [64, 64],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }
    config = Sam2VideoConfig(
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 128,
        },
        prompt_encoder_config={"hidden_size": 128, "image_size": 64},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
        image_size=64,
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
        memory_fuser_num_layers=1,
    )
    folder = tmp_path_factory.mktemp("sam")
    size = {"height": 64, "width": 64}
    Sam2VideoModel(config).save_pretrained(folder)
    Sam2VideoProcessor(Sam2ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size)).save_pretrained(folder)
    return str(folder)


def test_sam_gives_a_mask_for_every_frame(tmp_path, cameras, sam, monkeypatch):
    shown = []
    track = segmenters.track
    monkeypatch.setattr(segmenters, "track", lambda *args: (shown.append(args[3:]), track(*args))[1])
    box(tmp_path / "boxes.json", {"center": [0, 0, 3], "size": [0.9, 0.9, 0.1]})
    masks = foreground(clip_in(tmp_path, cameras), MaskConfig("sam", sam), 0)
    assert masks.shape == (3, 1, HEIGHT, WIDTH)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}
    first, (left, top, right, bottom) = shown[0]
    mask = project_box(read_boxes(tmp_path / "boxes.json")[0], cameras)[0, 0]
    assert first == 0
    assert mask[int(top) : int(bottom), int(left) : int(right)].sum() == mask.sum()


def test_sam_looks_both_ways_from_where_the_object_is_shown(sam):
    processor, network = segmenters.load_model(sam, "sam2", "sam3")
    seen = []
    iterate = network.propagate_in_video_iterator

    def spy(*args, **options):
        for output in iterate(*args, **options):
            seen.append(output.frame_idx)
            yield output

    network.propagate_in_video_iterator = spy
    try:
        segmenters.track(processor, network, moving_disc()[0], 1, [5.0, 5.0, 20.0, 20.0])
    finally:
        del network.propagate_in_video_iterator
    assert set(seen) == {0, 1, 2}


def test_missing_and_other_models_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    clip = clip_in(tmp_path)
    with pytest.raises(InputError, match=r"nobody/sam-none .*give the folder"):
        foreground(clip, MaskConfig("sam", "nobody/sam-none"), 0)
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match=r"config\.json"):
        foreground(clip, MaskConfig("sam", str(tmp_path / "model")), 0)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="'bert'"):
        foreground(clip, MaskConfig("sam", str(tmp_path / "model")), 0)
    (tmp_path / "model" / "config.json").write_text('{"model_type": "sam2_video"}')
    with pytest.raises(InputError, match="cannot load Sam2VideoModel"):
        foreground(clip, MaskConfig("sam", str(tmp_path / "model")), 0)
