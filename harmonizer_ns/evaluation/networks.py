# SPDX-License-Identifier: Apache-2.0
"""Networks judge pictures here. Their weights are found on this machine, or the measure is not available.

Nothing is downloaded, and no network stands in for another one. Files of torchvision and torch-fidelity are looked for
by name in the folders that the user gives, then in torch's cache; models of transformers likewise, then in the Hub's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F

from harmonizer_ns.errors import InputError, MissingExtraError, first_line, of_extra
from harmonizer_ns.features import Distance, LpipsNet, lpips_distance
from harmonizer_ns.files import file_digest, read_weights

LPIPS_FILES: dict[LpipsNet, str] = {"squeeze": "squeezenet1_1*.pth", "vgg": "vgg16-*.pth", "alex": "alexnet-*.pth"}
"""How torchvision names the backbones' weights."""
INCEPTION_FILE = "weights-inception-2015-12-05-*.pth"
"""How torch-fidelity names TensorFlow's Inception v3 of FID."""
STRUCTURE_MODEL, SUBJECT_MODEL = "facebook/dino-vitb8", "facebook/dino-vitb16"
"""DINO (Caron et al. 2021) in Splice (Tumanyan et al. 2022) and in VBench (Huang et al. 2024)."""
BACKGROUND_MODEL = "openai/clip-vit-base-patch32"
"""CLIP (Radford et al. 2021) in VBench."""

Features = Callable[[Float[Tensor, "n 3 h w"]], Tensor]
"""What a model sees in images in [0, 1]."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class NotAvailableError(InputError):
    """The weights of a measure are not on this machine."""


class Networks:
    """Loads each network at its first use.

    Args:
        folders: where weights are looked for first, subfolders included.
        lpips: files of LPIPS-squeeze: torchvision's squeezenet1_1 state dict and the linear heads.
        device: where the networks work.
    """

    def __init__(
        self, folders: Sequence[Path] = (), lpips: tuple[Path, Path] | None = None, device: torch.device | str = "cpu"
    ) -> None:
        self.folders, self.device = tuple(folders), torch.device(device)
        self._squeeze = lpips
        self._loaded: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        """Why a network is not there, or a measure cannot be taken, by its name."""
        self.recipes: dict[str, str] = {}
        """What was loaded, by its name: files with their hashes, or a model's folder."""

    def lpips(self, net: LpipsNet) -> Distance | None:
        """LPIPS v0.1 with the heads of the lpips package; None without its backbone."""
        return self._once(f"lpips_{net}", lambda: self._load_lpips(net))

    def inception(self) -> nn.Module | None:
        """Inception v3 of FID, a module of 8-bit images (`InceptionFeatures`); None without its weights."""
        return self._once("inception", self._load_inception)

    def structure(self) -> Features | None:
        """Keys of DINO ViT-B/8's last layer (`dino_keys`); None without the model."""
        return self._once("dino_structure", lambda: self._load_model("ViTModel", STRUCTURE_MODEL, dino_keys))

    def subject(self) -> Features | None:
        """Features of a whole picture by DINO ViT-B/16; None without the model."""
        return self._once("subject_consistency", lambda: self._load_model("ViTModel", SUBJECT_MODEL, dino_features))

    def background(self) -> Features | None:
        """Features of a whole picture by CLIP ViT-B/32; None without the model."""
        kind = "CLIPVisionModelWithProjection"
        return self._once("background_consistency", lambda: self._load_model(kind, BACKGROUND_MODEL, clip_features))

    def _once(self, name: str, load: Callable[[], tuple[Any, str]]) -> Any:
        """The network of that name, loaded with its recipe when it is asked for first."""
        if name not in self._loaded:
            try:
                self._loaded[name], self.recipes[name] = load()
            except (NotAvailableError, MissingExtraError) as error:
                self._loaded[name] = self.lacks(name, str(error))
        return self._loaded[name]

    def lacks(self, name: str, why: str) -> None:
        """Note why a measure cannot be taken."""
        self.missing[name] = f"not available: {why}"

    def _load_lpips(self, net: LpipsNet) -> tuple[Distance, str]:
        given = self._squeeze if net == "squeeze" else None
        backbone, heads = given or (self._find(LPIPS_FILES[net]), None)
        distance = lpips_distance(net, backbone, heads)
        told = f"LPIPS v0.1, {_named(backbone)}, heads {_named(heads) if heads else 'of the lpips package'}"
        return lambda image, target: distance(image.to(self.device), target.to(self.device)), told

    def _load_inception(self) -> tuple[nn.Module, str]:
        path = self._find(INCEPTION_FILE)
        told = (
            f"{_named(path)}, 2,048 features of 8-bit pictures resized to 299x299 as TensorFlow 1 does (torch-fidelity)"
        )
        return InceptionFeatures(path).to(self.device), told

    def _find(self, pattern: str) -> Path:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        for folder in (*self.folders, cache):
            for path in sorted(folder.rglob(pattern)):
                return path
        raise NotAvailableError(f"no {pattern} in {_listed(*self.folders, cache)}")

    def _load_model(
        self, kind: str, repository: str, features: Callable[[nn.Module], Features]
    ) -> tuple[Features, str]:
        """Load a model of transformers from a folder of its name, or from the Hub's cache."""
        import transformers

        folder = self._model_folder(repository)
        extra = {"add_pooling_layer": False} if kind == "ViTModel" else {}
        try:
            model, told = getattr(transformers, kind).from_pretrained(
                folder, local_files_only=True, output_loading_info=True, **extra
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise InputError(f"cannot load {repository} from {folder}: {first_line(error)}") from error
        if told["missing_keys"]:  # transformers would fill them with random numbers
            raise InputError(f"{folder} is no whole {repository}: it has no {sorted(told['missing_keys'])[0]!r}")
        return features(model.requires_grad_(False).eval().to(self.device)), f"{repository} in {folder}"

    def _model_folder(self, repository: str) -> Path:
        from huggingface_hub import try_to_load_from_cache

        name = repository.rpartition("/")[2]
        for folder in self.folders:
            for path in sorted(folder.rglob(f"{name}/config.json")):
                return path.parent
        cached = try_to_load_from_cache(repository, "config.json")
        if not isinstance(cached, str):
            where = f"no folder {name} in {_listed(*self.folders)}, and " if self.folders else ""
            raise NotAvailableError(f"{where}no {repository} in the Hub's cache")
        return Path(cached).parent


def _named(path: Path) -> str:
    return f"{path.name} (sha256 {file_digest(path)[:8]})"


def _listed(*folders: Path) -> str:
    return " or ".join(map(str, folders))


class InceptionFeatures(nn.Module):
    """Gives the 2,048 features that FID and KID compare, with TensorFlow's resize to 299x299 (torch-fidelity).

    Args:
        path: torch-fidelity's weights.

    Raises:
        InputError: when they are damaged or of another network.
    """

    num_features = 2048

    def __init__(self, path: Path) -> None:
        with of_extra("metrics", "FID"):
            import torchmetrics  # noqa: F401 - compares what this network finds
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        super().__init__()
        read_weights(path)  # refuses code, which torch-fidelity would run
        try:
            self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
        except (RuntimeError, KeyError) as error:
            raise InputError(f"{path} holds other weights than expected: {first_line(error)}") from error

    def forward(self, image: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 2048"]:
        """Compute the features of 8-bit images of any size."""
        return self.network(image)[0]


def dino_keys(model: nn.Module) -> Features:
    """Give the keys of DINO's last attention layer ``n t c`` at every token, the class token too."""
    layer = [module for name, module in model.named_modules() if name.endswith((".key", ".k_proj"))][-1]

    def keys(image: Tensor) -> Tensor:
        found: list[Tensor] = []
        hook = layer.register_forward_hook(lambda _, __, output: found.append(output))
        try:
            model(seen(image, model, *IMAGENET))
        finally:
            hook.remove()
        return found[0]

    return keys


def dino_features(model: nn.Module) -> Features:
    """Give the class token behind DINO's last layer, of length 1."""
    return lambda image: F.normalize(model(seen(image, model, *IMAGENET)).last_hidden_state[:, 0], dim=-1)


def clip_features(model: nn.Module) -> Features:
    """Give CLIP's embedding of a picture, of length 1."""
    return lambda image: F.normalize(model(seen(image, model, *CLIP)).image_embeds, dim=-1)


def seen(
    image: Float[Tensor, "n 3 h w"], model: nn.Module, mean: Sequence[float], deviation: Sequence[float]
) -> Float[Tensor, "n 3 side side"]:
    """Resize images in [0, 1] to the square that a model was trained on (bicubic, antialiased), and normalise."""
    image, side = image.to(next(model.parameters()).device), cast(Any, model).config.image_size
    small = F.interpolate(image, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return (small - small.new_tensor(mean)[:, None, None]) / small.new_tensor(deviation)[:, None, None]
