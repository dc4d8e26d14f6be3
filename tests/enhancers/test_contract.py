# SPDX-License-Identifier: Apache-2.0
"""What every enhancer must do, whatever is in it. New entries of the table are tested here without further ado."""

from dataclasses import replace

import pytest
import tiny_cosmos
import torch
from PIL import Image

from harmonizer_ns.enhancers.base import Context, Enhancer
from harmonizer_ns.enhancers.cosmos.enhancer import CosmosEnhancer
from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer
from harmonizer_ns.enhancers.gpu_sharing import ParkedEnhancer
from harmonizer_ns.enhancers.images import repair_image
from harmonizer_ns.enhancers.specs import SPECS, load_enhancer
from harmonizer_ns.errors import InputError
from harmonizer_ns.types import Frames


def _temporal_difix(folder):
    torch.manual_seed(0)
    network = load_enhancer(folder).network.with_context(4)
    for name, parameter in network.named_parameters():
        if ".temporal." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return DifixEnhancer(network)


ENHANCERS = {name: lambda _, name=name: load_enhancer(name) for name, spec in SPECS.items() if not spec.repository}
ENHANCERS |= {
    "tiny difix": lambda folder: DifixEnhancer.from_pretrained(folder, max_references=2),
    "tiny temporal difix": _temporal_difix,
    "tiny cosmos": lambda _: CosmosEnhancer(tiny_cosmos.network(), cut=True),
    "tiny cosmos with cached context": lambda _: CosmosEnhancer(tiny_cosmos.network(cached_context=True), cut=True),
    "parked": lambda folder: ParkedEnhancer(_temporal_difix(folder)),
}
"""All that load without the Hub, and small random ones of the architectures that come from there."""


@pytest.fixture(scope="module", params=ENHANCERS)
def enhancer(request, tiny_difix):
    return ENHANCERS[request.param](tiny_difix)


def test_it_answers_all_that_callers_ask(enhancer):
    assert isinstance(enhancer, Enhancer)
    assert enhancer.to("cpu") is enhancer


def _assert_fits(repaired, frames: Frames) -> None:
    assert repaired.rgb.shape == frames.rgb.shape
    assert repaired.confidence.shape == frames.alpha.shape
    for values in (repaired.rgb, repaired.confidence):
        assert values.dtype == torch.float32
        assert values.device == frames.rgb.device
        assert not values.requires_grad
        assert values.isfinite().all()
        assert values.min() >= 0
        assert values.max() <= 1


@pytest.mark.parametrize(("height", "width"), [(13, 17), (24, 40), (33, 47), (64, 64)])
def test_any_size_without_context(enhancer, plane_frames, height, width):
    frames = plane_frames(2, height, width)
    _assert_fits(enhancer.enhance(frames), frames)


def test_the_previous_output_is_the_newest_of_the_history(plane_frames):
    newest, older = plane_frames(1, seed=1), plane_frames(1, seed=2)
    assert Context(history=(newest, older)).previous is newest
    assert Context().previous is None


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ENHANCERS)
def test_a_gpu_gives_the_same_wherever_context_lies(name, tiny_difix, plane_frames):
    enhancer = ENHANCERS[name](tiny_difix)
    frames, photos, output = plane_frames(1), plane_frames(2, shift=0.1, seed=1), plane_frames(1, shift=0.02, seed=2)
    expected = enhancer.enhance(frames, Context(photos, (output,)))
    enhancer.to("cuda")
    for context in (Context(photos.to("cuda"), (output.to("cuda"),)), Context([photos], (output,))):
        repaired = enhancer.enhance(frames.to("cuda"), context)
        _assert_fits(repaired, frames.to("cuda"))
        assert (repaired.rgb.cpu() - expected.rgb).abs().mean() < 0.01  # in half precision, maybe
    _assert_fits(enhancer.to("cpu").enhance(frames, Context(photos, (output,))), frames)


IN_TILES = {
    "tiny difix in tiles": lambda folder, tile: DifixEnhancer.from_pretrained(folder, tile=tile),
    "tiny cosmos in tiles": lambda _, tile: CosmosEnhancer(tiny_cosmos.network(), cut=True, tile=tile),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*ENHANCERS, *IN_TILES])
def test_a_gpu_gives_the_same_in_half_precision(name, tiny_difix, plane_frames):
    """A stream with a full history; so temporal SD-Turbo, tiles and kept latents run as they do for a video."""
    make = IN_TILES.get(name)
    enhancers = [ENHANCERS[name](tiny_difix) if make is None else make(tiny_difix, 64) for _ in range(2)]
    on_cpu, on_gpu = enhancers[0], enhancers[1].to("cuda")
    if hasattr(on_gpu, "network") and name != "builtin":
        on_gpu.to("cuda", torch.bfloat16)
    photos, outputs = plane_frames(2, 128, 192, shift=0.1, seed=1), ()
    for step in range(6):
        frames = plane_frames(1, 128, 192, shift=0.02 * step, seed=2)
        expected = on_cpu.enhance(frames, Context(photos, outputs)).rgb
        there = Context(photos.to("cuda"), tuple(output.to("cuda") for output in outputs))
        repaired = on_gpu.enhance(frames.to("cuda"), there)
        _assert_fits(repaired, frames.to("cuda"))
        assert (repaired.rgb.cpu() - expected).abs().mean() < 0.03
        outputs = (replace(frames, rgb=expected), *outputs)[:4]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("with_previous", [False, True])
def test_any_number_of_references(enhancer, plane_frames, count, with_previous):
    frames = plane_frames(1)
    references = (plane_frames(count, shift=0.1, seed=1),) if count else ()
    history = (plane_frames(1, shift=0.02, seed=2),) if with_previous else ()
    _assert_fits(enhancer.enhance(frames, Context(references, history)), frames)


def test_references_of_another_size(enhancer, plane_frames):
    frames = plane_frames(1, 24, 40)
    context = Context(references=(plane_frames(2, 50, 71, shift=0.1),), history=(plane_frames(1, 30, 30),))
    _assert_fits(enhancer.enhance(frames, context), frames)


def test_some_frames_have_references_and_others_none(enhancer, plane_frames):
    frames = plane_frames(3)
    context = Context(references=(None, plane_frames(1, shift=0.1), plane_frames(3, shift=0.1)))
    _assert_fits(enhancer.enhance(frames, context), frames)


def test_a_frame_without_reference(enhancer, plane_frames):
    frames = plane_frames(1)
    with_none = enhancer.enhance(frames, Context(references=(None,)))
    _assert_fits(with_none, frames)
    assert torch.equal(with_none.rgb, enhancer.enhance(frames, Context()).rgb)


def test_photos_given_once_are_shown_to_every_frame(enhancer, plane_frames):
    frames, photos = plane_frames(2), plane_frames(2, shift=0.1)
    once, each = (enhancer.enhance(frames, Context(references)) for references in (photos, [photos, photos]))
    assert torch.equal(once.rgb, each.rgb)


def test_wrong_counts_are_refused_by_those_who_look(enhancer, plane_frames):
    if enhancer.max_references:
        with pytest.raises(ValueError, match="3 entries for 2 frames"):
            enhancer.enhance(plane_frames(2), Context((None, None, None)))
    if enhancer.max_context:
        with pytest.raises(ValueError, match="1 frames for 2 frames"):
            enhancer.enhance(plane_frames(2), Context(history=(plane_frames(1),)))


def test_no_more_is_looked_at_than_it_says(enhancer, plane_frames):
    frames, photos = plane_frames(1), plane_frames(8, shift=0.1)
    history = tuple(plane_frames(1, seed=i, shift=0.02 * i) for i in range(1, 7))
    everything = enhancer.enhance(frames, Context(photos, history))
    shown = Context(photos[slice(enhancer.max_references)], history[: enhancer.max_context])
    assert torch.equal(everything.rgb, enhancer.enhance(frames, shown).rgb)


@pytest.mark.parametrize("what", ["photo", "output"])
def test_a_picture_that_was_changed_in_place_is_looked_at_again(enhancer, plane_frames, what):
    frames, shown = plane_frames(1), plane_frames(1, shift=0.1, seed=1)
    count = max(enhancer.max_context, 1)
    context = Context(shown) if what == "photo" else Context(history=(shown,) * count)
    before = enhancer.enhance(frames, context)
    shown.rgb.mul_(0.2)
    after, fresh = enhancer.enhance(frames, context), Frames(shown.rgb.clone(), shown.alpha, shown.depth, shown.cameras)
    context = Context(fresh) if what == "photo" else Context(history=(fresh,) * count)
    assert torch.equal(after.rgb, enhancer.enhance(frames, context).rgb)
    looks = enhancer.max_references if what == "photo" else enhancer.max_context
    assert torch.equal(after.rgb, before.rgb) == (not looks)


def test_empty_renders(enhancer, plane_frames):
    seen = plane_frames(1)
    empty = Frames(torch.zeros_like(seen.rgb), torch.zeros_like(seen.alpha), torch.zeros_like(seen.depth), seen.cameras)
    _assert_fits(enhancer.enhance(empty, Context(references=(seen,))), empty)


def test_frames_do_not_influence_each_other(enhancer, plane_frames):
    frames, references = plane_frames(2), (plane_frames(2, shift=0.1), plane_frames(1, shift=-0.1))
    together = enhancer.enhance(frames, Context(references))
    for i in range(2):
        alone = enhancer.enhance(frames[i], Context(references[i : i + 1]))
        assert torch.allclose(together.rgb[i : i + 1], alone.rgb, atol=1e-4)
        assert torch.allclose(together.confidence[i : i + 1], alone.confidence, atol=1e-3)


def test_it_is_stateless_and_leaves_its_input_alone(enhancer, plane_frames):
    frames, references = plane_frames(1), plane_frames(2, shift=0.1)
    before = frames.rgb.clone(), references.rgb.clone()
    first = enhancer.enhance(frames, Context((references,)))
    enhancer.enhance(plane_frames(1, seed=9))
    again = enhancer.enhance(frames, Context((references,)))
    assert torch.equal(first.rgb, again.rgb)
    assert torch.equal(first.confidence, again.confidence)
    assert torch.equal(before[0], frames.rgb)
    assert torch.equal(before[1], references.rgb)


def test_images_are_repaired_or_refused(enhancer):
    image, photo = (Image.fromarray(torch.randint(256, (9, 17, 3), dtype=torch.uint8).numpy()) for _ in range(2))
    if enhancer.needs_geometry:
        with pytest.raises(InputError, match="depth and cameras"):
            repair_image(enhancer, image)
        return
    repaired, several = repair_image(enhancer, image), repair_image(enhancer, [image, image])
    assert repaired.size == (17, 9)
    assert [one.tobytes() for one in several] == [repaired.tobytes()] * 2
    if enhancer.max_references:
        assert repair_image(enhancer, image, ref_image=photo).tobytes() != repaired.tobytes()
    else:
        with pytest.raises(InputError, match="not trained with references"):
            repair_image(enhancer, image, ref_image=photo)
