# SPDX-License-Identifier: Apache-2.0
import math
import shutil

import lpips
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision import models
from transformers import ViTConfig, ViTModel

from harmonizer_ns.errors import InputError
from harmonizer_ns.evaluation.networks import Networks
from harmonizer_ns.evaluation.quality import MEASURES, measure
from harmonizer_ns.evaluation.settings import EvaluationConfig
from harmonizer_ns.metrics import psnr


@pytest.fixture(autouse=True)
def empty_caches(tmp_path, monkeypatch):
    """Whatever this machine has in its caches, the tests do not see it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def truth():
    return torch.rand(3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def picture(truth):
    return (truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def small_dino(folder, seed=0):
    torch.manual_seed(seed)
    shape = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "intermediate_size": 48}
    ViTModel(ViTConfig(**shape, num_hidden_layers=2, num_attention_heads=3)).save_pretrained(folder)
    return folder


def test_without_weights_the_networks_are_not_available_and_tell_why(picture, truth):
    networks = Networks()
    found = measure(picture, truth, networks)
    assert set(found) < set(MEASURES)
    assert [name for name, value in found.items() if value is None] == list(networks.missing)
    assert {"lpips_squeeze", "lpips_vgg", "lpips_alex", "dino_structure"} == set(networks.missing)
    assert "squeezenet1_1*.pth" in networks.missing["lpips_squeeze"]
    assert found["psnr"] == pytest.approx(psnr(picture[None], truth[None]).item())
    assert "good_half_change" not in found


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("net", ["squeeze", "alex"])
def test_lpips_is_what_the_lpips_package_computes_with_the_same_weights(net, picture, truth, tmp_path):
    """The package's own model is built here by itself, from the classifier that the file holds."""
    torch.manual_seed(0)
    classifier = {"squeeze": models.squeezenet1_1, "alex": models.alexnet}[net](weights=None).eval()
    name = {"squeeze": "squeezenet1_1-1.pth", "alex": "alexnet-owt-1.pth"}[net]
    (tmp_path / "given/deep").mkdir(parents=True)
    torch.save(classifier.state_dict(), tmp_path / "given/deep" / name)
    reference = lpips.LPIPS(net=net, pnet_rand=True, pretrained=True, verbose=False).eval()
    ours = [module for module in classifier.features.modules() if isinstance(module, torch.nn.Conv2d)]
    theirs = [module for module in reference.net.modules() if isinstance(module, torch.nn.Conv2d)]
    for source, target in zip(ours, theirs, strict=True):
        target.load_state_dict(source.state_dict())
    networks = Networks((tmp_path / "given",))
    found = measure(picture, truth, networks)[f"lpips_{net}"]
    assert found == pytest.approx(reference(picture[None], truth[None], normalize=True).item(), rel=1e-4)
    assert name in networks.recipes[f"lpips_{net}"]


def test_pictures_too_small_for_a_measure_lack_it_and_nothing_else(tmp_path):
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet1_1-1.pth")
    networks, small = Networks((tmp_path,)), torch.rand(3, 8, 40)
    found = measure(0.9 * small, small, networks)
    assert found["psnr"] > 10
    assert (found["ssim"], found["lpips_squeeze"]) == (None, None)
    assert "less than 11 pixels" in networks.missing["ssim"]
    large = torch.rand(3, 31, 31)
    assert measure(0.9 * large, large, networks)["lpips_squeeze"] > 0


def test_sharpness_falls_with_blur_and_is_none_of_a_flat_truth(truth):
    blurred = torch.nn.functional.avg_pool2d(truth[None], 3, 1, 1)[0]
    networks = Networks()
    assert measure(truth, truth, networks)["sharpness"] == pytest.approx(1)
    assert measure(0.5 * truth, truth, networks)["sharpness"] == pytest.approx(0.25, rel=1e-4)
    assert measure(blurred, truth, networks)["sharpness"] < 0.5
    assert measure(truth, torch.full_like(truth, 0.5), networks)["sharpness"] is None


def test_what_an_enhancer_costs_where_the_render_was_good(truth):
    plain = truth.clone()
    plain[:, :, :32] = 1 - plain[:, :, :32]
    spoiled = 0.5 * plain + 0.5 * truth
    spoiled[:, :, 32:] += 0.05
    found = measure(spoiled, truth, Networks(), plain=plain)["good_half_change"]
    assert found == pytest.approx(-20 * math.log10(0.05) - 100, abs=0.2)


def test_a_mask_says_which_pixels_psnr_counts(truth):
    half = truth.clone()
    half[:, :, :32] = 0
    mask = torch.zeros(1, 48, 64)
    mask[..., 32:] = 1
    assert measure(half, truth, Networks(), mask=mask)["psnr"] == pytest.approx(100)


def test_structure_distance_compares_the_keys_of_the_last_layer(picture, truth, tmp_path):
    folder = small_dino(tmp_path / "given/dino-vitb8")
    networks = Networks((tmp_path / "given",))
    assert measure(truth, truth, networks)["dino_structure"] == pytest.approx(0, abs=1e-9)
    found = measure(picture, truth, networks)["dino_structure"]

    model = ViTModel.from_pretrained(folder).eval()

    def similarity(image):
        small = torch.nn.functional.interpolate(image[None], (32, 32), mode="bicubic", antialias=True).clamp(0, 1)
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = (small - mean[:, None, None]) / deviation[:, None, None]
        with torch.no_grad():
            hidden = model(pixels, output_hidden_states=True).hidden_states[-2]
            layer = [m for n, m in model.named_modules() if n.endswith("layernorm_before")][-1]
            weights = {n: p for n, p in model.named_parameters() if ".1." in n and (".key." in n or "k_proj" in n)}
            weight, bias = (next(p for n, p in weights.items() if n.endswith(end)) for end in ("weight", "bias"))
            keys = layer(hidden)[0] @ weight.T + bias
        return torch.stack([torch.nn.functional.cosine_similarity(key[None], keys) for key in keys])

    expected = (similarity(picture) - similarity(truth)).square().mean().item()
    assert found == pytest.approx(expected, rel=1e-3)
    assert expected > 0


def test_a_folder_of_weights_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"--weights: there is no folder .*gone"):
        EvaluationConfig((), weights=(tmp_path / "gone",)).networks("cpu")


def test_weights_that_are_there_but_damaged_are_an_error(picture, truth, tmp_path):
    (tmp_path / "alexnet-x.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"alexnet-x\.pth"):
        measure(picture, truth, Networks((tmp_path,)))
    shutil.copytree(small_dino(tmp_path / "fine"), tmp_path / "more/dino-vitb8")
    (tmp_path / "more/dino-vitb8/model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="dino-vitb8"):
        measure(picture, truth, Networks((tmp_path / "more",)))
    weights = load_file(tmp_path / "fine/model.safetensors")
    kept = {name: value for name, value in weights.items() if "key.weight" not in name and "k_proj.weight" not in name}
    save_file(kept, tmp_path / "more/dino-vitb8/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="no whole facebook/dino-vitb8"):
        measure(picture, truth, Networks((tmp_path / "more",)))
