# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from harmonizer_ns.splats.thinning import FEW_PHOTOS, mean_opacity, opacity_weight


@pytest.mark.parametrize(
    ("asked", "photos", "weight"),
    [(None, 5, 0.02), (None, FEW_PHOTOS + 1, 0), (None, 0, 0), (0.0, 5, 0), (0.3, 99, 0.3)],
)
def test_few_photos_thin_unless_the_user_says_otherwise(asked, photos, weight):
    assert opacity_weight(asked, photos) == weight


def test_opacity_that_no_photo_wants_goes():
    splats = {"opacities": torch.nn.Parameter(torch.tensor([2.0, -1.0, 4.0]))}
    optimizer = torch.optim.Adam(splats.values(), lr=0.1)
    before = mean_opacity(splats).item()
    for _ in range(20):
        optimizer.zero_grad()
        mean_opacity(splats).backward()
        optimizer.step()
    assert mean_opacity(splats).item() < before - 0.05
    assert torch.sigmoid(splats["opacities"]).mean() == mean_opacity(splats)
