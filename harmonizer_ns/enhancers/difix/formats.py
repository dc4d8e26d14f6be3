# SPDX-License-Identifier: Apache-2.0
"""Released Difix files: folders in the Hub's layout, and ``model_*.pkl`` checkpoints of its training code.

A folder has ``model_index.json``, ``scheduler/``, ``text_encoder/``, ``tokenizer/``, ``unet/`` and ``vae/``, the
autoencoder with skip convolutions and, as a rule, with its adapters unmerged. A pickle has ``rank_vae``,
``vae_lora_target_modules``, ``state_dict_unet`` (all of it), ``state_dict_vae`` (skip convolutions and adapters) and
``optimizer``; the rest comes from a folder. Only tensors and JSON are read; no code in these files or repositories ever
runs.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.checkpoint import (
    CONFIG,
    FILES,
    Checkpoint,
    load_checkpoint,
    load_weights,
    read_model,
    read_states,
)
from harmonizer_ns.enhancers.difix.network import SCHEDULE, SKIP_INIT, DifixNetwork
from harmonizer_ns.enhancers.lora import merged, rank_of
from harmonizer_ns.enhancers.one_step import own_arguments
from harmonizer_ns.enhancers.table import HUB_INDEX, SPECS, spec_of
from harmonizer_ns.errors import InputError, first_line
from harmonizer_ns.files import find_folder, read_json

logger = logging.getLogger(__name__)

PARTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")
WEIGHTS = "diffusion_pytorch_model"
_FILES = [
    HUB_INDEX,
    "scheduler/scheduler_config.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    *("text_encoder/config.json", "text_encoder/model.safetensors"),
    *("unet/config.json", "vae/config.json"),
    *(f"*/{WEIGHTS}.{file}" for file in ("safetensors", "safetensors.index.json")),
    f"*/{WEIGHTS}-*-of-*.safetensors",
]
_OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""What the VAE's attention was called in older diffusers, and is called now."""


def read_checkpoint(
    folder_or_id: str | Path, revision: str | None, checkpoint: str | Path | None, prompt: str
) -> Checkpoint:
    """A network and what is known about its weights; arguments and errors as `DifixEnhancer.from_pretrained`.

    Weights keep their precision, and adapters are folded into them. Plain Stable Diffusion folders, whose autoencoder
    has no skip convolutions, are read too, with a warning: they are what training begins with.
    """
    folder = find_folder(folder_or_id, [*FILES, *_FILES], revision)
    if checkpoint is None and (folder / CONFIG).is_file():
        return load_checkpoint(folder)
    source = str(folder_or_id if checkpoint is None else checkpoint)
    config, embedding = _read_config(folder), embed_prompt(folder, prompt)
    if checkpoint is None:
        release = spec_of(source)
        config["max_references"] = 1 if release is None else release.max_references
        unet, vae = (read_model(folder / part, WEIGHTS) for part in ("unet", "vae"))
    else:
        learned = read_states(Path(checkpoint))
        unet, vae = learned["state_dict_unet"], _frozen(read_model(folder / "vae", WEIGHTS))
        vae |= learned["state_dict_vae"]
    kwargs = {**config, "prompt_tokens": embedding.shape[1]}
    parts = {"unet": unet, "vae": merged(_completed(_current_names(vae), kwargs, source), source)}
    weights = {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}
    licence = f"that of their origin (nvidia/difix and nvidia/difix_ref: {SPECS['difix'].licence})"
    return Checkpoint(
        architecture=DifixNetwork.architecture,
        kwargs=kwargs,
        weights={**weights, "prompt_embedding": embedding},
        metadata={"licence": licence, "source": source},
        source=source,
    )


def _frozen(vae: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a checkpoint takes over of a base's autoencoder: neither its skip convolutions nor its adapters."""
    kept = {name: tensor for name, tensor in vae.items() if ".lora_" not in name and "skip_conv" not in name}
    return {name.replace(".base_layer.", "."): tensor for name, tensor in kept.items()}


def _read_config(folder: Path) -> dict[str, Any]:
    """The network's arguments, from the folder's own configurations."""
    missing = [name for name in (HUB_INDEX, *PARTS) if not (folder / name).exists()]
    if missing:
        raise InputError(f"{folder} is not a Difix folder: it has no {', '.join(missing)}")
    models = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
    index = read_json(folder / HUB_INDEX)
    for part, model in models.items():
        entry = index.get(part)  # library and class; a class of the repository's own is judged by its weights
        if not isinstance(entry, list) or (entry[:1] == ["diffusers"] and entry[1:] != [model.__name__]):
            raise InputError(f"{folder} is a folder of another model: its {part} is {entry}, not {model.__name__}")
    config = {part: own_arguments(model, read_json(folder / part / "config.json")) for part, model in models.items()}
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    return {**config, "scheduler": {name: scheduler[name] for name in SCHEDULE if name in scheduler}}


def _completed(vae: dict[str, Tensor], config: dict[str, Any], source: str) -> dict[str, Tensor]:
    """An autoencoder without any skip convolution gets new ones."""
    if any("skip_conv" in name for name in vae):
        return vae
    logger.warning(
        "%s: the autoencoder has no skip convolutions, so this is plain Stable Diffusion, not Difix; it gets new ones: "
        "a model to begin training with, not to repair with",
        source,
    )
    with torch.device("meta"):
        own = DifixNetwork.from_config(config).vae.state_dict()
    new = {name: torch.full(own[name].shape, SKIP_INIT) for name in own if "skip_conv" in name}
    return {**vae, **new}


def _current_names(vae: dict[str, Tensor]) -> dict[str, Tensor]:
    pattern = re.compile("|".join(map(re.escape, _OLD_NAMES)))
    return {pattern.sub(lambda found: _OLD_NAMES[found[0]], name): tensor for name, tensor in vae.items()}


@torch.no_grad()
def embed_prompt(folder: Path, prompt: str) -> Float[Tensor, "1 m d"]:
    """What the folder's text encoder makes of a prompt, padded to the encoder's length. The encoder is not kept.

    Raises:
        InputError: when tokenizer or text encoder are damaged or incomplete.
    """
    from transformers import CLIPTokenizer

    encoder = _read_text_encoder(folder / "text_encoder")
    if not any((folder / "tokenizer" / file).is_file() for file in ("vocab.json", "tokenizer.json")):
        raise InputError(f"{folder / 'tokenizer'} has no vocab.json")  # transformers would go on with an empty one
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except Exception as error:  # what the tokenizers package raises is no more precise
        raise InputError(f"{folder / 'tokenizer'} cannot be read: {first_line(error)}") from error
    tokens = tokenizer(
        prompt, max_length=tokenizer.model_max_length, padding="max_length", truncation=True, return_tensors="pt"
    )
    return encoder(tokens.input_ids)[0]


def _read_text_encoder(folder: Path) -> Any:
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModel

    config, weights = read_json(folder / "config.json"), read_model(folder, "model")
    try:
        with init_empty_weights():
            encoder = CLIPTextModel(CLIPTextConfig(**config))
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder} is not CLIP's text encoder: {first_line(error)}") from error
    names = {_plain(name): name for name in encoder.state_dict()}
    state = {names.get(_plain(name), name): tensor.float() for name, tensor in weights.items()}
    state = {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}  # a mere 0, 1, 2, ...
    load_weights(encoder, state, folder, assign=True)
    return encoder.eval()


def _plain(name: str) -> str:
    """Versions of transformers differ in this prefix."""
    return name.removeprefix("text_model.")


def write_checkpoint(network: DifixNetwork, path: Path) -> None:
    """Write a ``model_*.pkl`` for Difix's own training code: tensors and plain data, without an optimizer.

    Raises:
        InputError: when the network is temporal or its vae has no adapters.
    """
    if network.max_context:
        raise InputError(f"{path}: Difix's files have no place for temporal layers; save an enhancer folder instead")
    vae = network.vae.state_dict()
    rank = rank_of(vae)
    if rank is None:
        raise InputError(f"{path}: such a file needs the vae's adapters beside its weights, this network has none")
    content = {
        "vae_lora_target_modules": [name.partition(".lora_A.")[0] for name in vae if ".lora_A." in name],
        "rank_vae": rank,
        "state_dict_unet": network.unet.state_dict(),
        "state_dict_vae": {name: tensor for name, tensor in vae.items() if ".lora_" in name or "skip_conv" in name},
    }
    torch.save(content, path)
