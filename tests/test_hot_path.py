# SPDX-License-Identifier: Apache-2.0
"""What crosses the bus and what a host waits for, in a training step, a repair, and a frame that somebody looks at."""

import threading
from types import SimpleNamespace

import pytest
import torch
from plane_scene import look_at, plane_points, row_of_cameras
from pretended_cuda import counted, is_up
from splat_runs import tiny
from torch.utils.data._utils.pin_memory import pin_memory
from toy_enhancer import ToyEnhancer

from gsplat_trainer.photos import PhotosAhead
from gsplat_trainer.scene import load_data
from gsplat_trainer.trainer import Trainer
from harmonizer_ns.captures.capture import Capture
from harmonizer_ns.distill.store import PseudoViewSampler, PseudoViewStore, encode
from harmonizer_ns.enhancers.base import Repaired
from harmonizer_ns.footage.sequence import FrameEnhancer, Item
from harmonizer_ns.images import to_float, to_pixels
from harmonizer_ns.references import ReferenceSelector
from harmonizer_ns.splats.model import seed_splats
from harmonizer_ns.splats.rendering import SplatRenderer
from harmonizer_ns.training.pairs_data.batch import PairBatch
from harmonizer_ns.types import PseudoView, as_frames
from harmonizer_ns.viewing.gui import ViewSettings
from harmonizer_ns.viewing.session import ViewSession

pytestmark = pytest.mark.usefixtures("gpu")
SMALL = 64
"""Bytes of the largest small copy: a pose of 4x4."""


def renderer(device="cuda"):
    points = plane_points(300)
    splats = seed_splats(points, points.sigmoid(), degree=0)
    return SplatRenderer({name: value.to(device) for name, value in splats.items()})


def a_view(camera, device="cuda"):
    size = (camera.height, camera.width)
    images = (torch.rand(3, *size).to(device), torch.rand(3, *size).to(device), torch.rand(1, *size).to(device))
    return PseudoView(*images, camera, 0, 0)


def test_a_stored_view_is_pinned_once_and_goes_up_as_bytes_without_a_wait():
    store, camera = PseudoViewStore(2), look_at((0, 0, 0), (0, 0, 4))
    with counted() as counts:
        store.add([encode(a_view(camera))])
    assert counts.down_bytes == 7 * 32 * 48
    before, sampler = store.stored[0].pixels, PseudoViewSampler(1.0, 0.5)
    with counted() as counts:
        drawn = [sampler.draw(store, 0.5, "cuda") for _ in range(2)]
    assert (counts.up, counts.up_bytes, counts.waits) == (2, 2 * 7 * 32 * 48, 0), str(counts)
    pinned = store.stored[0].pixels
    assert pinned.is_pinned()
    assert torch.equal(pinned, before)
    sampler.draw(store, 0.5, "cuda")
    assert store.stored[0].pixels is pinned
    on_cpu = PseudoViewSampler(1.0, 0.5).draw(store, 0.5)
    for name in ("rgb", "render", "weight"):
        assert getattr(drawn[0], name).is_cuda
        assert torch.equal(getattr(drawn[0], name).cpu(), getattr(on_cpu, name))


def test_a_step_with_a_pseudo_view_moves_only_bytes_and_its_camera(capture, tmp_path, mixer):
    config = tiny(capture, tmp_path, seeds="capture")
    trainer = Trainer(config, load_data(config), torch.device("cuda"))
    trainer.repairs.store.add([encode(a_view(trainer.scene.cameras[0]))])
    trainer.repairs.schedule = SimpleNamespace(remaining=lambda step: 1.0)
    trainer.repairs.sampler = PseudoViewSampler(1.0, 1.0)
    with counted() as counts:
        view = trainer.repairs.draw(1, trainer.device)
        trainer.objective.pseudo_view(trainer.splats, 0, view)
    assert counts.up <= 1 + 3, str(counts)
    assert counts.up_bytes <= 7 * 48 * 64 + 3 * SMALL
    assert (counts.down, counts.waits) == (0, 0), str(counts)


def test_the_next_photo_is_read_and_pinned_while_a_step_runs():
    readers, pictures = [], [torch.randint(256, (3, 4, 6), dtype=torch.uint8) for _ in range(3)]

    def read(index):
        readers.append(threading.current_thread().name)
        return pictures[index], torch.rand(1, 4, 6) > 0.5 if index else None

    cameras = row_of_cameras(3, width=6, height=4)
    scene = Capture("", ("", "", ""), cameras, torch.rand(3, 3), torch.rand(3, 3), read, (0, 1, 2))
    photos = PhotosAhead(scene, torch.device("cuda"))
    photos.expect([1])
    with counted() as counts:
        photo, mask = photos[1]
    assert readers[0].startswith("photos")
    assert (counts.up, counts.up_bytes, counts.waits) == (2, 4 * 4 * 6, 0), str(counts)
    assert torch.equal(photo.cpu(), pictures[1])
    assert torch.equal(mask.cpu(), scene.mask(1))
    photos.expect([2])
    assert photos[0][1] is None  # nobody has expected it
    assert [torch.equal(photos[i][0].cpu(), pictures[i]) for i in (0, 1, 2)] == [True] * 3


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_photos_go_up_as_they_are_and_are_resized_there(kind):
    cameras, scene = row_of_cameras(3, width=96, height=64), renderer()
    photos = [torch.randint(256, (3, 64, 96), dtype=torch.uint8) for _ in cameras]
    given = [photo if kind == "bytes" else to_float(photo) for photo in photos]
    capture = SimpleNamespace(cameras=cameras, points=None, train=range(3), photo=given.__getitem__)
    view = look_at((0.1, 0, 0), (0, 0, 4))
    with counted() as counts:
        shown = ReferenceSelector(capture, 2).select(view, scene)
    size = 3 * 64 * 96 * (1 if kind == "bytes" else 4)
    assert counts.up_bytes < 2 * size + 1000, str(counts)
    assert shown.rgb.is_cuda
    there = ReferenceSelector(capture, 2).select(view, renderer("cpu"))
    assert torch.equal(shown.rgb.cpu(), there.rgb)


def test_a_picture_comes_down_as_bytes():
    with counted() as counts:
        picture = to_pixels(torch.rand(3, 32, 48).to("cuda"))
    assert counts.down_bytes == picture.nbytes == 3 * 32 * 48


def test_enhancers_that_nobody_uses_wait_on_the_cpu():
    loaded = {}

    class Moving(ToyEnhancer):
        places = ()

        def to(self, device):
            self.places = (*self.places, str(torch.device(device).type))
            return self

        def enhance(self, frames, context):
            return Repaired(frames.rgb, frames.alpha)

    session = ViewSession(lambda name: loaded.setdefault(name, Moving()))

    def show(client, name):
        session.enhance(client, as_frames(torch.rand(3, 8, 8).to("cuda")), ViewSettings(enhancer=name), lambda _: None)

    show(1, "a")
    show(2, "a")
    show(1, "b")
    assert [loaded[name].places for name in "ab"] == [("cuda",), ("cuda",)]
    session.forget(2)
    assert loaded["a"].places == ("cuda", "cpu")
    show(1, "a")
    assert [loaded[name].places for name in "ab"] == [("cuda", "cpu", "cuda"), ("cuda", "cpu")]


def test_videos_go_up_as_bytes_and_outputs_that_are_shown_again_stay_there():
    class Temporal(ToyEnhancer):
        max_context = 2

        def enhance(self, frames, context):
            assert all(is_up(output.rgb) for output in context.history)
            return Repaired(frames.rgb * 0.9, frames.alpha)

    pixels = [torch.randint(256, (3, 32, 48), dtype=torch.uint8) for _ in range(3)]
    items = [Item(i, f"{i}.png", lambda i=i: pixels[i]) for i in range(3)]
    frames = FrameEnhancer(Temporal(), lambda *_: None, device="cuda")
    with counted() as counts:
        made = [to_pixels(after) for _, _, after in frames.run(items)]
    assert counts.up_bytes <= 3 * (3 * 32 * 48 + 3 * SMALL), str(counts)
    assert counts.down_bytes <= 3 * 3 * 32 * 48 + 4 * SMALL, str(counts)
    for picture, before in zip(made, pixels, strict=True):
        assert (torch.from_numpy(picture).permute(2, 0, 1).float() - 0.9 * before.float()).abs().max() <= 0.5001


def test_batches_of_pairs_are_pinned_and_sent_without_a_wait():
    image, camera = torch.rand(2, 3, 8, 8), torch.eye(4).repeat(2, 1, 1)
    batch = pin_memory(PairBatch(("a", "b"), (0, 1), image, image, image[:, :1], camera, camera[:, :3, :3]))
    assert batch.names == ("a", "b")
    assert all(part.is_pinned() for part in vars(batch).values() if isinstance(part, torch.Tensor))
    with counted() as counts:
        batch.to("cuda")
    assert (counts.up, counts.waits) == (5, 0), str(counts)
