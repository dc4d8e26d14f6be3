# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's photos become a capture as our own reader makes one of them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from runs import start, tiny_config

from harmonizer_ns.captures.capture import load_capture
from harmonizer_ns.plugin.photos import as_capture


def make_transparent(capture, masks=False):
    """The lower part fades to nothing; a mask hides the left edge."""
    meta = json.loads((capture / "transforms.json").read_text())
    for frame in meta["frames"]:
        file = capture / frame["file_path"]
        with Image.open(file) as photo:
            photo.load()
        alpha = np.full((photo.height, photo.width), 255, np.uint8)
        alpha[24:], alpha[30:], alpha[36:] = 200, 100, 0
        photo.putalpha(Image.fromarray(alpha))
        photo.save(file)
        if masks:
            frame["mask_path"] = f"masks/{file.name}"
            shown = np.full(alpha.shape, 255, np.uint8)
            shown[:, :8] = 0
            (capture / "masks").mkdir(exist_ok=True)
            Image.fromarray(shown).save(capture / frame["mask_path"])
    (capture / "transforms.json").write_text(json.dumps(meta))


@pytest.mark.parametrize("nerf", [False, True])
@pytest.mark.parametrize("masks", [False, True])
def test_transparent_pixels_do_not_count(own_capture, tmp_path, nerf, masks):
    make_transparent(own_capture, masks)
    config = tiny_config(own_capture, tmp_path, nerf=nerf, pipeline__enhancer="none")
    photos, own = start(config).pipeline.photos, load_capture(own_capture)
    found = as_capture("toy", photos)
    assert photos.mask(0).sum() == 30 * (56 if masks else 64)
    for place, index in enumerate(own.train):
        assert torch.equal(found.mask(place), own.mask(index))
        assert torch.equal(found.photo(place), own.photo(index))  # half-transparent pixels are no darker
