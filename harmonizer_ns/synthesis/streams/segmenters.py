# SPDX-License-Identifier: Apache-2.0
"""Pretrained models of transformers segment clips; they come from a folder or the Hugging Face Hub, as safetensors.

SAM 2 (Ravi et al. 2024) and the tracker of SAM 3 are shown one rectangle in one frame, and follow what is in it through
the clip. Semantic models (Segformer) name every pixel.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harmonizer_ns.errors import InputError
from harmonizer_ns.files import find_folder, read_json
from harmonizer_ns.images import to_uint8
from harmonizer_ns.synthesis.streams.base import Clip
from harmonizer_ns.synthesis.streams.boxes import box_mask
from harmonizer_ns.synthesis.streams.grabcut import object_mask

_FILES = ("*.json", "*.safetensors")
CLASSES = {
    "sam2": ("Sam2VideoProcessor", "Sam2VideoModel"),
    "sam3": ("Sam3TrackerVideoProcessor", "Sam3TrackerVideoModel"),
    "segformer": ("SegformerImageProcessor", "SegformerForSemanticSegmentation"),
}
"""The processor and the network of transformers, by how the kind of a model begins."""


def sam_mask(clip: Clip, model: str, boxes: Path, share: tuple[float, float], seed: int) -> Bool[Tensor, "n 1 h w"]:
    """Let SAM mask one object in every frame.

    Args:
        clip: the frames.
        model: folder or Hub repository of a SAM 2 or SAM 3 model.
        boxes: 3D boxes; where there is no such file, `grabcut` shows SAM where an object is.
        share: smallest and largest share of the frame for `grabcut`.
        seed: of the choice among objects.

    Raises:
        InputError: when the model cannot be loaded, or no object is found.
    """
    processor, network = load_model(model, "sam2", "sam3")
    hint = box_mask(clip, boxes, seed) if boxes.is_file() else object_mask(clip.frames, share, seed)
    shown = int(hint.flatten(1).any(dim=1).float().argmax())
    return track(processor, network, clip.frames, shown, _rectangle(hint[shown, 0]))


def _rectangle(mask: Bool[Tensor, "h w"]) -> list[float]:
    """Measure the left, top, right and bottom of a mask, in pixels."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return [float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)]


def track(
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


@torch.inference_mode()
def semantic_labels(frames: Float[Tensor, "n 3 h w"], model: str) -> tuple[Int[Tensor, "n h w"], dict[str, int]]:
    """Find the class of every pixel; also returns the classes' numbers by name.

    Args:
        frames: colours in [0, 1].
        model: folder or Hub repository of a Segformer for semantic segmentation, as ``jonathandinu/face-parsing``.

    Raises:
        InputError: when the model cannot be loaded.
    """
    processor, network = load_model(model, "segformer")
    pixels = processor(images=list(to_uint8(frames)), return_tensors="pt")["pixel_values"].to(frames.device)
    logits = network.to(frames.device)(pixel_values=pixels).logits
    logits = torch.nn.functional.interpolate(logits, frames.shape[-2:], mode="bilinear", align_corners=False)
    return logits.argmax(1).clone(), {str(name): int(number) for number, name in network.config.id2label.items()}


@lru_cache(maxsize=2)
def load_model(model: str, *kinds: str) -> tuple[Any, Any]:
    """Load a model's processor and its network.

    Args:
        model: folder or Hub repository.
        kinds: those of `CLASSES` that will do.

    Raises:
        InputError: naming the model, and saying how to get it, when it is missing, of another kind or unreadable.
    """
    import transformers

    folder = find_folder(model, _FILES)
    kind = str(read_json(folder / "config.json").get("model_type"))
    known = next((known for known in kinds if kind.startswith(known)), None)
    if known is None:
        raise InputError(f"{model} is a model of kind {kind!r}; needed is one of {', '.join(kinds)}")
    processor, network = (getattr(transformers, name, None) for name in CLASSES[known])
    if processor is None or network is None:
        raise InputError(f"{model} needs a newer transformers: pip install 'transformers>=5,<6'")
    try:
        return (
            processor.from_pretrained(folder, local_files_only=True),
            network.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval(),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"cannot load {network.__name__} from {folder}: {error}") from error
