# SPDX-License-Identifier: Apache-2.0
"""`load_capture` is the way in: photos with pinhole cameras and seed points, from COLMAP or ``transforms.json``."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from harmonizer_ns.captures.colmap import find_reconstruction, read_colmap
from harmonizer_ns.captures.frame import Similarity, gsplat_normalization, read_dataparser_transforms
from harmonizer_ns.captures.lens import Pinhole, undistorted
from harmonizer_ns.captures.masks import find_masks, read_mask
from harmonizer_ns.captures.photos import Alpha, PhotoFile, find_photos, on_black, read_photo
from harmonizer_ns.captures.posed import PosedViews
from harmonizer_ns.captures.transforms import read_transforms
from harmonizer_ns.errors import InputError
from harmonizer_ns.images import to_float
from harmonizer_ns.poses import camera_extent
from harmonizer_ns.types import Cameras, Frames

logger = logging.getLogger(__name__)

Format = Literal["auto", "colmap", "nerfstudio"]
"""How a capture is described; auto takes COLMAP's reconstruction where there is one."""
Photo = tuple[UInt8[Tensor, "3 h w"], Bool[Tensor, "1 h w"] | None]
"""A photo, and which of its pixels count (None: all)."""

_MOST_HIDDEN = 0.99
"""Masks that hide more of all photos are taken for a mistake."""


@dataclass(frozen=True, eq=False)
class Capture:
    """Photos, cameras and seed points in one frame. Photos are read when they are asked for, and kept as bytes.

    Args:
        name: of the capture's folder.
        names: of the photos, as paths below the folder, in natural order.
        cameras: pinhole, batches of one; sizes may differ.
        points: seed points.
        colors: their colours in [0, 1].
        read: gives a photo by its index.
        train: indices of the photos to learn from.
        test: indices of the photos that are held out.
        folder: what lies beside the photos, such as labels, is found here.
        seen: for each photo the points it shows, or None where that is not known.
        applied: from COLMAP's frame to the capture's own.
        way: from the coordinates in the capture's files to these.
        is_undistorted: whether some photos differ from the files by a lens's distortion.
    """

    name: str
    names: tuple[str, ...]
    cameras: list[Cameras]
    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    read: Callable[[int], Photo]
    train: tuple[int, ...] = ()
    test: tuple[int, ...] = ()
    folder: Path = Path()
    seen: list[Int[Tensor, " k"]] | None = None
    applied: Float[Tensor, "4 4"] = field(default_factory=lambda: torch.eye(4))
    way: Similarity = field(default_factory=lambda: Similarity(torch.eye(4, dtype=torch.float64)))
    is_undistorted: bool = False
    _cache: dict[int, Photo] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.cameras)

    def photo(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """Give a photo in bytes; it is read and undistorted once."""
        return self._photo_and_mask(index)[0]

    def mask(self, index: int) -> Bool[Tensor, "1 h w"] | None:
        """Tell which pixels of a photo count; None for all."""
        return self._photo_and_mask(index)[1]

    def frames(self, index: int) -> Frames:
        """Give a photo in [0, 1] as a batch of one, where the points are. Alpha is 1, depth is 0 (unknown)."""
        rgb = to_float(self.photo(index).to(self.points.device))[None]
        alpha = torch.ones_like(rgb[:, :1])
        return Frames(rgb, alpha, torch.zeros_like(alpha), self.cameras[index])

    def _photo_and_mask(self, index: int) -> Photo:
        if index not in self._cache:
            self._cache[index] = self.read(index)
        return self._cache[index]

    @property
    def train_cameras(self) -> list[Cameras]:
        """Cameras of the photos to learn from."""
        return [self.cameras[i] for i in self.train]

    @property
    def test_cameras(self) -> list[Cameras]:
        """Cameras of the photos that are held out."""
        return [self.cameras[i] for i in self.test]

    @property
    def positions(self) -> dict[str, Float[Tensor, "n 3"]]:
        """Where photos were taken from: those to learn from, and those that are held out; a group may be missing."""
        groups = {"photos": self.train_cameras, "held-out": self.test_cameras}
        return {name: torch.cat([camera.centers for camera in found]) for name, found in groups.items() if found}

    @property
    def extent(self) -> float:
        """gsplat's scene scale."""
        return camera_extent(torch.cat([camera.centers for camera in self.cameras]))

    @property
    def origin(self) -> Float[Tensor, " 3"]:
        """What to add to coordinates to have those in the capture's files, in float64; zero in any other frame."""
        matrix = self.way.matrix
        return -matrix[:3, 3] if torch.equal(matrix[:3, :3], torch.eye(3).to(matrix)) else torch.zeros(3).to(matrix)

    def part(self, indices: Sequence[int]) -> Capture:
        """Take some of the photos, with all points; they are no longer split."""
        return replace(
            self,
            names=tuple(self.names[i] for i in indices),
            cameras=[self.cameras[i] for i in indices],
            read=lambda k: self._photo_and_mask(indices[k]),
            train=(),
            test=(),
            seen=None if self.seen is None else [self.seen[i] for i in indices],
            _cache={},
        )

    def seeded_by(self, photos: Sequence[int], shown_by: int = 2) -> Capture:
        """Keep the seed points that at least so many of these photos show.

        Structure from motion triangulates from all photos; a point that only held-out ones show tells of them.

        Raises:
            ValueError: when it is not known which photos show a point.
        """
        if self.seen is None:
            raise ValueError(f"{self.name} does not say which photos show a point")
        count = torch.zeros(len(self.points), dtype=torch.long)
        for photo in photos:
            count[self.seen[photo].unique()] += 1
        kept = count >= shown_by
        place = kept.cumsum(0) - 1
        seen = [place[shown[kept[shown]]] for shown in self.seen]
        return replace(self, points=self.points[kept], colors=self.colors[kept], seen=seen)

    def to(self, device: torch.device | str) -> Capture:
        """Move cameras and points to ``device``; photos follow when they are asked for."""
        cameras = [camera.to(device) for camera in self.cameras]
        return replace(self, cameras=cameras, points=self.points.to(device), colors=self.colors.to(device))

    def moved(self, way: Similarity) -> Capture:
        """Move cameras and points into another frame."""
        cameras = [replace(camera, camera_to_world=way.poses(camera.camera_to_world)) for camera in self.cameras]
        return replace(self, cameras=cameras, points=way.points(self.points), way=way.after(self.way))

    def normalization(self) -> Similarity:
        """Find the way into gsplat's normalised frame."""
        return gsplat_normalization(torch.cat([camera.camera_to_world for camera in self.cameras]), self.points)

    def in_frame(self, frame: str) -> Capture:
        """Move cameras and points into the frame that splats live in.

        Args:
            frame: "none" is the capture's own, "gsplat" is gsplat's normalised one, and the path of a
                ``dataparser_transforms.json`` is that of a nerfstudio run.

        Raises:
            InputError: when the file cannot be read or holds something else.
        """
        if frame == "none":
            return self
        return self.moved(self.normalization() if frame == "gsplat" else self.nerfstudio_frame(Path(frame)))

    def nerfstudio_frame(self, file: Path) -> Similarity:
        """Read the way into the frame of a nerfstudio run."""
        return read_dataparser_transforms(file, self.applied).after(self.way.inverse())


def load_capture(
    folder: Path | str,
    width: int | None = None,
    factor: int = 1,
    *,
    spare: Path | None = None,
    form: Format = "auto",
    masks: Path | None = None,
    alpha: Alpha = "mask",
    train_list: Path | None = None,
    test_list: Path | None = None,
    test_every: int = 0,
    with_tracks: bool = False,
) -> Capture:
    """Read a capture: COLMAP (binary or text, any of its lenses) or nerfstudio's ``transforms.json``.

    Photos through a distorted lens are undistorted when they are read, so all cameras are pinhole ones. Every photo
    is decoded once here, so what is broken is told before anything is built.

    Args:
        folder: holds ``transforms.json`` and the photos that it names, or ``sparse/0`` and ``images``.
        width: brings every photo to this width in pixels (antialiased, aspect kept); None keeps sizes.
        factor: takes photos that are so many times smaller, from ``images_<factor>``; made there where missing.
        spare: where smaller photos are written when the capture's folder cannot be.
        form: which description to read.
        masks: a folder of masks that replace the capture's own (`find_masks`); black pixels do not count.
        alpha: what becomes of transparent pixels: they do not count, or they are black.
        train_list: a text file that names the photos to learn from, one a line.
        test_list: likewise, those that are held out.
        test_every: every so-manieth photo is held out where neither lists nor the capture say which; 0: none.
        with_tracks: find out which points each photo shows (COLMAP alone knows).

    Raises:
        InputError: naming the file, and the frame or the photos, that cannot be used.
    """
    if width is not None and width < 1:
        raise InputError(f"width must be positive, got {width}")
    posed = read_views(folder, form, with_tracks)
    names = [view.name for view in posed.views]
    sizes = [(view.lens.width, view.lens.height) for view in posed.views]
    files = find_photos(posed.folder, posed.photos, sizes, factor, spare)
    pinholes = _pinholes(posed, files)
    mask_files = [view.mask for view in posed.views] if masks is None else find_masks(masks, names)
    _check_masks(files, mask_files, alpha, posed.folder)
    cameras = [pinhole.camera(pose) for pinhole, pose in zip(pinholes, posed.poses, strict=True)]
    if width is not None:
        cameras = [camera.resized_to_width(width) for camera in cameras]
    points, colors = posed.points()
    train, test = _split(names, posed, train_list, test_list, test_every)
    seen = [view.seen for view in posed.views if view.seen is not None]
    return Capture(
        posed.folder.resolve().name,
        posed.names,
        cameras,
        points,
        colors,
        read=lambda i: _read_photo(files[i].path, pinholes[i], mask_files[i], alpha, cameras[i]),
        train=train,
        test=test,
        folder=posed.folder.resolve(),
        seen=seen if len(seen) == len(names) else None,
        applied=posed.applied,
        way=Similarity.translation(-posed.origin),
        is_undistorted=any(pinhole.lookup is not None for pinhole in pinholes),
    )


def read_views(folder: Path | str, form: Format = "auto", with_tracks: bool = False) -> PosedViews:
    """Read what `load_capture` reads before it opens photos.

    Raises:
        InputError: naming what is wrong with the files that describe the capture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; a capture is a folder with photos and their poses")
    if form == "auto":
        found = pose_files(folder)
        if not found:
            raise InputError(
                f"{folder} holds neither transforms.json nor a COLMAP reconstruction (cameras, images and points3D, "
                ".bin or .txt, in sparse/0)"
            )
        form = "nerfstudio" if found[0].name == "transforms.json" else "colmap"
    return read_transforms(folder) if form == "nerfstudio" else read_colmap(folder, with_tracks)


def pose_files(folder: Path) -> tuple[Path, ...]:
    """Find the files of a folder that hold poses of photos; none when it is no capture."""
    transforms = folder / "transforms.json"
    return find_reconstruction(folder) or ((transforms,) if transforms.is_file() else ())


def _pinholes(posed: PosedViews, files: list[PhotoFile]) -> list[Pinhole]:
    """Make one undistortion for each lens and size: captures share few among many photos."""
    made: dict[tuple, Pinhole] = {}
    pinholes = []
    for view, file in zip(posed.views, files, strict=True):
        key = (view.lens.model_name, tuple(view.lens.params), view.lens.width, view.lens.height, file.size)
        if key not in made:
            made[key] = undistorted(view.lens, *file.size, where=f"{posed.described_by[0]}: {view.name}")
        pinholes.append(made[key])
    return pinholes


def _check_masks(files: list[PhotoFile], masks: list[Path | None], alpha: Alpha, folder: Path) -> None:
    """Read all masks once, and refuse those that hide all but a hundredth of the photos."""
    transparent = sum(file.has_alpha for file in files) if alpha == "mask" else 0
    masked = [i for i, file in enumerate(files) if masks[i] is not None or (transparent and file.has_alpha)]
    if not masked:
        return
    with ThreadPoolExecutor() as pool:
        counts = list(pool.map(lambda i: _counting(files[i].path, masks[i], alpha), masked))
    shown = (sum(counts) + len(files) - len(masked)) / len(files)
    if shown < 1 - _MOST_HIDDEN:
        raise InputError(
            f"masks hide {100 * (1 - shown):.1f}% of the photos in {folder}; black (or transparent) hides a pixel, "
            "anything else lets it count: are they inverted?"
        )
    if transparent:
        logger.warning("%d photos in %s have an alpha channel; transparent pixels do not count", transparent, folder)


def _counting(file: Path, mask_file: Path | None, alpha: Alpha) -> float:
    """The share of a photo's pixels that count."""
    return float(_photo_and_mask(file, mask_file, alpha)[1].mean()) / 255


def _photo_and_mask(file: Path, mask_file: Path | None, alpha: Alpha) -> tuple[np.ndarray, np.ndarray]:
    """Read a photo as bytes ``h w 3``, and which of its pixels count as bytes ``h w``: 0 or 255."""
    pixels, opacity = read_photo(file)
    height, width = pixels.shape[:2]
    counts = np.ones((height, width), bool) if mask_file is None else read_mask(mask_file, (width, height))
    if opacity is not None:
        if alpha == "mask":
            counts &= opacity > 127
            opacity = np.where(opacity > 127, 255, 0)
        pixels = on_black(pixels, opacity)
    return pixels, counts.astype(np.uint8) * 255


def _read_photo(file: Path, lens: Pinhole, mask_file: Path | None, alpha: Alpha, camera: Cameras) -> Photo:
    """Read a photo and its mask, undistort them and bring them to the camera's size."""
    original, mask = _photo_and_mask(file, mask_file, alpha)
    size = camera.width, camera.height
    pixels = resized_pixels(lens.apply(original), size, Image.Resampling.BICUBIC)
    keep = torch.from_numpy(resized_pixels(lens.apply(mask), size, Image.Resampling.BOX) > 127)[None]
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), None if keep.all() else keep


def resized_pixels(image: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """Bring pixels ``h w 3`` or ``h w`` in bytes to a width and height by one of Pillow's filters."""
    if image.shape[1::-1] == size:
        return image
    return np.array(Image.fromarray(image).resize(size, how))


# --- splits -----------------------------------------------------------------------------------------------------------


def _split(
    names: list[str], posed: PosedViews, train_list: Path | None, test_list: Path | None, every: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split photos by lists, else as the capture says, else every so-manieth is held out."""
    if train_list or test_list:
        train, test = _listed(train_list, names), _listed(test_list, names)
        if both := set(train) & set(test):
            raise InputError(f"{train_list} and {test_list} both list {names[min(both)]}: take it out of one of them")
    else:
        train, test = _positions(posed.train, names, "the capture"), _positions(posed.test, names, "the capture")
        if both := set(train) & set(test):
            logger.warning("%s trains on %d of its %d held-out photos", posed.described_by[0], len(both), len(test))
    everything = range(len(names))
    if not train and not test and every > 0:
        test = tuple(sorted(sorted(everything, key=names.__getitem__)[::every]))  # gsplat goes by letters, not numbers
    train = train or tuple(i for i in everything if i not in set(test))
    if not train:
        raise InputError(f"no photos to train on: all {len(names)} are held out (test_every {every})")
    return train, test


def _listed(file: Path | None, names: list[str]) -> tuple[int, ...]:
    if file is None:
        return ()
    try:
        lines = [line.strip().replace("\\", "/") for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {file}: {error}") from error
    return _positions(tuple(line for line in lines if line), names, str(file))


def _positions(listed: tuple[str, ...], names: list[str], where: str) -> tuple[int, ...]:
    """Find photos by their full names, or by file names alone where these are unique."""
    short = [Path(name).name for name in names]
    count = Counter(short)
    position = {name: i for i, name in enumerate(short) if count[name] == 1}
    position |= {name: i for i, name in enumerate(names)}
    unknown = [name for name in listed if name not in position]
    if unknown:
        raise InputError(f"{where} lists {len(unknown)} photos without a pose: {', '.join(unknown[:8])}")
    return tuple(sorted({position[name] for name in listed}))
