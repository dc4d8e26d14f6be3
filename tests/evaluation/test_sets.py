# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import scipy.linalg
import torch

from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.networks import InceptionFeatures, Networks
from harmonizer_ns.evaluation.sets import PictureSets, set_distances


@pytest.fixture(scope="module")
def features():
    """Of two sets of pictures, by a small random network."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 5, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    )
    with torch.no_grad():
        return network(torch.rand(40, 3, 24, 32)), network(0.8 * torch.rand(40, 3, 24, 32) ** 2)


def test_fid_is_the_formula_with_scipys_matrix_root(features):
    x, y = (value.double().numpy() for value in features)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root)
    assert set_distances(*features)["fid"] == pytest.approx(expected, rel=1e-3)
    assert set_distances(features[0], features[0])["fid"] == pytest.approx(0, abs=1e-4)


def kernel_distance(x, y):
    """Unbiased squared MMD with the kernel ``(x y / c + 1)^3``, by loops."""
    kernel = lambda a, b: float((a @ b / len(a) + 1) ** 3)  # noqa: E731
    count = len(x)
    within = sum(kernel(z[i], z[j]) for z in (x, y) for i in range(count) for j in range(count) if i != j)
    across = sum(kernel(a, b) for a in x for b in y)
    return within / (count * (count - 1)) - 2 * across / count**2


def test_kid_is_the_unbiased_kernel_distance_of_the_whole_set(features):
    x, y = (value.double()[:12] for value in features)
    expected = kernel_distance(x, y)
    assert set_distances(x.float(), y.float())["kid"] == pytest.approx(expected, rel=1e-2)


def test_large_sets_are_drawn_from_reproducibly(features):
    state = torch.get_rng_state()
    first, second = (set_distances(*features, subset=10)["kid"] for _ in range(2))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())
    assert first == pytest.approx(set_distances(*features)["kid"], rel=0.5)


def test_one_picture_is_no_set(features):
    assert set_distances(features[0][:1], features[1][:1]) == {"fid": None, "kid": None}


def test_without_weights_nothing_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    sets = PictureSets(Networks())
    sets.add("plain", torch.rand(3, 16, 16))
    assert sets.distances("plain") == {"fid": None, "kid": None}
    assert "weights-inception-2015-12-05" in sets.recipe()


def test_pictures_pass_the_network_as_bytes_and_the_recipe_says_how(tmp_path, monkeypatch, features):
    class Means(torch.nn.Module):
        def forward(self, pixels):
            assert pixels.dtype == torch.uint8
            return pixels.float().mean(dim=(2, 3))

    networks = Networks()
    monkeypatch.setattr(networks, "inception", Means)
    networks.recipes["inception"] = "a file"
    sets = PictureSets(networks)
    for number in range(6):
        picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(number))
        sets.add("truth", picture)
        sets.add("plain", picture)
        sets.add("enhanced", 0.5 * picture)
    assert sets.distances("plain")["fid"] == pytest.approx(0, abs=1e-3)
    assert sets.distances("enhanced")["fid"] > 1000
    assert sets.recipe() == "a file; 6 pictures; below 2048 FID is biased: compare equal numbers only"


def test_inception_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights-inception-2015-12-05-1.pth"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="holds other weights than expected"):
        InceptionFeatures(path)
    torch.save({"a": print}, path)
    with pytest.raises(InputError, match="refused"):
        InceptionFeatures(path)
