# SPDX-License-Identifier: Apache-2.0
"""The smallest good input of each kind is made here; each function fills a folder."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
import yaml
from PIL import Image

from gsplat_trainer.checkpoint import save_full
from gsplat_trainer.config import DefaultConfig
from gsplat_trainer.distributed import World
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.captures.frame import ORIGIN_FILE
from harmonizer_ns.distill.view_files import digest_of, write_view
from harmonizer_ns.enhancers.builtin.network import BuiltinNetwork
from harmonizer_ns.files import shipped, write_json
from harmonizer_ns.images import save_image
from harmonizer_ns.media import written_video
from harmonizer_ns.pairs import Pair, write_pairs
from harmonizer_ns.splats.files import SUFFIXES, write_splats
from harmonizer_ns.splats.model import seed_splats, to_splatfacto
from harmonizer_ns.stereo.geometry import photo_geometry
from harmonizer_ns.stereo.settings import StereoSettings
from harmonizer_ns.synthesis.scenes.cameras import Lens, look_at, polar
from harmonizer_ns.synthesis.scenes.seeds import SeedPoints
from harmonizer_ns.synthesis.scenes.writer import RenderedCapture, write_camera_path, write_capture
from harmonizer_ns.training.checkpoints import RunState, save_run

LENS = Lens(32, 24, 30.0)
_PIXELS = torch.arange(7 * 24 * 32).remainder(251).to(torch.uint8).view(7, 24, 32)
VIEW = f"{digest_of(_PIXELS)}.png"
POSES = look_at(polar(np.zeros(3), np.linspace(-30, 30, 4), 4.0, 0.5), np.zeros(3))
GSPLAT_STATE = "full_000007_rank0.safetensors"
GEOMETRY = "geometry.safetensors"
_NORMAL = {"layers_per_block": 1, "norm_num_groups": 4}
_UNET: dict[str, Any] = _NORMAL | {"sample_size": 8, "block_out_channels": [16, 32], "cross_attention_dim": 16}
_UNET |= {"attention_head_dim": [2, 4], "use_linear_projection": True}
_UNET |= {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
_UNET |= {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
_VAE: dict[str, Any] = _NORMAL | {"block_out_channels": [8, 8, 16, 16], "latent_channels": 4}
_VAE |= {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}


def capture(folder: Path) -> None:
    """Write a nerfstudio capture with photos of every sort, masks, lists, a camera path and a run's frame."""
    rng, size, photos = np.random.default_rng(0), (LENS.height, LENS.width), ("0.png", "1.jpg", "2.tif", "3.png")
    points = SeedPoints(rng.uniform(-1, 1, (20, 3)), rng.integers(0, 256, (20, 3), np.uint8), [[0, 1]] * 20)
    names, pictures = [f"images/{name}" for name in photos], rng.integers(0, 256, (4, *size, 3), np.uint8)
    write_capture(folder, RenderedCapture(list(pictures), POSES, LENS, points, names))
    Image.fromarray(rng.integers(0, 65536, size, np.uint16)).save(folder / names[2])
    (folder / "masks").mkdir()
    mask = np.full(size, 255, np.uint8)
    mask[:4] = 0
    for name in photos:
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    (folder / "train.txt").write_text("0.png\n1.jpg\nimages/2.tif\n")
    (folder / "test.txt").write_text("3.png\n")
    write_camera_path(folder / "camera_path.json", POSES, POSES, LENS, fps=24)
    frame = {"transform": POSES[0, :3].tolist(), "scale": 0.5}
    write_json(folder / "run" / "dataparser_transforms.json", frame, indent=None)
    write_json(folder / "run" / ORIGIN_FILE, {"origin": [500000.0, 5400000.0, 100.0]})


def geometry(folder: Path) -> None:
    """Write a capture, and what its photos give."""
    capture(folder)
    photo_geometry(load_capture(folder), folder, StereoSettings(matching="none"), say=lambda _: None)
    next((folder / "geometry").iterdir()).replace(folder / GEOMETRY)


def colmap(folder: Path) -> None:
    """Write a COLMAP capture through a lens with distortion, binary in ``binary`` and as text in ``text``."""
    options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=4)
    options.num_points3D, options.camera_model_id = 20, pycolmap.CameraModelId.OPENCV
    options.camera_width, options.camera_height = LENS.width, LENS.height
    options.camera_params = [LENS.focal, LENS.focal, LENS.width / 2, LENS.height / 2, 0.01, 0.0, 0.0, 0.0]
    pycolmap.set_random_seed(0)
    model = pycolmap.synthesize_dataset(options)
    for form, write in (("binary", model.write_binary), ("text", model.write_text)):
        for image in model.images.values():
            save_image(folder / form / "images" / image.name, torch.rand(3, LENS.height, LENS.width))
        sparse = folder / form / "sparse" / "0"
        sparse.mkdir(parents=True)
        write(str(sparse))


def splats(folder: Path) -> None:
    """Write the same splats in every format."""
    some = seed_splats(torch.rand(300, 3), torch.rand(300, 3), degree=1)
    for kind, suffix in SUFFIXES.items():
        write_splats(folder / f"splats{suffix}", some, kind)
    torch.save({"step": 7, "splats": some}, folder / "splats.pt")
    pipeline = {f"_model.gauss_params.{name}": value for name, value in to_splatfacto(some).items()}
    state = {"step": 7, "pipeline": pipeline, "optimizers": {}, "schedulers": {}, "scalers": {}}
    torch.save(state, folder / "splats.ckpt")


def enhancer(folder: Path) -> None:
    """Write an enhancer folder: a small built-in network."""
    BuiltinNetwork(4, 4, (4, 4, 4)).save(folder, {"licence": "none"})


def difix(folder: Path) -> None:
    """Write a pickle as Difix's training code does, and beside it the folder of its frozen parts, of a few weights."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    from harmonizer_ns.enhancers.difix.formats import write_checkpoint
    from harmonizer_ns.enhancers.difix.network import DifixNetwork
    from harmonizer_ns.enhancers.lora import VAE_ADAPTER, VAE_DECODER, add_adapters

    network = DifixNetwork.from_config({"unet": _UNET, "vae": _VAE, "prompt_tokens": 8})
    add_adapters(network.vae, VAE_DECODER, 2, VAE_ADAPTER, scope="decoder")
    write_checkpoint(network, folder / "model.pkl")
    base = folder / "base"
    UNet2DConditionModel(**_UNET).save_pretrained(base / "unet")
    AutoencoderKL(**_VAE).save_pretrained(base / "vae")
    DDPMScheduler().save_pretrained(base / "scheduler")
    words = {word: i for i, word in enumerate(["a", "a</w>", "<|startoftext|>", "<|endoftext|>"])}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"vocab_size": len(words), "bos_token_id": 2, "eos_token_id": 3, "max_position_embeddings": 8}
    CLIPTextModel(CLIPTextConfig(**sizes, **tokens)).save_pretrained(base / "text_encoder")
    write_json(base / "tokenizer" / "vocab.json", words)
    (base / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    write_json(base / "tokenizer" / "tokenizer_config.json", {"model_max_length": 8})
    index = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    write_json(base / "model_index.json", index)


def pairs(folder: Path) -> None:
    """Write a pairs file with references and cameras, and its images."""
    image, target, reference = (folder / f"{name}.png" for name in ("image", "target", "reference"))
    for file in (image, target, reference):
        save_image(file, torch.rand(3, LENS.height, LENS.width))
    pair = Pair("a", image, target, (reference,), cameras=LENS.cameras(POSES[:2], torch.float32))
    write_pairs(folder / "pairs.json", [pair, replace(pair, name="b", clip="c", frame=1)], [replace(pair, name="d")])


def nerfstudio_run(folder: Path) -> None:
    """Write the config.yml of a run of our method."""
    from harmonizer_ns.plugin.method import harmonize_tiny

    (folder / "config.yml").write_text(yaml.dump(harmonize_tiny.config), encoding="utf-8")


def gsplat_run(folder: Path) -> None:
    """Write what gsplat_trainer goes on from, and its capture."""
    (folder / "capture").mkdir()
    capture(folder / "capture")
    save_full(folder / GSPLAT_STATE, {**gsplat_trainer(folder).state_dict(), "step": 7})


def pseudo_view(folder: Path) -> None:
    """Write a pseudo-view."""
    write_view(folder / VIEW, _PIXELS)


@cache
def gsplat_trainer(folder: Path) -> Trainer:
    """Set up a run of gsplat_trainer on the capture in a folder."""
    config = DefaultConfig(result_dir=folder / "result", sh_degree=1, enhancer="none", seeds="capture", max_steps=8)
    return Trainer(config, load_capture(folder / "capture"), torch.device("cpu"), World())


def training_run(folder: Path) -> None:
    """Write a checkpoint of an enhancer's training."""
    runs = folder.parent / f"{folder.name}.runs"
    save_run(runs, RunState(7, {"weights": {"a": torch.rand(4, 4)}}, {"scaler": {}, "skipped": 0}), keep=1)
    next(runs.glob("step-*")).replace(folder)


def recipe(folder: Path) -> None:
    """Copy a shipped recipe."""
    (folder / "recipe.yaml").write_bytes(shipped("recipes", ".yaml")["mix"].read_bytes())


def footage(folder: Path) -> None:
    """Write a folder of frames and a video."""
    with written_video(folder / "film.mp4", 24.0) as writer:
        for i in range(4):
            frame = torch.rand(3, LENS.height, LENS.width)
            writer.write(frame)
            save_image(folder / "frames" / f"{i}.png", frame)
