# SPDX-License-Identifier: Apache-2.0
"""The scene that is trained on: undistorted photos with pinhole cameras, split into seen and held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from gsplat_trainer.config import Config
from harmonizer_ns.captures.colmap import PosedViews, View, find_sparse, read_colmap
from harmonizer_ns.captures.frame import Similarity, gsplat_normalization, read_dataparser_transforms
from harmonizer_ns.captures.lens import Pinhole, undistorted
from harmonizer_ns.captures.photos import find_image, find_photos, photo_size, read_mask, read_rgb
from harmonizer_ns.captures.transforms import read_transforms
from harmonizer_ns.errors import InputError
from harmonizer_ns.poses import camera_extent
from harmonizer_ns.types import Cameras


@dataclass
class Scene:
    """Photos, cameras and seed points in one frame.

    Args:
        name: of the capture's folder.
        names: of the photos.
        cameras: pinhole, batches of one on the CPU.
        points: seed points.
        colors: their colours in [0, 1].
        train: indices of the photos to learn from.
        test: indices of the photos that are held out.
        read: gives photo and mask (None: everything counts) of an index.
        seen: for each photo the points it shows, or None where that is not known.
        applied: from COLMAP's frame to the capture's own.
    """

    name: str
    names: tuple[str, ...]
    cameras: list[Cameras]
    points: Float[Tensor, "p 3"]
    colors: Float[Tensor, "p 3"]
    train: tuple[int, ...]
    test: tuple[int, ...]
    read: Callable[[int], tuple[UInt8[Tensor, "3 h w"], Bool[Tensor, "1 h w"] | None]]
    seen: list[Int[Tensor, " k"]] | None = None
    applied: Float[Tensor, "4 4"] = field(default_factory=lambda: torch.eye(4))
    _cache: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    def photo(self, index: int) -> UInt8[Tensor, "3 h w"]:
        """A photo in bytes; read and undistorted once."""
        return self._photo_and_mask(index)[0]

    def mask(self, index: int) -> Bool[Tensor, "1 h w"] | None:
        """Which of its pixels count; None for all."""
        return self._photo_and_mask(index)[1]

    def _photo_and_mask(self, index: int) -> tuple[Tensor, Tensor | None]:
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
    def extent(self) -> float:
        """gsplat's scene scale."""
        return camera_extent(torch.cat([camera.centers for camera in self.cameras]))

    def moved(self, way: Similarity) -> Scene:
        """The same scene in another frame."""
        cameras = [replace(camera, camera_to_world=way.poses(camera.camera_to_world)) for camera in self.cameras]
        return replace(self, cameras=cameras, points=way.points(self.points))

    def normalization(self) -> Similarity:
        """The way into gsplat's normalised frame."""
        return gsplat_normalization(torch.cat([camera.camera_to_world for camera in self.cameras]), self.points)

    def nerfstudio_frame(self, file: Path) -> Similarity:
        """The way into the frame of a nerfstudio run."""
        return read_dataparser_transforms(file, self.applied)


def load_scene(config: Config) -> Scene:
    """Read the capture that the settings name.

    Raises:
        InputError: naming what is wrong with it.
    """
    if config.data_dir is None:
        raise InputError("give the capture's folder with --data_dir")
    posed = _read_posed(config)
    files = find_photos(posed.images, [view.name for view in posed.views], config.data_factor, config.result_dir)
    pinholes = _pinholes(posed, files)
    masks = [_mask_file(view, config.mask_dir) for view in posed.views]
    names = tuple(view.name for view in posed.views)
    train, test = _split(names, posed, config)
    cameras = [
        Cameras(view.camera_to_world[None], lens.intrinsics[None], lens.width, lens.height)
        for view, lens in zip(posed.views, pinholes, strict=True)
    ]
    seen = [view.seen for view in posed.views if view.seen is not None]
    scene = Scene(
        posed.folder.resolve().name,
        names,
        cameras,
        posed.points,
        posed.colors,
        train,
        test,
        read=lambda i: _read_photo(files[i], pinholes[i], masks[i]),
        seen=seen if len(seen) == len(names) else None,
        applied=posed.applied,
    )
    return scene.moved(scene.normalization()) if config.normalize_world_space else scene


def _read_posed(config: Config) -> PosedViews:
    folder, kind = Path(config.data_dir or "."), config.data_format
    if not folder.is_dir():
        raise InputError(f"--data_dir {folder} is not a folder")
    if kind == "auto":
        has_transforms = (folder / "transforms.json").is_file()
        kind = "nerfstudio" if has_transforms and find_sparse(folder) is None else "colmap"
    if kind == "nerfstudio":
        return read_transforms(folder)
    return read_colmap(folder, with_tracks=config.depth_loss)


def _pinholes(posed: PosedViews, files: list[Path]) -> list[Pinhole]:
    """One undistortion for each lens and size: captures share few among many photos."""
    made: dict[tuple, Pinhole] = {}
    pinholes = []
    for view, file in zip(posed.views, files, strict=True):
        size = photo_size(file, (view.lens.width, view.lens.height))
        key = (view.lens.model_name, tuple(view.lens.params), view.lens.width, view.lens.height, size)
        if key not in made:
            made[key] = undistorted(view.lens, *size, where=view.name)
        pinholes.append(made[key])
    return pinholes


def _mask_file(view: View, folder: Path | None) -> Path | None:
    if folder is None:
        return view.mask
    # COLMAP's own convention appends .png to the whole name.
    found = find_image(folder, f"{view.name}.png") or find_image(folder, view.name)
    return found or find_image(folder, Path(view.name).name)


def _read_photo(file: Path, lens: Pinhole, mask_file: Path | None) -> tuple[Tensor, Tensor | None]:
    original = read_rgb(file)
    photo = torch.from_numpy(lens.apply(original)).permute(2, 0, 1).contiguous()
    inside = lens.inside
    mask = np.full((lens.height, lens.width), 255, np.uint8) if inside is None else inside
    if mask_file is not None:
        mask = np.minimum(mask, lens.apply(read_mask(mask_file, (original.shape[1], original.shape[0]))))
    keep = torch.from_numpy(mask > 127)[None]
    return photo, None if keep.all() else keep


# --- splits -----------------------------------------------------------------------------------------------------------


def _split(names: tuple[str, ...], posed: PosedViews, config: Config) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """By lists, else by what the capture says, else every ``test_every``-th photo is held out."""
    if config.train_list or config.test_list:
        train = _listed(config.train_list, names)
        test = _listed(config.test_list, names)
    else:
        train, test = _positions(posed.train, names, "the capture"), _positions(posed.test, names, "the capture")
    everything = range(len(names))
    if not train and not test and config.test_every > 0:
        test = tuple(everything[:: config.test_every])
    train = train or tuple(i for i in everything if i not in set(test))
    if not train:
        raise InputError(f"no photos to train on: all {len(names)} are held out (test_every {config.test_every})")
    return train, test


def _listed(file: Path | None, names: tuple[str, ...]) -> tuple[int, ...]:
    if file is None:
        return ()
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError(f"cannot read the list {file}: {error.strerror}") from error
    return _positions(tuple(line for line in lines if line), names, str(file))


def _positions(listed: tuple[str, ...], names: tuple[str, ...], where: str) -> tuple[int, ...]:
    """Full names, or file names alone where these are unique."""
    short = [Path(name).name for name in names]
    count = Counter(short)
    position = {name: i for i, name in enumerate(short) if count[name] == 1}
    position |= {name: i for i, name in enumerate(names)}
    unknown = [name for name in listed if name not in position]
    if unknown:
        raise InputError(f"{where} lists {len(unknown)} photos without a pose: {', '.join(unknown[:8])}")
    return tuple(sorted({position[name] for name in listed}))
