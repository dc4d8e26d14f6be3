# SPDX-License-Identifier: Apache-2.0
"""Difix written out from its formulas: one view at a time, every layer by hand, with plain diffusers modules.

Nothing here comes from the project's own code.
"""

import math
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


class Reference:
    """The network of a folder in the Hub's layout."""

    def __init__(self, folder: Path) -> None:
        self.unet = UNet2DConditionModel.from_pretrained(folder / "unet").eval()
        self.vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")).eval()
        weights = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        merged = {name.replace(".base_layer", ""): w for name, w in weights.items() if ".lora_" not in name}
        for name, down in weights.items():
            if ".lora_A." in name:
                layer, up = name.partition(".lora_A.")[0], weights[name.replace(".lora_A.", ".lora_B.")]
                rank = down.shape[0]
                change = torch.einsum("or,r...->o...", up.reshape(-1, rank), down)
                merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + 8 / rank * change
        self.skips = [merged.pop(f"decoder.skip_conv_{i}.weight") for i in (1, 2, 3, 4)]
        self.vae.load_state_dict(merged, strict=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
        tokens = tokenizer("remove degradation", max_length=24, padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            self.text = encoder(tokens)[0]
        betas = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000, dtype=torch.float64) ** 2
        self.alphas = torch.cumprod(1 - betas, dim=0).tolist()

    @torch.no_grad()
    def __call__(self, image: Tensor, references: Tensor, time: int = 199) -> Tensor:
        """``3 h w`` in [-1, 1] and ``r 3 h w`` -> ``3 h w``."""
        scale = self.vae.config.scaling_factor
        encoded = [self.encode(view[None]) for view in (image, *references)]
        z = torch.cat([latent for latent, _ in encoded]) * scale
        a = self.alphas[time]
        x0 = (z - math.sqrt(1 - a) * self.noise(z, time)) / math.sqrt(a)
        return self.decode(x0[:1] / scale, encoded[0][1])[0]

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        encoder, seen = self.vae.encoder, []
        x = encoder.conv_in(x)
        for block in encoder.down_blocks:
            seen.append(x)
            x = block(x)
        x = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(x))))
        mean, _ = self.vae.quant_conv(x).chunk(2, dim=1)
        return mean, seen

    def decode(self, z: Tensor, seen: list[Tensor]) -> Tensor:
        decoder = self.vae.decoder
        x = decoder.mid_block(decoder.conv_in(self.vae.post_quant_conv(z)))
        for i, block in enumerate(decoder.up_blocks):
            x = x + torch.nn.functional.conv2d(seen[3 - i], self.skips[i])
            x = block(x)
        return decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))

    def noise(self, z: Tensor, time: int) -> Tensor:
        """The UNet, layer by layer; ``z`` holds the view and its references."""
        unet = self.unet
        times = torch.full((len(z),), time)
        embedding = unet.time_embedding(unet.time_proj(times).float())
        x = unet.conv_in(z)
        kept = [x]
        for block in unet.down_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(x, embedding)
                if hasattr(block, "attentions"):
                    x = self.mix(block.attentions[i], x)
                kept.append(x)
            for downsampler in block.downsamplers or []:
                x = downsampler(x)
                kept.append(x)
        middle = unet.mid_block
        x = middle.resnets[1](self.mix(middle.attentions[0], middle.resnets[0](x, embedding)), embedding)
        for block in unet.up_blocks:
            for i, resnet in enumerate(block.resnets):
                x = resnet(torch.cat([x, kept.pop()], dim=1), embedding)
                if hasattr(block, "attentions"):
                    x = self.mix(block.attentions[i], x)
            for upsampler in block.upsamplers or []:
                x = upsampler(x, kept[-1].shape[-2:])
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))

    def mix(self, transformer: torch.nn.Module, x: Tensor) -> Tensor:
        """A spatial transformer in which the tokens of all views attend to each other."""
        views, channels, height, width = x.shape
        tokens = transformer.proj_in(transformer.norm(x).permute(0, 2, 3, 1).reshape(views, -1, channels))
        for block in transformer.transformer_blocks:
            joint = tokens.reshape(1, -1, channels)
            joint = attend(block.attn1, block.norm1(joint), block.norm1(joint)) + joint
            tokens = joint.reshape(views, -1, channels)
            text = self.text.expand(views, -1, -1)
            tokens = attend(block.attn2, block.norm2(tokens), text) + tokens
            tokens = block.ff(block.norm3(tokens)) + tokens
        return transformer.proj_out(tokens).reshape(views, height, width, channels).permute(0, 3, 1, 2) + x


def attend(layer: torch.nn.Module, to: Tensor, source: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for every head."""
    q, k, v = (
        project(tokens).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
        for project, tokens in ((layer.to_q, to), (layer.to_k, source), (layer.to_v, source))
    )
    attention = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return layer.to_out[0]((attention @ v).transpose(1, 2).flatten(2))
