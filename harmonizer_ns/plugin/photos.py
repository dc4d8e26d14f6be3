# SPDX-License-Identifier: Apache-2.0
"""A nerfstudio data manager's capture: its photos are undistorted once, and read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.data.datamanagers.base_datamanager import DataManager
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, _undistort_image
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from harmonizer_ns.captures.capture import Capture, Photo
from harmonizer_ns.images import to_uint8
from harmonizer_ns.plugin.cameras import from_nerfstudio, is_pinhole
from harmonizer_ns.types import Cameras


class DatasetPhotos:
    """Photos of one split with pinhole cameras.

    `FullImageDatamanager` undistorts photos in its own cache, which is used. The ray-based managers keep photos as
    they are, so those are read here; distorted ones are undistorted the way nerfstudio's splat methods do it.

    Args:
        datamanager: any nerfstudio data manager.
        split: which of its datasets.
    """

    def __init__(self, datamanager: DataManager, split: Literal["train", "eval"]) -> None:
        dataset = datamanager.train_dataset if split == "train" else datamanager.eval_dataset
        assert dataset is not None
        self._datamanager, self._split = datamanager, split
        self._dataset: InputDataset = dataset
        self._undistorted: dict[int, tuple[dict, Cameras]] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    @property
    def files(self) -> list[Path]:
        """Where the photos lie."""
        return self._dataset.image_filenames

    @property
    def cameras(self) -> list[Cameras]:
        """One pinhole camera for each photo, in the dataset's order."""
        return self._cameras

    @cached_property
    def _cameras(self) -> list[Cameras]:
        if is_pinhole(self._dataset.cameras):
            return one_by_one(self._dataset.cameras)
        if isinstance(self._datamanager, FullImageDatamanager):
            _ = self._cached  # undistorts, and corrects the dataset's intrinsics
            return one_by_one(self._dataset.cameras)
        return [self._read(i)[1] for i in range(len(self))]

    @property
    def _cached(self) -> list[dict]:
        manager: Any = self._datamanager
        return manager.cached_train if self._split == "train" else manager.cached_eval

    def photo(self, index: int) -> Float[Tensor, "3 h w"]:
        """One photo in [0, 1]; transparent pixels are black, the others have their own colour, however opaque."""
        return _as_rgb(self._data(index)["image"])

    def mask(self, index: int) -> Bool[Tensor, "1 h w"] | None:
        """Which pixels of a photo count, neither masked nor transparent ones; None for all."""
        data = self._data(index)
        counts = _is_opaque(data["image"])
        if "mask" in data:
            counts &= data["mask"].bool()
        return None if counts.all() else counts.permute(2, 0, 1)

    def _data(self, index: int) -> dict:
        return self._cached[index] if isinstance(self._datamanager, FullImageDatamanager) else self._read(index)[0]

    def _read(self, index: int) -> tuple[dict, Cameras]:
        if index not in self._undistorted:
            data = self._dataset.get_data(index, image_type="uint8")
            self._undistorted[index] = _undistort(self._dataset.cameras[index : index + 1], data)
        return self._undistorted[index]


class TrainingPhotos(DatasetPhotos):
    """Training photos with pinhole cameras, as `Repairs` ask for them.

    Args:
        datamanager: any nerfstudio data manager with a ``train_dataset``.
    """

    def __init__(self, datamanager: DataManager) -> None:
        super().__init__(datamanager, "train")

    @property
    def train(self) -> range:
        """Indices of the photos to learn from: all of them."""
        return range(len(self))

    @property
    def held_out(self) -> list[Cameras]:
        """Poses of the photos that are held out."""
        places = self.held_out_places
        cameras = one_by_one(self._datamanager.eval_dataset.cameras) if places else []  # type: ignore[union-attr]
        return [cameras[place] for place in places]

    @property
    def held_out_places(self) -> list[int]:
        """Which photos of the evaluation are held out: nerfstudio may also evaluate those that it learns from."""
        dataset, known = self._datamanager.eval_dataset, {file.resolve() for file in self.files}
        return [i for i, file in enumerate(dataset.image_filenames) if file.resolve() not in known] if dataset else []

    @property
    def points(self) -> Float[Tensor, "p 3"] | None:
        """Seed points in the model's frame, on the CPU, or None."""
        return self._metadata.get("points3D_xyz")

    @property
    def colors(self) -> Float[Tensor, "p 3"] | None:
        """Colours of the seed points in [0, 1], on the CPU, or None."""
        colors = self._metadata.get("points3D_rgb")
        return None if colors is None else colors.float() / 255

    @property
    def _metadata(self) -> dict[str, Any]:
        return self._datamanager.train_dataparser_outputs.metadata  # type: ignore[attr-defined]


def as_capture(
    name: str, photos: TrainingPhotos, others: DatasetPhotos | None = None, test: Sequence[int] = ()
) -> Capture:
    """The photos of a run as one capture in the model's frame, those that it learned from first.

    Transparent pixels do not count, as where `load_capture` reads photos.

    Args:
        name: of the capture.
        photos: that the run learned from.
        others: from which some are held out.
        test: which of them.
    """
    count = len(photos)

    def read(index: int) -> Photo:
        split, place = (photos, index) if index < count or others is None else (others, test[index - count])
        mask = split.mask(place)
        return to_uint8(split.photo(place)).cpu(), None if mask is None else mask.cpu()

    points = torch.zeros(0, 3) if photos.points is None else photos.points.float()
    rest = [] if others is None else [(others.files[i], others.cameras[i]) for i in test]
    return Capture(
        name,
        tuple(map(str, (*photos.files, *(file for file, _ in rest)))),
        [*photos.cameras, *(camera for _, camera in rest)],
        points,
        torch.zeros_like(points) if photos.colors is None else photos.colors,
        read,
        train=tuple(range(count)),
        test=tuple(range(count, count + len(rest))),
    )


def one_by_one(cameras: NerfstudioCameras) -> list[Cameras]:
    """Nerfstudio's cameras as batches of one; distortion is not looked at."""
    return [from_nerfstudio(cameras[i : i + 1]) for i in range(len(cameras))]


def _as_float(image: Tensor) -> Float[Tensor, "h w c"]:
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()


def _is_opaque(image: Tensor) -> Bool[Tensor, "h w 1"]:
    """Tell which pixels are more than half opaque; without an alpha channel all are."""
    return _as_float(image[..., 3:]).gt(0.5).all(-1, keepdim=True)


def _as_rgb(image: Tensor) -> Float[Tensor, "3 h w"]:
    return (_as_float(image[..., :3]) * _is_opaque(image)).permute(2, 0, 1)


def _undistort(camera: NerfstudioCameras, data: dict) -> tuple[dict, Cameras]:
    """A photo with its mask, and its pinhole camera."""
    original = from_nerfstudio(camera)
    if is_pinhole(camera):
        return data, original
    single = camera.reshape(())
    assert single.distortion_params is not None
    intrinsics, image, mask = _undistort_image(
        single,
        single.distortion_params.numpy(),
        data,
        data["image"].numpy(),
        single.get_intrinsics_matrices().numpy(),
    )
    height, width = image.shape[:2]
    matrix = torch.as_tensor(intrinsics, dtype=torch.float32)[None]
    masks = {} if mask is None else {"mask": mask}
    return {"image": torch.from_numpy(image), **masks}, Cameras(original.camera_to_world, matrix, width, height)
