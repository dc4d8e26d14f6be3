# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from harmonizer_ns.enhancers.base import Context
from harmonizer_ns.enhancers.difix import DifixEnhancer, fit
from harmonizer_ns.enhancers.difix_tiles import ThriftyDifix, blend, cover
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
    alone = enhancer(image)
    assert alone.size == image.size
    torch.testing.assert_close(pixels(enhancer(image, ref_image=photo)), expected, atol=0.5 / 255 + 1e-6, rtol=0)
    assert not np.array_equal(np.array(alone), np.array(enhancer(image, ref_image=photo)))


def test_pil_lists_of_mixed_sizes(enhancer):
    images = [picture(37, 50), picture(16, 9, seed=1), picture(1, 1, seed=2)]
    photos = [picture(20, 20, seed=3), None, picture(5, 60, seed=4)]
    for reference in (None, photos[0], photos):
        several = enhancer(images, ref_image=reference)
        for i, (image, repaired) in enumerate(zip(images, several, strict=True)):
            one = reference[i] if isinstance(reference, list) else reference
            assert np.array_equal(np.array(repaired), np.array(enhancer(image, ref_image=one)))


def test_pil_lists_of_different_lengths_are_refused(enhancer):
    with pytest.raises(InputError, match="2 reference images for 1 images"):
        enhancer([picture(8, 8)], ref_image=[picture(8, 8), picture(8, 8)])


def test_references_that_nothing_looks_at_are_refused(tiny_difix):
    blind = DifixEnhancer.from_pretrained(tiny_difix, max_references=0)
    with pytest.raises(InputError, match="not trained with references"):
        blind(picture(8, 8), ref_image=picture(8, 8))


@pytest.mark.parametrize("length", [5, 16, 17, 23, 100])
def test_tiles_cover_everything_and_overlap(length):
    windows = cover(length, 16)
    assert (windows[0].start, windows[-1].stop) == (0, length)
    assert all(window.stop - window.start == min(16, length) for window in windows)
    assert all(b.start <= a.stop - 4 for a, b in pairwise(windows))


def test_blending_tiles_of_one_whole_gives_the_whole():
    whole = torch.rand(2, 3, 74, 46)
    blended = blend(lambda w: whole[..., 2 * w[0].start : 2 * w[0].stop, 2 * w[1].start : 2 * w[1].stop], 37, 23, 9, 2)
    torch.testing.assert_close(blended, whole)


def test_a_tile_as_large_as_the_frame_changes_nothing(enhancer, plane_frames):
    frames, context = plane_frames(1, 60, 64), Context((plane_frames(1, 30, 30, seed=1),))
    tiled = DifixEnhancer(enhancer.network, tile=64)
    torch.testing.assert_close(
        tiled.enhance(frames, context).rgb, enhancer.enhance(frames, context).rgb, atol=1e-5, rtol=0
    )


class Local:
    """In the network's place: encodes a mean of 8x8 pixels, passes the image on, and decodes their sum."""

    multiple = 8

    def encode(self, image):
        return torch.nn.functional.avg_pool2d(image, 8), [image]

    def denoise(self, latent, references, context):
        return latent + (0 if references is None else references.mean(1)) + (0 if context is None else context.sum(1))

    def decode(self, latent, skips):
        return torch.nn.functional.interpolate(latent, scale_factor=8) + skips[0]


def test_tiles_put_together_are_the_whole():
    """Exactly so for an autoencoder that looks at nothing beyond a latent's pixel."""
    image, photos, previous = torch.rand(2, 3, 200, 136), torch.rand(2, 2, 3, 200, 136), torch.rand(2, 1, 3, 200, 136)
    whole = ThriftyDifix(Local())  # type: ignore[arg-type]
    tiled = ThriftyDifix(Local(), side=64)  # type: ignore[arg-type]
    torch.testing.assert_close(tiled(image, photos, previous), whole(image, photos, previous))
    torch.testing.assert_close(tiled(image), whole(image))


def test_frames_larger_than_a_tile_are_repaired(enhancer, plane_frames):
    frames, context = plane_frames(1, 100, 150), Context((plane_frames(1, 100, 150, seed=1),))
    repaired = DifixEnhancer(enhancer.network, tile=64).enhance(frames, context).rgb
    assert repaired.shape == frames.rgb.shape
    assert bool(repaired.isfinite().all())


def test_options_that_make_no_sense_are_refused(enhancer):
    for options in ({"batch": 0}, {"tile": 8}):
        with pytest.raises(InputError, match="at least 1 frame and a tile 64 pixels"):
            DifixEnhancer(enhancer.network, **options)


def test_a_tiny_decoder_takes_the_decoders_place(tiny_difix, enhancer, plane_frames, tmp_path):
    channels = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    torch.manual_seed(0)
    tiny = AutoencoderTiny(**channels, num_decoder_blocks=(1, 1, 1, 1), num_encoder_blocks=(1, 1, 1, 1)).eval()
    tiny.save_pretrained(tmp_path)
    frames = plane_frames(1, 32, 40)
    repaired = DifixEnhancer.from_pretrained(tiny_difix, tiny_decoder=tmp_path).enhance(frames).rgb
    with torch.no_grad():
        network = enhancer.network
        latent = network.denoise(network.encode(frames.rgb * 2 - 1)[0])
        expected = (tiny.decode(latent).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(repaired, expected, atol=1e-4, rtol=0)


def test_it_moves_as_a_whole(tiny_difix):
    enhancer = DifixEnhancer.from_pretrained(tiny_difix)
    assert enhancer.to("meta") is enhancer
    assert {tensor.device.type for tensor in enhancer.network.state_dict().values()} == {"meta"}
