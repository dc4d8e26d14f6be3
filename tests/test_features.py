# SPDX-License-Identifier: Apache-2.0
import re
import urllib.error

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision import models

from harmonizer_ns.errors import InputError
from harmonizer_ns.features import load_features, load_lpips, lpips_distance, lpips_or_nan


@pytest.fixture(scope="session")
def squeezenet_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def heads_file(tmp_path_factory):
    """Linear weights of LPIPS for SqueezeNet."""
    generator = torch.Generator().manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "heads.pth"
    sizes = (64, 128, 256, 384, 384, 512, 512)
    torch.save(
        {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for i, c in enumerate(sizes)}, path
    )
    return path


@pytest.fixture
def image():
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(2))


def normalised(image):
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (image - mean[:, None, None]) / deviation[:, None, None]


def test_squeezenet_gives_what_torchvision_computes_behind_its_layers(squeezenet_file, image):
    found = load_features("squeeze", squeezenet_file)(image)
    network = models.squeezenet1_1(weights=None).eval()
    network.load_state_dict(torch.load(squeezenet_file, weights_only=True))
    value, expected = normalised(image), {}
    for index, layer in enumerate(network.features):
        value = layer(value)
        expected[index] = value.clone()  # the next layer may work in place
    for activation, index in zip(found, (1, 4, 7, 9, 10, 11, 12), strict=True):
        torch.testing.assert_close(activation, expected[index])


def test_vgg16_is_cut_behind_its_relus(tmp_path, image):
    torch.manual_seed(0)
    with torch.device("meta"):
        layers = models.vgg16(weights=None).features
    weights = {f"features.{k}": 0.1 * torch.randn(v.shape) for k, v in layers.state_dict().items()}
    save_file(weights, tmp_path / "vgg.safetensors")
    network = load_features("vgg", tmp_path / "vgg.safetensors")
    found = network(image[:1])
    assert [tuple(value.shape[1:]) for value in found] == [
        (64, 48, 64),
        (128, 24, 32),
        (256, 12, 16),
        (512, 6, 8),
        (512, 3, 4),
    ]
    first = F.relu(F.conv2d(normalised(image[:1]), weights["features.0.weight"], weights["features.0.bias"], padding=1))
    first = F.relu(F.conv2d(first, weights["features.2.weight"], weights["features.2.bias"], padding=1))
    torch.testing.assert_close(found[0], first)
    assert all(value.min() == 0 for value in found)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_lpips_is_the_sum_over_layers_of_its_definition(squeezenet_file, heads_file, image):
    other = (image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(3))).clamp(0, 1)
    network, heads = load_features("squeeze", squeezenet_file), torch.load(heads_file, weights_only=True)

    def layers(x):  # LPIPS rounds ImageNet's mean and deviation, in [-1, 1]
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        value = ((2 * x - 1) - shift[:, None, None]) / scale[:, None, None]
        for stage in network.stages:
            value = stage(value)
            yield value / (value.square().sum(1, keepdim=True).sqrt() + 1e-10)

    expected = torch.zeros(2)
    for i, (a, b) in enumerate(zip(layers(image), layers(other), strict=True)):
        weight = heads[f"lin{i}.model.1.weight"][0]
        expected += ((a - b).square() * weight).sum(1).mean((1, 2))
    found = lpips_distance("squeeze", squeezenet_file, heads_file)(image, other)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_heads_come_with_the_package(net, squeezenet_file, tmp_path, image):
    backbone = squeezenet_file
    if net == "alex":
        backbone = tmp_path / "alex.pth"
        torch.save(
            {f"features.{k}": v for k, v in models.alexnet(weights=None).features.state_dict().items()}, backbone
        )
    distance = load_lpips(net, backbone)
    assert distance(image[..., :48], image[..., :48].flip(-1), normalize=True).min() > 0


def test_loading_leaves_the_random_numbers_alone(squeezenet_file):
    before = torch.get_rng_state()
    load_lpips("squeeze", squeezenet_file)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_file_is_an_error_not_a_random_network(tmp_path):
    with pytest.raises(InputError, match=r"no weights at .*gone\.pth"):
        load_features("vgg", tmp_path / "gone.pth")
    with pytest.raises(InputError, match=r"no weights at .*gone\.pth"):
        load_lpips("squeeze", tmp_path / "gone.pth")


def test_other_or_damaged_weights_are_refused(tmp_path, squeezenet_file, heads_file):
    with pytest.raises(InputError, match=r"has no '0\.weight'"):
        load_features("squeeze", heads_file)
    with pytest.raises(InputError, match=r"has no '0\.model\.1\.weight'"):
        load_lpips("squeeze", squeezenet_file, squeezenet_file)
    with pytest.raises(InputError, match=r"'slice1.0.weight' has shape \(64, 3, 3, 3\) instead of"):
        load_lpips("alex", squeezenet_file)
    state = torch.load(squeezenet_file, weights_only=True)
    state["features.0.weight"][0] = torch.nan
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(InputError, match=r"damaged: '0\.weight'"):
        load_features("squeeze", tmp_path / "nan.pth")
    (tmp_path / "cut.pth").write_bytes(squeezenet_file.read_bytes()[:1000])
    with pytest.raises(InputError, match="not a whole torch checkpoint"):
        load_features("squeeze", tmp_path / "cut.pth")


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_code_in_a_file_of_weights_does_not_run(tmp_path):
    torch.save({"features.0.weight": Harmful()}, tmp_path / "harm.pth")
    with pytest.raises(InputError, match="refused"):
        load_features("squeeze", tmp_path / "harm.pth")


def test_without_network_the_error_says_what_to_get(monkeypatch):
    def offline(url, **_):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(InputError, match=r"get vgg16-\w+\.pth on a machine with network and give its path"):
        load_features("vgg")


def test_the_metric_lpips_is_never_downloaded(monkeypatch, tmp_path, squeezenet_file):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    said = []
    missing, image = lpips_or_nan("squeeze", said.append), torch.rand(2, 3, 48, 64)
    assert all(missing(image, image).isnan().all() for _ in range(2))
    (told,) = said
    name = re.search(rf"https://\S+/(squeezenet1_1-\w+\.pth) is not in {tmp_path}/checkpoints", told)[1]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes(squeezenet_file.read_bytes())
    found = lpips_or_nan("squeeze", said.append)
    assert found(image, image).tolist() == [0, 0]
    assert len(said) == 1


def test_downloads_are_verified_and_run_no_code(monkeypatch, squeezenet_file):
    asked = {}

    def download(url, **options):
        asked.update(options, url=url)
        return torch.load(squeezenet_file, weights_only=True)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    load_features("squeeze")
    assert asked["url"].startswith("https://download.pytorch.org/models/squeezenet1_1")
    assert asked["check_hash"]
    assert asked["weights_only"]
