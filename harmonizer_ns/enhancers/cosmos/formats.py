# SPDX-License-Identifier: Apache-2.0
"""Released Cosmos enhancers become our checkpoints, and run in their own graph to compare with.

A release is one pickle with ``state_dict_unet`` (Cosmos' own names below ``net.`` or ``dit.``, a moving average below
``net_ema.``), ``state_dict_vae`` (the names of Wan 2.1's autoencoder), optimizer and discriminator. Only tensors are
read from it: nothing in the file can run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.checkpoint import FILES, Checkpoint, differences, load_checkpoint, read_states
from harmonizer_ns.enhancers.cosmos.network import CosmosNetwork
from harmonizer_ns.enhancers.table import SPECS, EnhancerSpec, spec_of
from harmonizer_ns.errors import InputError
from harmonizer_ns.files import find_folder

LICENCE = SPECS["harmonizer"].licence

TRANSFORMER: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 20,
    "attention_head_dim": 64,
    "num_layers": 20,
    "mlp_ratio": 4.0,
    "text_embed_dim": 1024,
    "adaln_lora_dim": 256,
    "max_size": [128, 240, 240],
    "patch_size": [1, 2, 2],
    "rope_scale": [1.0, 4.0, 4.0],
    "concat_padding_mask": True,
    "extra_pos_embed_type": None,
}
"""Cosmos 2.0's text-to-image transformer of 0.6 billion parameters."""


def release_config(release: EnhancerSpec, file: str = "") -> dict[str, Any]:
    """A release's network, for `CosmosNetwork.from_config`; the autoencoder is diffusers' default, Wan 2.1's.

    Args:
        release: whose weights these are.
        file: name of the checkpoint; one that says "nontemporal" looks at no previous outputs.
    """
    context = 0 if "nontemporal" in file else release.max_context
    return {"max_context": context, "transformer": TRANSFORMER, "vae": {}}


_TRANSFORMER_NAMES = (
    (r"^time_embed\.t_embedder\.", "t_embedder.1."),
    (r"^time_embed\.norm\.", "t_embedding_norm."),
    (r"^patch_embed\.proj\.", "x_embedder.proj.1."),
    (r"^norm_out\.linear_", "final_layer.adaln_modulation."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^transformer_blocks\.", "blocks."),
    (r"\.norm1\.linear_", ".adaln_modulation_self_attn."),
    (r"\.norm2\.linear_", ".adaln_modulation_cross_attn."),
    (r"\.norm3\.linear_", ".adaln_modulation_mlp."),
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_out\.0\.", ".output_proj."),
    (r"\.to_([qkv])\.", r".\1_proj."),
    (r"\.norm_([qk])\.", r".\1_norm."),
    (r"\.ff\.net\.0\.proj\.", ".mlp.layer1."),
    (r"\.ff\.net\.2\.", ".mlp.layer2."),
)
_VAE_NAMES = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"coder\.conv_in\.", "coder.conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
    (r"\.norm1\.", ".residual.0."),
    (r"(\.middle\.\d+|samples\.\d+)\.conv1\.", r"\1.residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)
_NOT_WEIGHTS = re.compile(r"(^|\.)(_extra_state|accum_\w+|pos_embedder\.\w+)$")
_MOVING_AVERAGE = re.compile(r"(^|\.)\w+_ema\.")


def upstream_names(network: CosmosNetwork) -> dict[str, str]:
    """From the names of a network's weights to ``transformer.`` or ``vae.`` and the release's names, prefixes left out.

    The transformer's names are those of diffusers' converter for Cosmos 2.0, the autoencoder's of that for Wan 2.1.
    """
    per_level = network.vae.config["num_res_blocks"] + 2  # residual blocks, then an upsampling
    names = {}
    for name in network.state_dict():
        part, _, rest = name.partition(".")
        if part == "vae":
            rest = re.sub(
                r"\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.",
                lambda found: f".upsamples.{_flat_index(found, per_level)}.",
                rest,
            )
        for pattern, replacement in _TRANSFORMER_NAMES if part == "transformer" else _VAE_NAMES:
            rest = re.sub(pattern, replacement, rest)
        names[name] = f"{part}.{rest}"
    return names


def _flat_index(found: re.Match[str], per_level: int) -> int:
    """diffusers nests the decoder's layers in levels, Wan has them in one row."""
    level, kind, index = int(found[1]), found[2], int(found[3])
    return level * per_level + (index if kind == "resnets" else per_level - 1)


def read_checkpoint(source: str | Path, revision: str | None = None) -> Checkpoint:
    """One of our folders, here or on the Hub, or a release: its file, or its repository.

    Raises:
        InputError: on a folder or file that is not such a network, and when the Hub cannot be reached or has no such
            repository.
    """
    release = spec_of(str(source))
    if Path(source).is_file():
        path = Path(source)
        release = next((spec for spec in SPECS.values() if spec.file == path.name), SPECS["harmonizer"])
    elif release is not None:
        path = _download(release, revision)
    else:
        return load_checkpoint(find_folder(source, FILES, revision))
    return convert(read_states(path), release_config(release, path.name), str(source))[0]


def _download(release: EnhancerSpec, revision: str | None) -> Path:
    """The release's checkpoint file, from the Hub or from its cache."""
    folder = find_folder(release.repository, [release.file, f"**/{release.file}"], revision)
    found = next(folder.rglob(release.file), None)
    if found is None:
        raise InputError(f"{release.repository} on the Hugging Face Hub has no file {release.file}")
    return found


def convert(content: dict[str, Any], config: dict[str, Any], source: str) -> tuple[Checkpoint, list[str]]:
    """Turn the content of a release into our checkpoint; tensors keep their precision.

    Args:
        content: what `read_states` gives.
        config: the network's, as for `CosmosNetwork.from_config`.
        source: where the release came from, for the metadata.

    Returns:
        The checkpoint, and the names of what was not needed: moving averages, counters and buffers.

    Raises:
        InputError: naming every weight that is missing, unexpected or misshapen.
    """
    with torch.device("meta"):
        network = CosmosNetwork.from_config(config)
    found, ignored = _release_weights(content)
    names = upstream_names(network)
    wrong = differences({names[name]: tensor for name, tensor in network.state_dict().items()}, found)
    if wrong:
        raise InputError("\n".join([f"{source} does not fit the network.{_advice(wrong)}", *wrong]))
    weights = {name: found[upstream] for name, upstream in names.items()}
    metadata = {"licence": LICENCE, "source": source}
    return Checkpoint(network.architecture, network.config, weights, metadata), ignored


def _advice(wrong: list[str]) -> str:
    if any(line.startswith("unexpected") and ".skip_conv_" in line for line in wrong):
        return " Its autoencoder has skip connections, which this one has not."
    if "missing: vae.encoder.conv1.weight" in wrong:
        return " It was not made with Wan 2.1's autoencoder (newer Fixer checkpoints use a TorchScript one)."
    return ""


def _release_weights(content: dict[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights by ``transformer.`` or ``vae.`` and name, and the names of what is not needed."""
    found, ignored = {}, []
    for part, entry, landmark in (
        ("transformer", "state_dict_unet", "x_embedder.proj.1.weight"),
        ("vae", "state_dict_vae", "encoder.conv1.weight"),
    ):
        state = content[entry]
        prefix = _prefix(state, landmark)
        for name, value in state.items():
            if _MOVING_AVERAGE.search(name) or _NOT_WEIGHTS.search(name) or not isinstance(value, Tensor):
                ignored.append(f"{part}.{name}")
            else:
                found[f"{part}.{name.removeprefix(prefix)}"] = value
    return found, ignored


def _prefix(state: dict[str, Any], landmark: str) -> str:
    """What stands before every name: ``net.`` or ``dit.`` before a transformer's, usually nothing before the other."""
    for name in state:
        if (name == landmark or name.endswith("." + landmark)) and not _MOVING_AVERAGE.search(name):
            return name.removesuffix(landmark)
    return ""


class PlainCosmosNetwork(CosmosNetwork):
    """The graph of the release: it attends to all tokens of the empty text, and decodes the context's latents too."""

    text_tokens = 512

    @classmethod
    def of(cls, network: CosmosNetwork) -> PlainCosmosNetwork:
        """A network of its own with the same weights."""
        weights = {name: value.clone() for name, value in network.state_dict().items()}
        return cls.from_checkpoint(Checkpoint(network.architecture, network.config, weights))

    def denoise(self, latents: Float[Tensor, "b c t hl wl"]) -> Float[Tensor, "b c t hl wl"]:
        """The one step, at every frame."""
        scaled = (1 - self.time) * latents
        return scaled - self.time * self.velocity(scaled)

    def decode(self, latent: Float[Tensor, "b c t hl wl"]) -> Float[Tensor, "b 3 h w"]:
        """Decode everything, return the first image."""
        mean, std = self._statistics(latent)
        return self.vae.decode(latent * std[..., None] + mean[..., None], return_dict=False)[0][:, :, 0]
