# SPDX-License-Identifier: Apache-2.0
"""Segmentation by pretrained models of transformers, from a folder or the Hugging Face Hub; safetensors only.

SAM 2 (Ravi et al. 2024) and the tracker of SAM 3 are shown one rectangle in one frame, and follow what is in it through
the clip. Semantic models (Segformer) name every pixel.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import fetch_repository
from harmonizer_ns.images import to_uint8
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.boxes import box_mask
from harmonizer_ns.synthesis.streams.grabcut import object_mask

_FILES = ("*.json", "*.safetensors")


def sam_mask(clip: Clip, model: str, boxes: Path, share: tuple[float, float], seed: int) -> Bool[Tensor, "n 1 h w"]:
    """What SAM makes of one object in every frame.

    Args:
        clip: the frames.
        model: folder or Hub repository of a SAM 2 or SAM 3 model.
        boxes: 3D boxes; where there is no such file, `grabcut` shows SAM where an object is.
        share: smallest and largest share of the frame for `grabcut`.
        seed: of the choice among objects.

    Raises:
        InputError: when the model cannot be loaded, or no object is found.
    """
    processor, network = _load_sam(model)
    hint = box_mask(clip, boxes, seed) if boxes.is_file() else object_mask(clip.frames, share, seed)
    shown = int(hint.flatten(1).any(dim=1).float().argmax())
    return _track(processor, network, clip.frames, shown, _rectangle(hint[shown, 0]))


def _rectangle(mask: Bool[Tensor, "h w"]) -> list[float]:
    """Left, top, right and bottom of a mask, in pixels."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]


def _track(
    processor: Any, network: Any, frames: Float[Tensor, "n 3 h w"], shown: int, rectangle: list[float]
) -> Bool[Tensor, "n 1 h w"]:
    """Follow the object in the rectangle of frame ``shown`` to the end of the clip, then back to its start."""
    session = processor.init_video_session(video=to_uint8(frames), inference_device=frames.device)
    processor.add_inputs_to_inference_session(session, frame_idx=shown, obj_ids=1, input_boxes=[[rectangle]])
    size = [[frames.shape[-2], frames.shape[-1]]]
    masks = torch.zeros_like(frames[:, :1], dtype=torch.bool)
    network = network.to(frames.device)
    for reverse in (False, True):
        for output in network.propagate_in_video_iterator(session, start_frame_idx=shown, reverse=reverse):
            masks[output.frame_idx] = processor.post_process_masks([output.pred_masks], size)[0][0] > 0
    return masks


@lru_cache(maxsize=1)
def _load_sam(model: str) -> tuple[Any, Any]:
    import transformers

    folder = model_folder(model)
    kind = _kind(folder)
    if not kind.startswith(("sam2", "sam3")):
        raise InputError(f"{model} is a model of kind {kind!r}; masks need SAM 2 or SAM 3")
    name = "Sam3TrackerVideo" if kind.startswith("sam3") else "Sam2Video"
    if not hasattr(transformers, f"{name}Model"):
        raise InputError(f"{model} needs a newer transformers: pip install 'transformers>=5,<6'")
    return (
        _load(getattr(transformers, f"{name}Processor"), folder),
        _load(getattr(transformers, f"{name}Model"), folder, use_safetensors=True).eval(),
    )


@torch.inference_mode()
def semantic_labels(frames: Float[Tensor, "n 3 h w"], model: str) -> tuple[Int[Tensor, "n h w"], dict[str, int]]:
    """The class of every pixel, and the classes' numbers by name.

    Args:
        frames: colours in [0, 1].
        model: folder or Hub repository of a Segformer for semantic segmentation, as ``jonathandinu/face-parsing``.

    Raises:
        InputError: when the model cannot be loaded.
    """
    processor, network = _load_segformer(model)
    pixels = processor(images=list(to_uint8(frames)), return_tensors="pt")["pixel_values"].to(frames.device)
    logits = network.to(frames.device)(pixel_values=pixels).logits
    logits = torch.nn.functional.interpolate(logits, frames.shape[-2:], mode="bilinear", align_corners=False)
    return logits.argmax(1).clone(), {str(name): int(number) for number, name in network.config.id2label.items()}


@lru_cache(maxsize=1)
def _load_segformer(model: str) -> tuple[Any, Any]:
    from transformers import SegformerForSemanticSegmentation, SegformerImageProcessor

    folder = model_folder(model)
    if _kind(folder) != "segformer":
        raise InputError(f"{model} is a model of kind {_kind(folder)!r}; labels need a Segformer")
    return (
        _load(SegformerImageProcessor, folder),
        _load(SegformerForSemanticSegmentation, folder, use_safetensors=True).eval(),
    )


def model_folder(model: str) -> Path:
    """The folder of a model: itself, or what the Hub or its cache holds of that repository.

    Raises:
        InputError: naming the model, and saying how to get it.
    """
    if Path(model).is_dir():
        return Path(model)
    return fetch_repository(model, None, list(_FILES))


def _kind(folder: Path) -> str:
    """What ``config.json`` says that the model is."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type"))
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder} is no model's folder: cannot read its config.json: {error}") from error


def _load(kind: Any, folder: Path, **options: Any) -> Any:
    try:
        return kind.from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot load {kind.__name__} from {folder}: {error}") from error
