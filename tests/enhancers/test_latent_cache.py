# SPDX-License-Identifier: Apache-2.0
import gc
import weakref

import torch

from harmonizer_ns.enhancers.latent_cache import LatentCache


def test_latents_go_with_their_image():
    cache, image = LatentCache(), torch.rand(3)
    latents = cache.of(image, None, lambda: torch.ones(3))
    assert cache.of(image, None, lambda: torch.zeros(3)) is latents
    seen = weakref.ref(latents)
    del image, latents
    gc.collect()
    assert seen() is None


def test_other_settings_and_other_content_give_other_latents():
    cache, image = LatentCache(), torch.ones(3)
    for how, factor in (("small", 1), ("large", 1), ("large", 2)):
        image.mul_(factor)
        assert torch.equal(cache.of(image, how, lambda: image * 10), image * 10)
    cache.clear()
    assert torch.equal(cache.of(image, "large", lambda: image - 1), image - 1)
