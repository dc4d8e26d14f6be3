# SPDX-License-Identifier: Apache-2.0
"""Pretrained networks judge images: VGG16, SqueezeNet 1.1, LPIPS. Their weights are real or the load fails.

Weights come from a file (``.pth`` with a state dict in torchvision's layout, or ``.safetensors``), or else from
torchvision's download site into torch's cache. Files are read without running code of theirs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harmonizer_ns.errors import InputError, of_extra
from harmonizer_ns.files import read_weights

FeatureNet = Literal["vgg", "squeeze"]
LpipsNet = Literal["vgg", "squeeze", "alex"]
Distance = Callable[[Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]], Float[Tensor, " n"]]
"""Of images and targets in [0, 1]; lower is better."""

VGG16_CUTS = (4, 9, 16, 23, 30)
"""Where VGG16 is cut: after relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""
SQUEEZENET_CUTS = (2, 5, 8, 10, 11, 12, 13)
"""Where SqueezeNet is cut: after its first ReLU and behind six of its fire modules, as LPIPS does."""

_MODELS = {"vgg": "vgg16", "squeeze": "squeezenet1_1", "alex": "alexnet"}
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FeatureNetwork(nn.Module):
    """Is a frozen image classifier, cut into stages; calling it gives the activations behind each stage.

    Args:
        layers: the classifier's convolutional part.
        cuts: index behind the last layer of each stage.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: nn.Sequential, cuts: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(layers[a:b] for a, b in zip((0, *cuts), cuts, strict=False))
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(_DEVIATION)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b c hs ws"]]:
        """Compute activations, finest first, of images in [0, 1] (beyond is allowed)."""
        value, found = (image - self.mean) / self.deviation, []
        for stage in self.stages:
            value = stage(value)
            found.append(value)
        return found


def load_features(net: FeatureNet, path: Path | None = None) -> FeatureNetwork:
    """Load a network trained on ImageNet, cut into stages.

    Args:
        net: ``vgg`` is VGG16 (Simonyan and Zisserman 2015), cut behind five ReLUs; ``squeeze`` is SqueezeNet 1.1
            (Iandola et al. 2016), cut at the seven places where LPIPS cuts it.
        path: torchvision's state dict of that network; None downloads it (528 MB and 5 MB).

    Raises:
        InputError: when the file is missing, damaged or of another network, or the download fails.
    """
    with of_extra("metrics", f"a network of features ({net})"):
        from torchvision import models

    cuts = {"vgg": VGG16_CUTS, "squeeze": SQUEEZENET_CUTS}[net]
    with torch.device("meta"):
        layers = models.get_model(_MODELS[net], weights=None).features[: cuts[-1]]
    weights = pretrained(_MODELS[net], path)
    features = {key.removeprefix("features."): value for key, value in weights.items() if key.startswith("features.")}
    fill(layers, features, path or _MODELS[net])
    return FeatureNetwork(layers, cuts)


def load_lpips(net: LpipsNet, backbone: Path | None = None, heads: Path | None = None) -> nn.Module:
    """Load LPIPS v0.1 (Zhang et al. 2018), a module of the lpips package, frozen.

    Args:
        net: its backbone.
        backbone: torchvision's state dict of ``vgg16``, ``squeezenet1_1`` or ``alexnet``; None downloads it.
        heads: LPIPS's linear weights; None takes those that come with the lpips package.

    Returns:
        A module of two images in [-1, 1]; with ``normalize=True``, in [0, 1]. It gives distances ``b 1 1 1``.

    Raises:
        InputError: as `load_features`.
    """
    with of_extra("metrics", "LPIPS"):
        import lpips

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision in an outdated way
        model = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    weights = pretrained(_MODELS[net], backbone)
    # The package puts the name of its slice before torchvision's layer number: slice2.3.squeeze is features.3.squeeze.
    renamed = {key: weights.get(f"features.{key.split('.', 1)[1]}") for key in model.net.state_dict()}
    fill(model.net, {key: value for key, value in renamed.items() if value is not None}, backbone or _MODELS[net])
    heads = heads or Path(lpips.__file__ or "").parent / "weights" / "v0.1" / f"{net}.pth"
    linear = read_weights(heads)
    fill(nn.ModuleList(model.lins), {key.removeprefix("lin"): value for key, value in linear.items()}, heads)
    return model.requires_grad_(False).eval()


def lpips_distance(net: LpipsNet, backbone: Path | None = None, heads: Path | None = None) -> Distance:
    """Load LPIPS as a function of two images in [0, 1], on their device."""
    model = load_lpips(net, backbone, heads)
    return lambda image, target: model.to(image.device)(image, target, normalize=True).flatten()


def lpips_or_nan(net: LpipsNet, say: Callable[[str], None]) -> Distance:
    """Make LPIPS a metric that may be missing: loaded at first use from torch's cache, else NaN, which is said once.

    Args:
        net: its backbone.
        say: told that it is left out.
    """

    @cache
    def loaded() -> Distance:
        try:
            url = _address(_MODELS[net])
            file = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
            if not file.is_file():
                raise InputError(f"{url} is not in {file.parent}")
            return lpips_distance(net, file)
        except InputError as error:
            say(f"LPIPS is left out: {error}")
            return lambda image, target: image.new_full((len(image),), math.nan)

    return lambda image, target: loaded()(image, target)


def pretrained(model: str, path: Path | None) -> dict[str, Tensor]:
    """Read a state dict of torchvision's from a file, or download the best one of a model; see `download`."""
    return read_weights(path) if path else download(_address(model))


def _address(model: str) -> str:
    with of_extra("metrics", model):
        from torchvision.models import get_model_weights

    return get_model_weights(model)["DEFAULT"].url


def download(url: str) -> dict[str, Tensor]:
    """Get a state dict from torchvision's site, verified by the hash in its name, kept in torch's cache.

    Raises:
        InputError: when it cannot be downloaded; the message says which file to get and how to give it.
    """
    try:
        return torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        name = url.rsplit("/", 1)[-1]
        raise InputError(
            f"cannot download {url} ({error}); get {name} on a machine with network and give its path, "
            f"or put it into {Path(torch.hub.get_dir()) / 'checkpoints'}"
        ) from error


def fill(module: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Put weights into a module built on the meta device, as float32; surplus ones are left out.

    Raises:
        InputError: naming a tensor of the module that is missing, has another shape or is not finite.
    """
    wanted = module.state_dict()
    for name, value in wanted.items():
        if name not in weights:
            raise InputError(f"{source} holds other weights than expected: it has no {name!r}")
        if weights[name].shape != value.shape:
            shapes = f"{tuple(weights[name].shape)} instead of {tuple(value.shape)}"
            raise InputError(f"{source} holds other weights than expected: {name!r} has shape {shapes}")
        if not torch.isfinite(weights[name]).all():
            raise InputError(f"{source} is damaged: {name!r} holds NaN or infinity")
    module.load_state_dict(
        {name: weights[name].to(value.dtype, copy=True) for name, value in wanted.items()}, assign=True
    )
