# SPDX-License-Identifier: Apache-2.0
"""Our checkpoint folders, and how weights of others are read: ``config.json`` and one safetensors file.

``config.json`` holds ``format`` (always ``"harmonizer-enhancer"``), ``version``, ``architecture``, ``kwargs`` of the
architecture, ``weights`` (name of the weights file, in the same folder), its ``sha256``, and free ``metadata``
(data, licence, training). Nothing in any file, ours or others', is ever run; messages name the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as serialize_tensors
from torch import Tensor, nn

from harmonizer_ns.errors import InputError, damage_of, first_line
from harmonizer_ns.files import read_json, read_torch, read_weights, write_json, written_whole

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = "harmonizer-enhancer"
VERSION = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FILES = (CONFIG, "model*.safetensors")
"""Names of a folder's files, as patterns."""
_LARGEST = torch.finfo(torch.float16).max
_FIELDS = {"architecture": str, "kwargs": dict, "weights": str, "sha256": str, "metadata": dict}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder.

    Args:
        architecture: name of the network.
        kwargs: arguments of its constructor, JSON values.
        weights: its state.
        metadata: data, licence, training; JSON values.
        source: where it was read, for messages.
    """

    architecture: str
    kwargs: dict[str, Any]
    weights: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    source: str = ""


class StoredNetwork(nn.Module):
    """A network that a checkpoint folder can hold. Its constructor takes JSON values."""

    architecture: ClassVar[str]
    """Its name in checkpoints and configurations."""
    renamed: ClassVar[dict[str, str]] = {}
    """Arguments that older checkpoints call by another name, and today's names."""

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build such a network again."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """A network with random weights from the global seed.

        Args:
            config: the constructor's arguments, and ``"architecture"`` or not.

        Raises:
            InputError: on another architecture, and on missing, unknown or unfitting arguments.
        """
        arguments = {cls.renamed.get(name, name): value for name, value in config.items()}
        architecture = arguments.pop("architecture", cls.architecture)
        if architecture != cls.architecture:
            raise InputError(f"this is the network {cls.architecture!r}, the configuration is for {architecture!r}")
        try:
            return cls(**arguments)
        except InputError:
            raise
        except (TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError) as error:
            raise InputError(f"no {cls.__name__} can be built from this configuration: {first_line(error)}") from error

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Self:
        """The network of a checkpoint, which keeps its weights' precision.

        Raises:
            InputError: on another architecture, bad arguments or weights that do not fit.
        """
        from accelerate import init_empty_weights

        try:
            with init_empty_weights():
                network = cls.from_config({"architecture": checkpoint.architecture, **checkpoint.kwargs})
        except InputError as error:
            raise InputError(f"{checkpoint.source}: {error}") from error
        load_weights(network, checkpoint.weights, checkpoint.source, assign=True)
        return network.eval()

    def save(self, folder: str | Path, metadata: dict[str, Any]) -> None:
        """Write a checkpoint folder, see `save_checkpoint`."""
        save_checkpoint(folder, Checkpoint(self.architecture, self.config, self.state_dict(), metadata))


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint. Interrupted at any moment, the one that was there before still loads.

    New weights get a file name of their own; the configuration, which names them, is then replaced in one step, and
    only afterwards the older weights go. Other files in the folder (a model card) stay.

    Raises:
        InputError: when the folder cannot be written.
    """
    folder = Path(folder)
    data = serialize_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.weights.items()})
    digest = hashlib.sha256(data).hexdigest()
    name = f"model-{digest[:12]}.safetensors" if (folder / WEIGHTS).exists() else WEIGHTS
    config = {
        "format": FORMAT,
        "version": VERSION,
        "architecture": checkpoint.architecture,
        "kwargs": checkpoint.kwargs,
        "weights": name,
        "sha256": digest,
        "metadata": checkpoint.metadata,
    }
    with written_whole(folder / name) as partial:
        partial.write_bytes(data)
    write_json(folder / CONFIG, config, indent=2)
    for old in {folder / WEIGHTS, *folder.glob("model-*.safetensors")} - {folder / name}:
        old.unlink(missing_ok=True)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read and verify a checkpoint folder; tensors come to the CPU.

    Raises:
        InputError: on a missing file, another format or version, a wrong field, a hash mismatch or a broken
            weights file.
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG)
    path = folder / config["weights"]
    if not path.is_file():
        raise InputError(f"checkpoint file {path} is missing")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != config["sha256"]:
        raise InputError(
            f"{path} does not match its configuration: sha256 is {digest}, {CONFIG} says {config['sha256']}; "
            "it is truncated, damaged or from another checkpoint"
        )
    try:
        weights = parse_tensors(data)
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from error
    return Checkpoint(config["architecture"], config["kwargs"], weights, config["metadata"], str(folder))


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if config.get("format") != FORMAT:
        raise InputError(f"{path} is not a {FORMAT} configuration (its format is {config.get('format')!r})")
    if config.get("version") != VERSION:
        raise InputError(f"{path} has version {config.get('version')!r}, this release reads {VERSION}")
    for name, kind in _FIELDS.items():
        if not isinstance(config.get(name), kind):
            raise InputError(f"{path}: {name!r} should be a {kind.__name__}, it is {config.get(name)!r}")
    if Path(config["weights"]).name != config["weights"] or not config["weights"].endswith(".safetensors"):
        raise InputError(f"{path}: 'weights' should name a safetensors file beside it, not {config['weights']!r}")
    return config


def load_weights(module: nn.Module, weights: dict[str, Tensor], source: str | Path = "", assign: bool = False) -> None:
    """Fill a module; every name and shape must fit.

    Args:
        module: what to fill.
        weights: its state.
        source: where they came from, for messages.
        assign: put the tensors themselves in the module's place (which may be on the meta device), in their precision.

    Raises:
        InputError: with one line for every weight that is missing, unexpected or misshapen, on floating-point weights
            given as something else, and on weights that are NaN or beyond float16's largest number, 65504: trained
            weights stay below some hundreds, half precision could not hold such a one, and a few in a row overflow.
    """
    what, own = f"the weights of {source}" if source else "the weights", module.state_dict()
    if wrong := differences(own, weights):
        raise InputError("\n".join([f"{what} do not fit the {type(module).__name__}", *wrong]))
    if strange := [name for name in own if _kind(own[name]) != _kind(weights[name])]:
        given = weights[strange[0]]
        raise InputError(f"{what} are of another kind: {strange[0]} holds {given.dtype} ({given.layout})")
    if broken := [name for name, weight in weights.items() if not _is_sane(weight)]:
        raise InputError(
            f"{what} hold NaN, infinity or numbers beyond {_LARGEST:g}, in {len(broken)} of {len(weights)}; "
            f"the first is {broken[0]}"
        )
    module.load_state_dict(weights, strict=True, assign=assign)


def _kind(weight: Tensor) -> tuple[bool, torch.layout]:
    return weight.is_floating_point(), weight.layout


def _is_sane(weight: Tensor) -> bool:
    if not weight.is_floating_point():
        return True
    small = weight.element_size() == 1  # torch cannot compare floats of 8 bits
    return bool(((weight.float() if small else weight).abs() <= _LARGEST).all())


def differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """One line for every weight in which a network's own weights and those given to it differ by name or shape."""
    return [
        *(f"missing: {name}" for name in sorted(own.keys() - given.keys())),
        *(f"unexpected: {name}" for name in sorted(given.keys() - own.keys())),
        *(
            f"misshapen: {name}: {tuple(given[name].shape)}, the network has {tuple(own[name].shape)}"
            for name in sorted(own.keys() & given.keys())
            if own[name].shape != given[name].shape
        ),
    ]


def read_states(path: Path) -> dict[str, Any]:
    """A pickle of Difix's or Cosmos' training code: ``state_dict_unet``, ``state_dict_vae`` and more.

    Raises:
        InputError: when it cannot be read, holds more than plain data, or has not these entries.
    """
    content, wanted = read_torch(path, mapped=True), ("state_dict_unet", "state_dict_vae")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), dict) for name in wanted):
        raise InputError(f"{path} is not a checkpoint of Difix or Cosmos: it has no {' and '.join(wanted)}")
    return content


def read_model(folder: Path, name: str) -> dict[str, Tensor]:
    """Weights as diffusers and transformers keep them: ``name.safetensors`` or ``name.bin``, in one file or several.

    Raises:
        InputError: when there are none, or a file is damaged or refused.
    """
    for suffix in ("safetensors", "bin"):
        index = folder / f"{name}.{suffix}.index.json"
        with damage_of(index):
            files = sorted(set(read_json(index)["weight_map"].values())) if index.is_file() else [f"{name}.{suffix}"]
        if index.is_file() or (folder / files[0]).is_file():
            return {key: value for file in files for key, value in read_weights(folder / Path(file).name).items()}
    raise InputError(f"{folder} has no weights: neither {name}.safetensors nor {name}.bin")
