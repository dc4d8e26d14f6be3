# SPDX-License-Identifier: Apache-2.0
"""Pictures that exist already are judged: folders of pairs, Fixer's folders, and pairs files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from harmonizer_ns.enhancers.base import Enhancer
from harmonizer_ns.enhancers.stream import EnhancerStream
from harmonizer_ns.errors import InputError, damage_of
from harmonizer_ns.evaluation.rendered import FittedScene, timed
from harmonizer_ns.images import image_size, load_image
from harmonizer_ns.loaded_pairs import LoadedPair, load_pair
from harmonizer_ns.media import IMAGE_SUFFIXES, image_files, natural_key
from harmonizer_ns.pairs import Pair, raise_all, read_pairs
from harmonizer_ns.references import cover_images
from harmonizer_ns.types import Frames, as_frames
from harmonizer_ns.views import ENHANCED, PLAIN, JudgedView, Place

RENDERS, TRUTHS = "render", "gt"
"""How Fixer calls the two folders of pairs."""


@dataclass(frozen=True)
class PairScene:
    """Gives the pairs of one scene; clips are enhanced in order, each frame knowing the last ones.

    Args:
        name: of the scene.
        pairs: what is judged, frames of one clip in order.
        device: where to enhance.
        how: the pictures were made.
    """

    name: str
    pairs: Sequence[Pair]
    device: str = "cpu"
    how: str = "pictures as they are"

    @property
    def positions(self) -> dict[str, Float[Tensor, "n 3"]]:
        """Where the pictures were taken from, if the pairs tell."""
        known = [pair.cameras.centers[:1] for pair in self.pairs if pair.cameras is not None]
        return {"held-out": torch.cat(known)} if known else {}

    def views(self, enhancer: Enhancer | None) -> Iterator[JudgedView]:
        """Load pair after pair, and enhance the first picture of each."""
        stream, before = None, None
        for number, pair in enumerate(self.pairs):
            with damage_of(pair.image):
                loaded = load_pair(pair, enhancer.max_references if enhancer else 0)
            view = _view(f"{number:04d}", pair, loaded)
            if enhancer is not None:
                if stream is None or before is None or not view.follows(before):
                    stream = EnhancerStream(enhancer)
                view = self._enhanced(view, pair, loaded, stream, enhancer.max_references)
            before = view
            yield view

    def _enhanced(
        self, view: JudgedView, pair: Pair, loaded: LoadedPair, stream: EnhancerStream, count: int
    ) -> JudgedView:
        render, references = loaded.render.to(self.device), loaded.references or _photos(pair, loaded.render, count)
        references = None if references is None else references.to(self.device)
        rgb, seconds = timed(lambda: stream.enhance(render, references), render)
        return replace(view, pictures={**view.pictures, ENHANCED: rgb.to(view.truth)}, seconds=seconds)


def _view(name: str, pair: Pair, loaded: LoadedPair) -> JudgedView:
    place = None if pair.clip is None or pair.frame is None else Place(pair.clip, pair.frame)
    geometry = loaded.render if pair.has_geometry else None
    pictures = {PLAIN: loaded.render.rgb[0]}
    return JudgedView(name, pair.name, pictures, loaded.target[0], place=place, geometry=geometry)


def _photos(pair: Pair, render: Frames, count: int) -> Frames | None:
    """Give references of which no camera is known, brought to the picture's size."""
    if not pair.references or not count:
        return None
    size = render.cameras.width, render.cameras.height
    return as_frames(torch.cat([cover_images(load_image(path)[None], *size) for path in pair.references[:count]]))


Scene = FittedScene | PairScene
"""Gives views to judge."""


# --- what a path holds ------------------------------------------------------------------------------------------------


def pair_scenes(path: Path, device: str = "cpu", allow_outside: bool = False) -> list[PairScene] | None:
    """Read a pairs file, a folder of pairs, or Fixer's folders; None when a path is nothing of these.

    Args:
        path: a ``.json`` file, whose ``test`` pairs are judged, or else its ``train`` pairs; a folder that holds
            ``render`` and ``gt`` with pictures of the same names; or a folder with such folders, which hold
            ``CAMERA/TIME.png``, one for each scene.
        device: where to enhance.
        allow_outside: of a pairs file: accept paths that leave its folder.

    Raises:
        InputError: naming what is missing, and pictures of other sizes than their truth.
    """
    if path.suffix == ".json" and not path.is_dir():
        read = read_pairs(path, allow_outside)
        pairs = list(read.test or read.train)
    elif _holds_pairs(path):
        pairs = paired(path / RENDERS, path / TRUTHS, path.resolve().name)
    elif path.is_dir() and (scenes := sorted(filter(_holds_pairs, path.iterdir()))):
        pairs = [pair for scene in scenes for pair in paired(scene / RENDERS, scene / TRUTHS, scene.name)]
    else:
        return None
    _check_sizes(pairs)
    return _by_scene(pairs, path.stem, device)


def two_folders(pictures: Path, truths: Path, device: str = "cpu") -> list[PairScene]:
    """Read pictures of one folder and their truths of another, under the same names.

    Raises:
        InputError: as `pair_scenes`.
    """
    pairs = paired(pictures, truths, pictures.resolve().name)
    _check_sizes(pairs)
    return _by_scene(pairs, pictures.name, device)


def holds_pictures(path: Path) -> bool:
    """Whether a folder holds pictures itself."""
    return path.is_dir() and any(file.suffix.lower() in IMAGE_SUFFIXES for file in path.iterdir())


def as_video(scene: PairScene) -> PairScene:
    """Take the pictures of a scene, which are of no clips, as one clip in the order of their names."""
    if any(pair.clip is not None for pair in scene.pairs):
        return scene
    return replace(scene, pairs=[replace(pair, clip=scene.name, frame=i) for i, pair in enumerate(scene.pairs)])


def paired(pictures: Path, truths: Path, scene: str) -> list[Pair]:
    """Pair the pictures of a folder with truths of the same names; those in folders of it are clips, one a folder.

    Raises:
        InputError: when there are none, or a picture has no truth.
    """
    folders = [path for path in _in_order(pictures) if path.is_dir()] or [pictures]
    pairs, lost = [], []
    for folder in folders:
        beside = truths / folder.relative_to(pictures)
        known = {path.stem: path for path in image_files(beside)} if beside.is_dir() else {}
        clip = f"{scene}/{folder.name}" if folder != pictures else None
        for number, path in enumerate(image_files(folder)):
            if path.stem not in known:
                lost.append(f"{path} has no truth {beside / path.name}")
                continue
            name, frame = path.relative_to(pictures).with_suffix("").as_posix(), None if clip is None else number
            pairs.append(Pair(name, path, known[path.stem], clip=clip, frame=frame, source={"scene": scene}))
    raise_all(lost, f"{pictures} cannot be compared with {truths}")
    return pairs


def _holds_pairs(path: Path) -> bool:
    return (path / RENDERS).is_dir() and (path / TRUTHS).is_dir()


def _in_order(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    return sorted(folder.iterdir(), key=lambda path: natural_key(path.name))


def _check_sizes(pairs: Sequence[Pair]) -> None:
    def problem(pair: Pair) -> str | None:
        found, wanted = image_size(pair.image), image_size(pair.target_image)
        if found == wanted:
            return None
        return f"{pair.image} has {found[0]}x{found[1]} pixels, its truth {pair.target_image} {wanted[0]}x{wanted[1]}"

    raise_all([told for pair in pairs if (told := problem(pair))], "pictures of other sizes than their truth")


def _by_scene(pairs: Sequence[Pair], unnamed: str, device: str) -> list[PairScene]:
    """Sort pairs into scenes, and clips into their order; those that name no scene make one together."""
    scenes: dict[str, list[Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.clip or "", pair.frame or 0)):
        named = pair.clip is not None or (isinstance(pair.source, dict) and "scene" in pair.source)
        scenes.setdefault(pair.scene if named else unnamed, []).append(pair)
    return [PairScene(name, found, device) for name, found in scenes.items()]
