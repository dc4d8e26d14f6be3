# SPDX-License-Identifier: Apache-2.0
"""Released Cosmos enhancers: reading their checkpoints, and writing them as our folders.

A release is one pickle with ``state_dict_unet`` (Cosmos' own names below ``net.`` or ``dit.``, a moving average below
``net_ema.``), ``state_dict_vae`` (the names of Wan 2.1's autoencoder), optimizer and discriminator. Only tensors are
read from it: nothing in the file can run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harmonizer_ns.enhancers.checkpoint import Checkpoint, CheckpointError
from harmonizer_ns.enhancers.cosmos.network import ARCHITECTURE, CosmosNetwork
from harmonizer_ns.enhancers.reading import read_pickle

LICENCE = "NVIDIA Open Model License"

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


@dataclass(frozen=True)
class Release:
    """A released enhancer on the Hub.

    Args:
        file: name of the checkpoint file, in whatever folder of the repository.
        max_context: previous outputs that it looks at.
    """

    file: str
    max_context: int

    @property
    def config(self) -> dict[str, Any]:
        """For `CosmosNetwork.from_config`; the autoencoder is diffusers' default, Wan 2.1's."""
        return {"max_context": self.max_context, "transformer": TRANSFORMER, "vae": {}}


RELEASES: dict[str, Release] = {
    "nvidia/Fixer": Release("pretrained_fixer.pkl", max_context=0),
    "nvidia/Harmonizer": Release("diffusion_harmonizer.pkl", max_context=4),
}

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


@dataclass
class KeyReport:
    """What became of every name in a release.

    Args:
        missing: names that the network needs and the release has not.
        unexpected: weights of the release that the network has no place for.
        misshapen: ``name: shape in the release, shape in the network``.
        ignored: moving averages, counters and buffers; they are not needed.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether every weight has found its place."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        wrong = (("missing", self.missing), ("unexpected", self.unexpected), ("misshapen", self.misshapen))
        return "\n".join(f"{kind}: {name}" for kind, names in wrong for name in names)


def convert(content: dict[str, Any], config: dict[str, Any], source: str) -> tuple[Checkpoint, KeyReport]:
    """Turn the content of a release into our checkpoint; tensors keep their precision.

    Args:
        content: what `read_release` gives.
        config: the network's, as for `CosmosNetwork.from_config`.
        source: where the release came from, for the metadata.

    Raises:
        CheckpointError: naming every weight that is missing, unexpected or misshapen.
    """
    with torch.device("meta"):
        network = CosmosNetwork.from_config(config)
    found, ignored = _release_weights(content)
    names = upstream_names(network)
    weights, report = {}, KeyReport(ignored=ignored)
    for name, tensor in network.state_dict().items():
        upstream = names[name]
        if upstream not in found:
            report.missing.append(upstream)
        elif found[upstream].shape != tensor.shape:
            report.misshapen.append(f"{upstream}: {tuple(found[upstream].shape)}, {tuple(tensor.shape)}")
        else:
            weights[name] = found[upstream]
    report.unexpected = sorted(found.keys() - set(names.values()))
    if not report.fits:
        raise CheckpointError(f"{source} does not fit the network.{_advice(report)}\n{report}")
    kwargs = {name: value for name, value in network.config.items() if name != "architecture"}
    return Checkpoint(ARCHITECTURE, kwargs, weights, {"licence": LICENCE, "source": source}), report


def _advice(report: KeyReport) -> str:
    if any(".skip_conv_" in name for name in report.unexpected):
        return " Its autoencoder has skip connections, which this one has not."
    if any(name == "vae.encoder.conv1.weight" for name in report.missing):
        return " It was not made with Wan 2.1's autoencoder (newer Fixer checkpoints use a TorchScript one)."
    return ""


def read_release(path: Path) -> dict[str, Any]:
    """The content of a release's file, tensors mapped from the disk; nothing in it is run.

    Raises:
        CheckpointError: when there is no such file, when it is damaged, and when it holds more than plain data.
    """
    content = read_pickle(path)
    wanted = ("state_dict_unet", "state_dict_vae")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), dict) for name in wanted):
        raise CheckpointError(f"{path} is not a Cosmos enhancer: it has no {' and '.join(wanted)}")
    return content


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
