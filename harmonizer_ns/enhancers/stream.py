# SPDX-License-Identifier: Apache-2.0
"""A stream shows an enhancer one viewer's frames in order, each with its own last outputs, and steadies what it makes.

An enhancer decides anew in every frame, and a different decision about the same surface is flicker. With the render
``r_t``, the enhancer's output ``e_t`` and the look-up ``W`` of the last frame by depth and cameras, its *change*
``c_t = e_t - r_t`` goes through a recursive filter of first order, and ``r_t + c'_t`` is shown:

    c'_t = (1 - g) c_t + g W c'_{t-1}.

At every pixel ``g`` is what makes the picture steadiest. The render moves by ``d = r_t - W r_{t-1}`` and the change by
``j = c_t - W c'_{t-1}``, so the picture moves by ``d + (1 - g) j``, least for ``1 - g = -d j / |j|^2``: a change that
takes flicker out of the render passes as it is. ``g`` lies between 0 and ``KEPT m exp(-(|d| / AGREEMENT)^2)``, with the
look-up's validity ``m``: nothing stays where something else is seen, and no decision stays for long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Context, Enhancer, Repaired
from harmonizer_ns.poses import rotation_angle
from harmonizer_ns.types import Cameras, Frames
from harmonizer_ns.warp import look_up, median_depth

HISTORY = 4
"""How many outputs are kept: what the temporal enhancers were trained with."""
KEPT = 0.75
"""At most this share of the last change stays: then the newest of four outputs weighs a quarter."""
AGREEMENT = 0.05
"""Mean difference of two renders' colours at which little stays."""
CUT_SHIFT = 0.5
"""The camera moved this share of the scene's median depth from one frame to the next: a cut."""
CUT_ANGLE = math.radians(30.0)
"""It turned so far: most of the picture is new."""
CUT_ZOOM = 1.25
"""Its focal length changed by this factor."""

CutTest = Callable[[Frames, Frames], bool]
"""Whether a frame (the second, a batch of one as the first) begins another shot than the one before it."""


class CameraMotion(NamedTuple):
    """From one camera to another: shift, turn in radians, factor of focal length; and the median depth of an image."""

    shift: float
    angle: float
    zoom: float
    depth: float

    @staticmethod
    def between(before: Cameras, after: Cameras, depth: Float[Tensor, "1 1 h w"]) -> CameraMotion:
        """Measure it between batches of one; a host waits for it once. The depth is NaN where nothing is known."""
        before = before.to(after.camera_to_world.device)
        shift = (before.centers - after.centers).norm(dim=-1)
        angle = rotation_angle(before.camera_to_world[:, :3, :3], after.camera_to_world[:, :3, :3])
        zoom = after.intrinsics[:, 0, 0] / before.intrinsics[:, 0, 0]
        return CameraMotion(*torch.cat([shift, angle, zoom, median_depth(depth).to(shift)]).tolist())


def is_camera_cut(before: Frames, after: Frames) -> bool:
    """Whether a frame's camera is so far from that of the frame before that its picture is another shot.

    So it is after a change of size, a shift beyond `CUT_SHIFT` of the frame's median depth, a turn beyond `CUT_ANGLE`,
    or a zoom beyond `CUT_ZOOM`. Without any depth, shifts are not judged.
    """
    old, camera = before.cameras, after.cameras
    if (old.width, old.height) != (camera.width, camera.height):
        return True
    motion = CameraMotion.between(old, camera, before.depth)
    turned = motion.angle > CUT_ANGLE or max(motion.zoom, 1 / motion.zoom) > CUT_ZOOM
    return turned or motion.shift > CUT_SHIFT * motion.depth


class _Memory(NamedTuple):
    """Everything a stream remembers: outputs, newest first, the last render, and the scene's version."""

    outputs: tuple[Frames, ...] = ()
    render: Frames | None = None
    version: Hashable = None


class EnhancerStream:
    """Gives an enhancer its last outputs, which it may warp, and takes the flicker out of what it does.

    What a stream remembers is replaced in one assignment after an enhancement has succeeded, so a frame that fails or
    is interrupted leaves it whole. Not for several threads at once: each client has its own stream.

    Args:
        enhancer: repairs.
        length: how many outputs are kept; 0 treats every frame by itself.
        is_cut: tells where another shot begins; nothing is remembered across a cut.
        steadies: whether outputs are filtered along the scene's motion, which wants depth; `steady` has the formula.
    """

    def __init__(
        self, enhancer: Enhancer, length: int = HISTORY, is_cut: CutTest = is_camera_cut, steadies: bool = True
    ) -> None:
        if length < 0:
            raise ValueError(f"a stream keeps 0 or more outputs, not {length}")
        self._enhancer, self._length = enhancer, length
        self._is_cut, self._steadies = is_cut, steadies
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
        if self._steadies and memory.render is not None:
            repaired = replace(repaired, rgb=steady(repaired.rgb, frame, memory.outputs[0].rgb, memory.render))
        self._keep(memory, frame, repaired.rgb, version)
        return repaired

    def remember(self, frame: Frames, rgb: Float[Tensor, "1 3 h w"], version: Hashable = None) -> None:
        """Take over what was shown for the next frame in an earlier run."""
        self._keep(self._memory_for(frame, version), frame, rgb, version)

    def _memory_for(self, frame: Frames, version: Hashable) -> _Memory:
        """What is remembered, or nothing when this frame is of another shot or scene."""
        memory = self._memory
        if memory.render is None or version != memory.version or self._is_cut(memory.render, frame):
            return _Memory()
        return memory

    def _keep(self, memory: _Memory, frame: Frames, rgb: Float[Tensor, "1 3 h w"], version: Hashable) -> None:
        if self._length:
            outputs = (replace(frame, rgb=rgb), *memory.outputs)
            self._memory = _Memory(outputs[: self._length], frame, version)


def steady(
    enhanced: Float[Tensor, "1 3 h w"], frame: Frames, shown_before: Float[Tensor, "1 3 h w"], frame_before: Frames
) -> Float[Tensor, "1 3 h w"]:
    """Filter the change that an enhancer made to a frame.

    Args:
        enhanced: its output.
        frame: the render that it was given.
        shown_before: what was shown for the last frame.
        frame_before: the last render, of the same size.
    """
    change = enhanced - frame.rgb
    images = torch.cat([shown_before - frame_before.rgb, frame_before.rgb], dim=1)
    seen, same_surface, inside, known = look_up(images, frame_before, frame.depth, frame.cameras)
    change_before, render_before = seen.split(3, dim=1)
    valid = same_surface * (inside & known)
    render_moved, change_moved = frame.rgb - render_before, change - change_before
    agreement = (render_moved.abs().mean(dim=1, keepdim=True) / AGREEMENT).square_().neg_().exp_()
    against = (render_moved * change_moved).sum(dim=1, keepdim=True)
    steadiest = 1 + against / change_moved.square().sum(dim=1, keepdim=True).clamp_(min=1e-8)
    stays = torch.minimum(steadiest.clamp_(min=0), KEPT * valid * agreement)
    return torch.addcmul(enhanced, stays, change_moved, value=-1).clamp_(0, 1)
