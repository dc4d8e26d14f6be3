# SPDX-License-Identifier: Apache-2.0
import copy

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_difix import write_tiny_decoder

from harmonizer_ns.devices import choose_dtype
from harmonizer_ns.enhancers import one_step
from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.difix.enhancer import DifixEnhancer, fit
from harmonizer_ns.enhancers.images import repair_image
from harmonizer_ns.errors import InputError
from harmonizer_ns.types import Frames


@pytest.fixture(scope="module")
def enhancer(tiny_difix):
    return DifixEnhancer.from_pretrained(tiny_difix, max_references=2)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def with_rgb(frames: Frames, rgb: torch.Tensor) -> Frames:
    return Frames(rgb, frames.alpha, frames.depth, frames.cameras)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3), (33, 47)])
def test_any_size(enhancer, plane_frames, size):
    frames = plane_frames(2, *size)
    repaired = enhancer.enhance(frames, Context(references=(plane_frames(1, *size, seed=1),) * 2))
    assert repaired.rgb.shape == (2, 3, *size)
    assert bool(repaired.rgb.isfinite().all())
    assert torch.equal(repaired.confidence, torch.ones(2, 1, *size))


def test_photos_are_fitted_never_stretched():
    photos = torch.rand(1, 3, 60, 30)
    resized, padding = fit(photos, 20, 50, torch.empty(1, 3, 24, 56))
    assert resized.shape == (1, 3, 20, 10)
    assert padding.apply(resized).shape == (1, 3, 24, 56)
    assert torch.equal(padding.undo(padding.apply(resized)), resized)


def test_photos_of_the_frames_size_come_as_they_are():
    photos = torch.rand(2, 3, 20, 50)
    assert torch.equal(fit(photos, 20, 50, torch.empty(1, 3, 24, 56))[0], photos)


def test_the_first_references_count(enhancer, plane_frames):
    frames, photos = plane_frames(1), plane_frames(3, seed=1)
    two, three, one = (enhancer.enhance(frames, Context((photos[slice(n)],))).rgb for n in (2, 3, 1))
    assert torch.equal(two, three)
    assert not torch.allclose(one, two, atol=1e-3)


def test_batches_of_any_length_give_the_same(tiny_difix, enhancer, plane_frames):
    frames = plane_frames(5)
    references = (None, plane_frames(1, seed=1), None, plane_frames(2, seed=2), plane_frames(1, seed=3))
    one_by_one = DifixEnhancer(enhancer.network, batch=1)
    context = Context(references=references)
    torch.testing.assert_close(
        one_by_one.enhance(frames, context).rgb, enhancer.enhance(frames, context).rgb, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(tiny_difix, enhancer, plane_frames, dtype):
    half = DifixEnhancer.from_pretrained(tiny_difix, dtype=dtype, max_references=2)
    frames, context = plane_frames(1, 32, 40), Context((plane_frames(1, 32, 40, seed=1),))
    repaired = half.enhance(frames, context).rgb
    assert repaired.dtype == torch.float32
    assert (repaired - enhancer.enhance(frames, context).rgb).abs().mean() < 0.03


def test_wrong_numbers_of_frames_are_refused(enhancer, plane_frames):
    with pytest.raises(ValueError, match="1 entries for 2 frames"):
        enhancer.enhance(plane_frames(2), Context(references=(None,)))
    temporal = DifixEnhancer(enhancer.network.with_context(2))
    with pytest.raises(ValueError, match="1 frames for 2 frames"):
        temporal.enhance(plane_frames(2), Context(history=(plane_frames(1),)))


def test_pil_images_one_or_many(enhancer, plane_frames):
    image, photo = picture(37, 50), picture(37, 50, seed=1)
    frames = with_rgb(plane_frames(1, 37, 50), pixels(image))
    photos = with_rgb(plane_frames(1, 37, 50), pixels(photo))
    expected = enhancer.enhance(frames, Context((photos,))).rgb
    alone = repair_image(enhancer, image)
    assert alone.size == image.size
    torch.testing.assert_close(
        pixels(repair_image(enhancer, image, ref_image=photo)), expected, atol=0.5 / 255 + 1e-6, rtol=0
    )
    assert not np.array_equal(np.array(alone), np.array(repair_image(enhancer, image, ref_image=photo)))


def test_pil_lists_of_mixed_sizes(enhancer):
    images = [picture(37, 50), picture(16, 9, seed=1), picture(1, 1, seed=2)]
    photos = [picture(20, 20, seed=3), None, picture(5, 60, seed=4)]
    for reference in (None, photos[0], photos):
        several = repair_image(enhancer, images, ref_image=reference)
        for i, (image, repaired) in enumerate(zip(images, several, strict=True)):
            one = reference[i] if isinstance(reference, list) else reference
            assert np.array_equal(np.array(repaired), np.array(repair_image(enhancer, image, ref_image=one)))


def test_pil_lists_of_different_lengths_are_refused(enhancer):
    with pytest.raises(InputError, match="2 reference images for 1 images"):
        repair_image(enhancer, [picture(8, 8)], ref_image=[picture(8, 8), picture(8, 8)])


def test_references_that_nothing_looks_at_are_refused(tiny_difix):
    blind = DifixEnhancer.from_pretrained(tiny_difix, max_references=0)
    with pytest.raises(InputError, match="not trained with references"):
        repair_image(blind, picture(8, 8), ref_image=picture(8, 8))


def test_a_tile_as_large_as_the_frame_changes_nothing(enhancer, plane_frames):
    frames, context = plane_frames(1, 60, 64), Context((plane_frames(1, 30, 30, seed=1),))
    tiled = DifixEnhancer(enhancer.network, tile=64)
    torch.testing.assert_close(
        tiled.enhance(frames, context).rgb, enhancer.enhance(frames, context).rgb, atol=1e-5, rtol=0
    )


def counted(network, monkeypatch):
    """A copy of a network, and a list of how many images it encodes at a time."""
    network, encoded = copy.deepcopy(network), []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda images: encoded.append(len(images)) or encode(images))
    return network, encoded


def test_photos_and_outputs_that_are_shown_again_are_not_encoded_again(enhancer, plane_frames, monkeypatch):
    torch.manual_seed(0)
    temporal = enhancer.network.with_context(4)
    for name, parameter in temporal.named_parameters():
        if ".temporal." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    network, encoded = counted(temporal, monkeypatch)
    kept, photos = DifixEnhancer(network), plane_frames(2, 30, 30, seed=9)
    outputs = [plane_frames(1, seed=i + 1) for i in range(4)]
    for step in range(3):
        frames, context = plane_frames(1, seed=20 + step), Context((photos,), history=tuple(outputs))
        encoded.clear()
        rgb = kept.enhance(frames, context).rgb
        assert sum(encoded) == (1 + 2 + 4 if step == 0 else 1 + 1)
        torch.testing.assert_close(rgb, DifixEnhancer(network).enhance(frames, context).rgb)
        outputs.insert(0, plane_frames(1, seed=40 + step))


def test_what_has_changed_is_encoded_again(enhancer, plane_frames, monkeypatch):
    network, encoded = counted(enhancer.network, monkeypatch)
    kept, frames, photos = DifixEnhancer(network), plane_frames(1), plane_frames(1, seed=1)
    for change in (lambda: None, lambda: photos.rgb.mul_(0.5), lambda: kept.to("cpu"), lambda: None):
        change()
        encoded.clear()
        rgb = kept.enhance(frames, Context((photos,))).rgb
        count = len(encoded)
        assert torch.equal(rgb, DifixEnhancer(network).enhance(frames, Context((photos,))).rgb)
    assert count == 1
    larger = plane_frames(1, 48, 48)
    expected = DifixEnhancer(network).enhance(larger, Context((photos,))).rgb
    assert torch.equal(kept.enhance(larger, Context((photos,))).rgb, expected)


def test_frames_larger_than_a_tile_are_repaired(enhancer, plane_frames):
    frames, context = plane_frames(1, 100, 150), Context((plane_frames(1, 100, 150, seed=1),))
    repaired = DifixEnhancer(enhancer.network, tile=64).enhance(frames, context).rgb
    assert repaired.shape == frames.rgb.shape
    assert bool(repaired.isfinite().all())


def test_options_that_make_no_sense_are_refused(enhancer):
    for options, message in (({"batch": 0}, "at least 1 frame, not 0"), ({"tile": 8}, r"at least 64 pixels.*not 8")):
        with pytest.raises(InputError, match=message):
            DifixEnhancer(enhancer.network, **options)


def test_a_tiny_decoder_takes_the_decoders_place(tiny_difix, enhancer, plane_frames, tmp_path):
    tiny = write_tiny_decoder(tmp_path)
    frames = plane_frames(1, 32, 40)
    repaired = DifixEnhancer.from_pretrained(tiny_difix, tiny_decoder=tmp_path).enhance(frames).rgb
    with torch.no_grad():
        network = enhancer.network
        latent = network.denoise(network.encode(frames.rgb * 2 - 1)[0])
        expected = (tiny.decode(latent).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(repaired, expected, atol=1e-4, rtol=0)


def test_what_is_no_tiny_decoder_for_it_is_refused(tiny_difix, tmp_path):
    write_tiny_decoder(tmp_path / "other", latent_channels=32)
    for folder, message in (
        (tmp_path / "other", "32 channels, this network's have 4"),
        (tiny_difix / "vae", "another model: AutoencoderKL, not AutoencoderTiny"),
        (tmp_path / "absent", "neither a folder nor a repository"),
    ):
        with pytest.raises(InputError, match=message):
            DifixEnhancer.from_pretrained(tiny_difix, tiny_decoder=folder)


def test_it_moves_as_a_whole(tiny_difix):
    enhancer = DifixEnhancer.from_pretrained(tiny_difix)
    assert enhancer.to("meta") is enhancer
    assert {tensor.device.type for tensor in enhancer.network.state_dict().values()} == {"meta"}


def dtypes(enhancer):
    return {tensor.dtype for tensor in enhancer.network.state_dict().values()}


def test_a_gpu_computes_in_its_half_precision_unless_told_otherwise(tiny_difix, monkeypatch):
    for capability, own in (((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device, capability=capability: capability)
        assert (choose_dtype("auto", "cuda:1"), choose_dtype("auto", "cpu")) == (own, torch.float32)
        assert choose_dtype("bf16", "cuda") == torch.bfloat16
    as_gpu = {"meta": "cuda"}
    monkeypatch.setattr(one_step, "choose_dtype", lambda name, device: choose_dtype(name, as_gpu.get(device, device)))
    enhancer = DifixEnhancer.from_pretrained(tiny_difix)
    assert dtypes(enhancer) == {torch.float32}
    assert dtypes(enhancer.to("meta")) == {torch.bfloat16}
    told = DifixEnhancer.from_pretrained(tiny_difix, dtype=torch.float32)
    assert dtypes(told.to("meta")) == {torch.float32}
    assert dtypes(DifixEnhancer(told.network.to(torch.float16)).to("meta")) == {torch.float16}


def test_compiled_and_not_compiled_agree(tiny_difix, plane_frames, monkeypatch):
    """Without a GPU and a C++ compiler, as far as the graph goes: it is one, a break would end CUDA graphs too."""
    compile_graph = torch.compile
    options = {"backend": "eager", "dynamic": False, "fullgraph": True}
    monkeypatch.setattr("torch.compile", lambda step, **_: compile_graph(step, **options))
    plain, compiled = (DifixEnhancer.from_pretrained(tiny_difix, compiled=c, tile=64) for c in (False, True))
    context = Context((plane_frames(1, 72, 40, seed=9),))
    for seed in (0, 1):
        frames = plane_frames(1, 72, 40, seed=seed)
        torch.testing.assert_close(compiled.enhance(frames, context).rgb, plain.enhance(frames, context).rgb)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu(tiny_difix, enhancer, plane_frames, compiled, dtype):
    on_gpu = DifixEnhancer.from_pretrained(tiny_difix, device="cuda", dtype=dtype, compiled=compiled, max_references=2)
    for step in range(4):  # with CUDA graphs the first calls record, the later ones replay
        frames = plane_frames(2, 64, 96, seed=step)
        photos = plane_frames(2, 64, 96, seed=step + 10)
        for references in (None, photos[[0]], photos):
            context = Context((references,) * 2)
            repaired = on_gpu.enhance(frames.to("cuda"), context).rgb
            assert repaired.is_cuda
            assert (repaired.cpu() - enhancer.enhance(frames, context).rgb).abs().mean() < 0.03


@pytest.mark.gpu
def test_a_compiled_one_leaves_the_gpu_and_comes_back(tiny_difix, plane_frames):
    on_gpu = DifixEnhancer.from_pretrained(tiny_difix, device="cuda", compiled=True)
    frames = plane_frames(1, 64, 96).to("cuda")
    for _ in range(3):
        before = on_gpu.enhance(frames).rgb.clone()
    on_gpu.to("cpu")
    torch.cuda.empty_cache()
    on_gpu.to("cuda")
    for _ in range(3):
        torch.testing.assert_close(on_gpu.enhance(frames).rgb, before, atol=0.02, rtol=0)
