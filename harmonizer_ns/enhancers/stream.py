# SPDX-License-Identifier: Apache-2.0
"""One viewer's frames in order: the enhancer sees its own last outputs, unless the picture jumped."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from typing import NamedTuple

from harmonizer_ns.enhancers.base import Context, Enhancer, Repaired
from harmonizer_ns.enhancers.steady import steady
from harmonizer_ns.poses import rotation_angle
from harmonizer_ns.types import Cameras, Frames

HISTORY = 4
"""How many outputs are kept: what the temporal enhancers were trained with."""
CUT_SHIFT = 0.5
"""The camera moved this share of the scene's median depth from one frame to the next: a cut."""
CUT_ANGLE = math.radians(30.0)
"""It turned so far: most of the picture is new."""
CUT_ZOOM = 1.25
"""Its focal length changed by this factor."""


class _Memory(NamedTuple):
    """Everything a stream remembers: outputs and renders, newest first, and the scene's version."""

    outputs: tuple[Frames, ...] = ()
    render: Frames | None = None
    version: Hashable = None


class EnhancerStream:
    """Gives an enhancer its last outputs, which it may warp, and takes the flicker out of what it does (`steady`).

    What a stream remembers is replaced in one assignment after an enhancement has succeeded, so a frame that fails or
    is interrupted leaves it whole. Not for several threads at once: each client has its own stream.

    Args:
        enhancer: repairs.
        length: how many outputs are kept; 0 treats every frame by itself.
    """

    def __init__(self, enhancer: Enhancer, length: int = HISTORY) -> None:
        if length < 0:
            raise ValueError(f"a stream keeps 0 or more outputs, not {length}")
        self._enhancer, self._length = enhancer, length
        self._memory = _Memory()

    @property
    def history(self) -> tuple[Frames, ...]:
        """The outputs that the next frame may see, newest first."""
        return self._memory.outputs

    def reset(self) -> None:
        """Forget all outputs."""
        self._memory = _Memory()

    def enhance(self, frame: Frames, references: Frames | None = None, version: Hashable = None) -> Repaired:
        """Repair the next frame.

        Args:
            frame: a batch of one.
            references: photos for it.
            version: of the scene; a new one (an edit, a large update of parameters) empties the history.

        Raises:
            ValueError: when the batch is not one frame.
        """
        if len(frame) != 1:
            raise ValueError(f"a stream takes one frame at a time, not {len(frame)}")
        memory = self._memory_for(frame, version)
        repaired = self._enhancer.enhance(frame, Context(references=(references,), history=memory.outputs))
        if memory.render is not None:
            repaired = replace(repaired, rgb=steady(repaired.rgb, frame, memory.outputs[0].rgb, memory.render))
        output = Frames(repaired.rgb, frame.alpha, frame.depth, frame.cameras)
        if self._length:
            self._memory = _Memory((output, *memory.outputs)[: self._length], frame, version)
        return repaired

    def _memory_for(self, frame: Frames, version: Hashable) -> _Memory:
        """What is remembered, or nothing when this frame is of another shot or scene."""
        memory = self._memory
        if memory.render is None or version != memory.version or is_camera_cut(memory.render, frame.cameras):
            return _Memory()
        return memory


def is_camera_cut(before: Frames, camera: Cameras) -> bool:
    """Whether a camera (a batch of one) is so far from a frame's that its picture is another shot.

    So it is after a change of size, a shift beyond `CUT_SHIFT` of the frame's median depth, a turn beyond `CUT_ANGLE`,
    or a zoom beyond `CUT_ZOOM`. Without any depth, shifts are not judged.
    """
    old = before.cameras.to(camera.camera_to_world.device)
    if (old.width, old.height) != (camera.width, camera.height):
        return True
    if rotation_angle(old.camera_to_world[:, :3, :3], camera.camera_to_world[:, :3, :3]).item() > CUT_ANGLE:
        return True
    zoom = (camera.intrinsics[0, 0, 0] / old.intrinsics[0, 0, 0]).item()
    if max(zoom, 1 / zoom) > CUT_ZOOM:
        return True
    known = before.depth[before.depth > 0]
    shift = (old.centers - camera.centers).norm().item()
    return known.numel() > 0 and shift > CUT_SHIFT * known.median().item()
