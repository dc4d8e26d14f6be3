# SPDX-License-Identifier: Apache-2.0
"""The smallest good input of each kind is made here; each function fills a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from harmonizer_ns.captures.frame import ORIGIN_FILE
from harmonizer_ns.files import shipped, write_json
from harmonizer_ns.images import save_image
from harmonizer_ns.pairs import Pair, write_pairs
from harmonizer_ns.splats.files import SUFFIXES, write_splats
from harmonizer_ns.splats.model import SPLATFACTO, seed_splats
from harmonizer_ns.synthesis.scenes.cameras import Lens, look_at, polar
from harmonizer_ns.synthesis.scenes.seeds import SeedPoints
from harmonizer_ns.synthesis.scenes.writer import RenderedCapture, write_camera_path, write_capture
from harmonizer_ns.training.checkpoints import RunState, save_run

PHOTOS = ("0.png", "1.jpg", "2.tif", "3.png")
LENS = Lens(32, 24, 30.0)
TINY_DIFIX = {
    "unet": {
        "sample_size": 8,
        "block_out_channels": [16, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
        "attention_head_dim": [2, 4],
        "cross_attention_dim": 16,
        "use_linear_projection": True,
        "norm_num_groups": 8,
    },
    "vae": {
        "block_out_channels": [8, 8, 16, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
    },
}
"""Architecture of a Difix of a few thousand weights."""


def make_capture(folder: Path) -> None:
    """Write a nerfstudio capture with photos of every sort, masks, lists, a camera path and a run's frame."""
    rng, poses = np.random.default_rng(0), _poses()
    photos = [rng.integers(0, 256, (LENS.height, LENS.width, 3), np.uint8) for _ in PHOTOS]
    names = [f"images/{name}" for name in PHOTOS]
    write_capture(folder, RenderedCapture(photos, poses, LENS, _points(), names))
    deep = rng.integers(0, 65536, (LENS.height, LENS.width), np.uint16)
    Image.fromarray(deep).save(folder / names[2])
    (folder / "masks").mkdir()
    for name in PHOTOS:
        mask = np.full((LENS.height, LENS.width), 255, np.uint8)
        mask[:4] = 0
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    (folder / "train.txt").write_text("0.png\n1.jpg\nimages/2.tif\n")
    (folder / "test.txt").write_text("3.png\n")
    write_camera_path(folder / "camera_path.json", poses, poses, LENS, fps=24)
    (folder / "run").mkdir()
    write_json(
        folder / "run" / "dataparser_transforms.json", {"transform": poses[0, :3].tolist(), "scale": 0.5}, indent=None
    )
    write_json(folder / "run" / ORIGIN_FILE, {"origin": [500000.0, 5400000.0, 100.0]})


def make_colmap(folder: Path) -> None:
    """Write a COLMAP capture through a lens with distortion, binary in ``binary`` and as text in ``text``."""
    import pycolmap

    points = _points()
    params = [LENS.focal, LENS.focal, LENS.width / 2, LENS.height / 2, 0.01, 0.0, 0.0, 0.0]
    camera = pycolmap.Camera(model="OPENCV", width=LENS.width, height=LENS.height, params=params, camera_id=1)
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera)
    for i, pose in enumerate(np.linalg.inv(_poses())):
        image = pycolmap.Image(name=f"{i}.png", camera_id=1, image_id=i + 1)
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array([1.0, 1.0])) for _ in range(3)])
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose[:3]))
        for form in ("binary", "text"):
            save_image(folder / form / "images" / image.name, torch.rand(3, LENS.height, LENS.width))
    for k, (position, color) in enumerate(zip(points.positions, points.colors, strict=True)):
        track = pycolmap.Track()
        for i in range(len(PHOTOS) if k < 3 else 0):
            track.add_element(i + 1, k)
        model.add_point3D(position, track, color)
    for form, write in (("binary", model.write_binary), ("text", model.write_text)):
        sparse = folder / form / "sparse" / "0"
        sparse.mkdir(parents=True)
        write(str(sparse))


def make_splats(folder: Path) -> None:
    """Write the same splats in every format."""
    splats = some_splats()
    for kind, suffix in SUFFIXES.items():
        write_splats(folder / f"splats{suffix}", splats, kind)
    torch.save({"step": 7, "splats": splats}, folder / "splats.pt")
    parameters = {theirs: splats[name] for name, theirs in SPLATFACTO.items()}
    parameters |= {"features_dc": splats["sh0"][:, 0], "opacities": splats["opacities"][:, None]}
    pipeline = {f"_model.gauss_params.{name}": value for name, value in parameters.items()}
    state = {"step": 7, "pipeline": pipeline, "optimizers": {}, "schedulers": {}, "scalers": {}}
    torch.save(state, folder / "splats.ckpt")


def make_enhancer(folder: Path) -> None:
    """Write an enhancer folder: a small built-in network."""
    from harmonizer_ns.enhancers.builtin.network import BuiltinNetwork

    BuiltinNetwork(4, 4, (4, 4, 4)).save(folder, {"licence": "none"})


def make_difix(folder: Path) -> None:
    """Write a pickle as Difix's training code does, and beside it the folder of its frozen parts."""
    from harmonizer_ns.enhancers.difix.formats import write_checkpoint
    from harmonizer_ns.enhancers.difix.network import DifixNetwork
    from harmonizer_ns.enhancers.lora import VAE_ADAPTER, VAE_DECODER, add_adapters

    network = DifixNetwork.from_config({**TINY_DIFIX, "prompt_tokens": 8})
    _write_frozen_parts(folder / "base")
    add_adapters(network.vae, VAE_DECODER, 2, VAE_ADAPTER, scope="decoder")
    write_checkpoint(network, folder / "model.pkl")


def _write_frozen_parts(folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    UNet2DConditionModel(**TINY_DIFIX["unet"]).save_pretrained(folder / "unet")
    AutoencoderKL(**TINY_DIFIX["vae"]).save_pretrained(folder / "vae")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    words = {word: i for i, word in enumerate(["a", "a</w>", "<|startoftext|>", "<|endoftext|>"])}
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    tokens: dict[str, Any] = {"bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 8}
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(words), num_attention_heads=2, **sizes, **tokens))
    encoder.save_pretrained(folder / "text_encoder")
    write_json(folder / "tokenizer" / "vocab.json", words)
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    write_json(folder / "tokenizer" / "tokenizer_config.json", {"model_max_length": 8})
    index = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"}
    write_json(folder / "model_index.json", {part: ["diffusers", name] for part, name in index.items()})


def make_pairs(folder: Path) -> None:
    """Write a pairs file with references and cameras, and its images."""
    for name in ("image", "target", "reference"):
        save_image(folder / f"{name}.png", torch.rand(3, LENS.height, LENS.width))
    cameras = LENS.cameras(_poses()[:2], torch.float32)
    pair = Pair("a", folder / "image.png", folder / "target.png", (folder / "reference.png",), cameras=cameras)
    write_pairs(folder / "pairs.json", [pair, replace(pair, name="b", clip="c", frame=1)], [replace(pair, name="d")])


def make_nerfstudio_run(folder: Path) -> None:
    """Write the config.yml of a run of our method."""
    import yaml

    from harmonizer_ns.plugin.method import harmonize_tiny

    (folder / "config.yml").write_text(yaml.dump(harmonize_tiny.config), encoding="utf-8")


def make_training_run(folder: Path) -> None:
    """Write a checkpoint of an enhancer's training."""
    save_run(folder, RunState(7, {"weights": {"a": torch.rand(4, 4)}}, {"scaler": {}, "skipped": 0}), keep=1)


def make_recipe(folder: Path) -> None:
    """Copy a shipped recipe."""
    (folder / "recipe.yaml").write_bytes(shipped("recipes", ".yaml")["mix"].read_bytes())


def make_footage(folder: Path) -> None:
    """Write a folder of frames and a video."""
    from harmonizer_ns.media import written_video

    with written_video(folder / "film.mp4", 24.0) as writer:
        for i in range(4):
            frame = torch.rand(3, LENS.height, LENS.width)
            writer.write(frame)
            save_image(folder / "frames" / f"{i}.png", frame)


def some_splats(count: int = 300, degree: int = 1) -> dict[str, torch.Tensor]:
    """Make splats at random places."""
    return seed_splats(torch.rand(count, 3), torch.rand(count, 3), degree)


def _poses() -> np.ndarray:
    azimuth = np.linspace(-30, 30, len(PHOTOS))
    return look_at(polar(np.zeros(3), azimuth, 4.0, 0.5), np.zeros(3))


def _points() -> SeedPoints:
    rng = np.random.default_rng(1)
    colors = rng.integers(0, 256, (20, 3), np.uint8)
    return SeedPoints(rng.uniform(-1, 1, (20, 3)), colors, [[0, 1]] * 20)
