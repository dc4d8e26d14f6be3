# SPDX-License-Identifier: Apache-2.0
from itertools import pairwise

import pytest
import torch

from harmonizer_ns.enhancers.difix.tiled import TiledDifix
from harmonizer_ns.enhancers.tiles import cover, in_tiles


@pytest.mark.parametrize("length", [5, 16, 17, 23, 100])
def test_tiles_cover_everything_and_overlap(length):
    windows = cover(length, 16)
    assert (windows[0].start, windows[-1].stop) == (0, length)
    assert all(window.stop - window.start == min(16, length) for window in windows)
    assert all(b.start <= a.stop - 4 for a, b in pairwise(windows))


def test_blending_tiles_of_one_whole_gives_the_whole():
    whole = torch.rand(2, 3, 74, 46)
    torch.testing.assert_close(in_tiles(lambda tile: tile, 9, (2,), 2)(whole), whole)


class Local:
    """In the network's place: encodes a mean of 8x8 pixels, passes the image on, and decodes their sum."""

    multiple = 8

    def encode(self, image):
        return torch.nn.functional.avg_pool2d(image, 8), [image]

    def latents(self, image):
        return self.encode(image)[0]

    def denoise(self, latent, references, context):
        return latent + (0 if references is None else references.mean(1)) + (0 if context is None else context.sum(1))

    def decode(self, latent, skips):
        return torch.nn.functional.interpolate(latent, scale_factor=8) + skips[0]


def test_tiles_put_together_are_the_whole():
    """Exactly so for an autoencoder that looks at nothing beyond a latent's pixel."""
    image, photos, previous = torch.rand(2, 3, 200, 136), torch.rand(2, 2, 3, 25, 17), torch.rand(2, 1, 3, 25, 17)
    whole = TiledDifix(Local())  # type: ignore[arg-type]
    tiled = TiledDifix(Local(), side=64)  # type: ignore[arg-type]
    torch.testing.assert_close(tiled.repair(image, photos, previous), whole.repair(image, photos, previous))
    torch.testing.assert_close(tiled.repair(image), whole.repair(image))
    torch.testing.assert_close(tiled.latents(image), whole.latents(image))
