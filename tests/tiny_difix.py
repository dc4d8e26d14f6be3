# SPDX-License-Identifier: Apache-2.0
"""A small random Difix folder in the Hub layout, written with diffusers, transformers and safetensors alone."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = json.loads((Path(__file__).parent.parent / "configs" / "difix-tiny.json").read_text())
RANK = 4
TARGETS = ("conv1", "conv2", "conv_in", "conv_shortcut", "conv", "conv_out", "to_k", "to_q", "to_v", "to_out.0")


def write_tiny_difix(folder: Path, seed: int = 0) -> Path:
    """Random weights, the VAE's adapters unmerged as in the released folders; returns the folder."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    UNet2DConditionModel(**CONFIG["unet"]).save_pretrained(folder / "unet")
    write_vae(folder / "vae")
    write_text_encoder(folder)
    DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    index = {
        "_class_name": "DifixPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["autoencoder_kl", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def unmerged_network(folder: Path) -> torch.nn.Module:
    """The network of such a folder with its adapters beside the weights, as training has it."""
    from safetensors.torch import load_file

    from harmonizer_ns.enhancers.difix import DifixEnhancer
    from harmonizer_ns.enhancers.lora import VAE_ADAPTER, VAE_DECODER, add_adapters

    network = DifixEnhancer.from_pretrained(folder).network
    add_adapters(network.vae, VAE_DECODER, RANK, VAE_ADAPTER, scope="decoder")
    network.vae.requires_grad_(True)
    network.vae.load_state_dict(load_file(folder / "vae" / "diffusion_pytorch_model.safetensors"))
    return network


def write_vae(folder: Path) -> None:
    """An autoencoder with skip convolutions; adapters on all layers of the decoder but the normalisations."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(**CONFIG["vae"])
    vae.save_pretrained(folder)
    channels = CONFIG["vae"]["block_out_channels"]
    state = dict(vae.state_dict())
    inputs = [channels[0], *channels[:-1]][::-1]  # of the encoder's down blocks, the last first
    outputs = [channels[-1], *channels[:0:-1]]  # of the decoder's up blocks
    for i, (down, up) in enumerate(zip(inputs, outputs, strict=True), start=1):
        state[f"decoder.skip_conv_{i}.weight"] = 0.2 * torch.randn(up, down, 1, 1)
    for name in [n for n in state if n.startswith("decoder.") and n.endswith(".weight")]:
        layer = name.removesuffix(".weight")
        if layer.endswith(TARGETS) or "skip_conv" in layer:
            _add_adapter(state, layer)
    save_file(state, folder / "diffusion_pytorch_model.safetensors")


def _add_adapter(state: dict[str, torch.Tensor], layer: str) -> None:
    for part in ("weight", "bias"):
        if f"{layer}.{part}" in state:
            state[f"{layer}.base_layer.{part}"] = state.pop(f"{layer}.{part}")
    out, into, *kernel = state[f"{layer}.base_layer.weight"].shape
    state[f"{layer}.lora_A.vae_skip.weight"] = 0.1 * torch.randn(RANK, into, *kernel)
    state[f"{layer}.lora_B.vae_skip.weight"] = 0.1 * torch.randn(out, RANK, *[1 for _ in kernel])


def write_text_encoder(folder: Path) -> None:
    """A text encoder of two layers and a tokenizer that knows letters and little else."""
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "re</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\nr e</w>\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CONFIG["prompt_tokens"]}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    width = CONFIG["unet"]["cross_attention_dim"]
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONFIG["prompt_tokens"],
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    config.save_pretrained(folder / "text_encoder")
    state = CLIPTextModel(config).state_dict()
    prefixed = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
    save_file(prefixed, folder / "text_encoder" / "model.safetensors")


def write_tiny_decoder(folder: Path, **config: Any) -> torch.nn.Module:
    """A small random ``AutoencoderTiny`` in a folder, as diffusers writes it; returns the model."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    blocks = {"num_decoder_blocks": (1, 1, 1, 1), "num_encoder_blocks": (1, 1, 1, 1)}
    tiny = AutoencoderTiny(**channels, **blocks, **config).eval()
    tiny.save_pretrained(folder)
    return tiny
