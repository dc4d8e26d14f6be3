# SPDX-License-Identifier: Apache-2.0
"""Files of our own and of others: written whole or not at all, read with errors that name them, shipped, or fetched."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import secrets
import shutil
import socket
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from safetensors import SafetensorError

from harmonizer_ns.errors import InputError, first_line, suggestion

if TYPE_CHECKING:
    from torch import Tensor

_PACKAGE = Path(__file__).resolve().parent
_MAX_YAML_BYTES = 1 << 18
_MAX_YAML_NODES = 50_000
_LOCK = ".lock"
_LEFTOVERS = (".*.partial*", ".tmp??????")
"""Unfinished files and folders of our own, and those that safetensors makes."""
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@contextmanager
def written_whole(path: Path, advice: str = "", folder: Path | None = None) -> Iterator[Path]:
    """The block writes to the path that it is given; what it wrote appears as ``path`` when it is complete.

    It is written in a hidden folder that nobody else can have made, so no link leads it elsewhere, and is on the disk
    before it appears; a folder replaces one that was there. When the block fails, what was there before stays, and
    nothing of the new is left behind.

    Args:
        path: file or folder to be; its parents are created.
        advice: added to the error's message, such as how to go on.
        folder: where the unfinished file lies, on the same disk; None: beside ``path``.

    Raises:
        InputError: when the disk is full or the place cannot be written, naming the path. Errors of other files, which
            the block reads, pass.
    """
    unfinished = (folder or path.parent) / f".{path.stem[:40]}.{secrets.token_hex(4)}.{os.getpid()}.partial"
    partial = unfinished / path.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _own_folder(unfinished):
            yield partial
            _sync(partial)
            _put(partial, path, aside=unfinished / ".before")
    except (OSError, SafetensorError, RuntimeError) as error:
        if not _concerns(error, path, unfinished):
            raise
        reason = "not all of it could be written, is the disk full?" if isinstance(error, RuntimeError) else ""
        raise InputError(f"cannot write {path}: {reason or first_line(error)}{advice and '. ' + advice}") from error


@contextmanager
def _own_folder(folder: Path) -> Iterator[None]:
    """A new folder that is locked, so that `remove_leftovers` knows that its process lives; afterwards it goes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    try:
        with FileLock(folder / _LOCK, timeout=0):
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put(partial: Path, path: Path, aside: Path) -> None:
    """Rename; a folder that was there goes aside first, for folders do not replace each other."""
    if not (partial.is_dir() and path.is_dir()):
        os.replace(partial, path)
        return
    os.replace(path, aside)
    try:
        os.replace(partial, path)
    except OSError:
        os.replace(aside, path)
        raise


def _concerns(error: Exception, path: Path, unfinished: Path) -> bool:
    """Whether an error is about the file that is written: torch reports a full disk as RuntimeError."""
    if isinstance(error, RuntimeError):
        return any(name in str(error) for name in ("PytorchStreamWriter", "inline_container"))
    if not isinstance(error, OSError) or not isinstance(error.filename, str | os.PathLike):
        return True
    named = Path(error.filename)
    return named.is_relative_to(unfinished) or path.is_relative_to(named) or unfinished.is_relative_to(named)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder and all in it, is on the disk."""
    if path.is_symlink():
        return
    for inside in path.iterdir() if path.is_dir() else ():
        _sync(inside)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(*folders: Path) -> None:
    """Delete what processes that were killed left unfinished in folders; what a living one writes stays."""
    for leftover in (found for folder in folders for pattern in _LEFTOVERS for found in folder.glob(pattern)):
        with suppress(OSError):
            if leftover.is_symlink() or not leftover.is_dir():
                leftover.unlink()
                continue
            with FileLock(leftover / _LOCK, timeout=0):
                shutil.rmtree(leftover)


@contextmanager
def locked(folder: Path, option: str = "--output", wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a folder while the block runs. The system releases the lock of a process that dies: none is ever stale.

    Args:
        folder: is created.
        option: chooses another one.
        wait: wait while another one holds the folder, and tell who does; None: do not.

    Raises:
        InputError: naming the process that holds it, or when the folder cannot be written to.
    """
    holder, held = folder / ".running", None
    try:
        try:
            held = _lock(folder, seconds=0)
        except Timeout as error:
            if wait is None:
                who = f"{_who(holder)} is working in {folder}"
                raise InputError(f"{who}: wait until it ends, stop it, or take another {option}") from error
            wait(f"Waiting for {_who(holder)}, which is working in {folder}")
        while held is None:
            with suppress(Timeout, FileNotFoundError):  # who leaves may take the folder away
                held = _lock(folder, seconds=1)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error}") from error
    with held:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)


def _lock(folder: Path, seconds: float) -> AcquireReturnProxy:
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / _LOCK).acquire(timeout=seconds)


def _who(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "another process"
    except OSError:  # it has just begun, or just ended
        return "another process"


def by_number(paths: Iterable[Path]) -> list[Path]:
    """Files that are named after steps in the order of the steps, whatever number of digits these have."""
    return sorted(paths, key=lambda path: [int(digits) for digits in re.findall(r"\d+", path.name)])


def write_json(path: Path, content: Any, indent: int | None = 1) -> None:
    """Write JSON, whole or not at all.

    Raises:
        InputError: when the file cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        InputError: when it is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:  # JSON and UTF-8 errors are ValueErrors
        raise InputError(f"{path} is not JSON: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} should hold a JSON object, it holds a {type(content).__name__}")
    return content


def read_yaml(path: Path, loader: Any = None) -> Any:
    """What a YAML file holds: plain values, unless another loader builds more.

    Args:
        path: of the file.
        loader: a PyYAML loader; None: its SafeLoader.

    Raises:
        InputError: when it is missing, is not YAML, holds what the loader refuses, or grows without measure.
    """
    import yaml

    try:
        if path.stat().st_size > _MAX_YAML_BYTES:
            raise InputError(f"{path} has more than {_MAX_YAML_BYTES} bytes, no settings have")
        reader = (loader or yaml.SafeLoader)(path.read_text(encoding="utf-8-sig"))
        node = reader.get_single_node()
        if node is not None and _spelled_out(node, {}) > _MAX_YAML_NODES:
            raise InputError(f"{path} holds more than {_MAX_YAML_NODES} values when its aliases are spelled out")
        return None if node is None else reader.construct_document(node)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        line = f"{path}, line {error.problem_mark.line + 1}" if error.problem_mark else path
        raise InputError(f"cannot read {line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from error  # PyYAML raises these on odd scalars
    except RecursionError as error:
        raise InputError(f"cannot read {path}: it is nested too deeply") from error


def _spelled_out(node: Any, sizes: dict[int, int]) -> int:
    """Count the values of a YAML node with each alias replaced by what it stands for; endless ones are too many."""
    if id(node) not in sizes:
        sizes[id(node)] = _MAX_YAML_NODES + 1  # stays for a node that holds itself
        held = node.value if isinstance(node.value, list) else []
        children = [child for item in held for child in (item if isinstance(item, tuple) else (item,))]
        sizes[id(node)] = min(1 + sum(_spelled_out(child, sizes) for child in children), _MAX_YAML_NODES + 1)
    return sizes[id(node)]


def file_digest(path: Path) -> str:
    """The sha256 of what a file holds, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def content_digest(parts: Iterable[Tensor | str]) -> str:
    """The sha256 of texts and of what tensors hold, one after the other, in hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_torch(path: Path, mapped: bool = False) -> Any:
    """What ``torch.save`` wrote, on the CPU. Only tensors and plain data are read; code is refused, not run.

    Plain are numpy's scalars too, which nerfstudio's scheduler states hold, and BytesIO, in which Transformer Engine
    keeps its state.

    Args:
        path: of the file.
        mapped: leave the tensors on the disk until they are used.

    Raises:
        InputError: when there is no such file, when it is damaged, and when it holds more than plain data.
    """
    import torch

    from harmonizer_ns.random_state import NUMPY_SCALARS

    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        with torch.serialization.safe_globals([io.BytesIO, *NUMPY_SCALARS]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # whatever torch would warn about, it then refuses
            in_place = mapped and zipfile.is_zipfile(path)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=in_place)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))  # torch goes on to advise loading it without protection
        what = f"it holds more than plain data: {found[1]}" if found else "it is not plain data that torch has saved"
        raise InputError(f"{path} was refused, {what}") from error
    except Exception as error:  # a damaged pickle brings the unpickler to any of them
        if "TorchScript" in str(error):
            raise InputError(
                f"{path} was refused, it is a TorchScript program, and no file is run: take the checkpoint that it was "
                "exported from (diffusion_harmonizer.pkl, of NVIDIA's harmonizer_temporal.pt and _nontemporal.pt)"
            ) from error
        raise InputError(f"{path} is not a whole torch checkpoint: {first_line(error)}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``.safetensors`` or torch file, on the CPU; no code of the file's is run.

    Raises:
        InputError: when there is no such file, or it does not hold a plain state dict.
    """
    from safetensors.torch import load_file
    from torch import Tensor

    if not path.is_file():
        raise InputError(f"no weights at {path}; give the path of an existing file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is not a whole safetensors file: {first_line(error)}") from error
    state = read_torch(path, mapped=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} does not hold a state dict (names and tensors)")
    return state


def ply_columns(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """The columns of each element of a PLY file, such as ``vertex``.

    Raises:
        InputError: when the file is missing, is no PLY, is damaged, or promises more than it can hold.
    """
    from plyfile import PlyData, PlyParseError

    try:
        with path.open("rb") as file:
            header = file.read(1 << 16).partition(b"end_header")[0].decode("latin-1")
        for element, count in re.findall(r"^element\s+(\S+)\s+(\d+)", header, re.MULTILINE):
            if int(count) > path.stat().st_size:  # plyfile would set aside memory for all of them
                raise InputError(f"{path} is damaged: {count} of {element} do not fit into the file")
        data = PlyData.read(str(path))
        return {
            element.name: {item.name: np.asarray(element[item.name]) for item in element.properties} for element in data
        }
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except (OSError, PlyParseError, LookupError, TypeError, ValueError, MemoryError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as a PLY: {first_line(error)}") from error


def asset(name: str) -> Path:
    """Folder or file of the asset ``name``, for example ``asset("builtin")``.

    A source checkout (or an editable install) keeps assets in ``assets/`` beside the package; an installed wheel
    carries a copy inside the package, in ``_assets/``.

    Raises:
        FileNotFoundError: when neither place has it; the message names both.
    """
    candidates = (_PACKAGE / "_assets" / name, _PACKAGE.parent / "assets" / name)
    for candidate in candidates:
        if candidate.exists():
            return candidate
    places = " nor ".join(str(candidate) for candidate in candidates)
    raise FileNotFoundError(f"asset {name!r} is neither at {places}; is the installation complete?")


def shipped(kind: str, suffix: str) -> dict[str, Path]:
    """Files of a kind that come with the project, by name: a checkout keeps them in ``configs``, a wheel inside.

    Args:
        kind: the folder, such as ``recipes``.
        suffix: of the files, such as ``.yaml``.
    """
    folders = (_PACKAGE / "_assets" / kind, _PACKAGE.parent / "configs" / kind)
    return {path.stem: path for folder in folders for path in sorted(folder.glob(f"*{suffix}"))}


def find_shipped(named: str | Path, kind: str, suffix: str) -> Path:
    """The file itself, or the shipped one of that name.

    Raises:
        InputError: when there is neither; the message suggests names.
    """
    path, known = Path(named), shipped(kind, suffix)
    path = path if path.is_file() else known.get(str(named), path)
    if not path.is_file():
        advice = suggestion(path.stem, known, "the shipped ones")
        raise InputError(f"there is neither a file nor a shipped {kind.removesuffix('s')} {named}; {advice}")
    return path


def find_folder(folder_or_id: str | Path, patterns: Sequence[str], revision: str | None = None) -> Path:
    """The folder itself, or that of a Hub repository, from the Hub or from its cache. Nothing in it is ever run.

    Args:
        folder_or_id: a folder, or ``owner/name``.
        patterns: what of the repository is wanted.
        revision: of the repository.

    Raises:
        InputError: when it is neither, and when the Hub cannot be reached or has no such repository or revision.
    """
    folder, repository = Path(folder_or_id), str(folder_or_id)
    if folder.is_dir():
        return folder
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(f"{repository!r} is neither a folder nor a repository of the Hugging Face Hub (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except (OSError, HfHubHTTPError) as error:
        raise InputError(
            f"{repository} is no folder here and cannot be fetched from the Hugging Face Hub ({first_line(error)}); "
            "where there is no network, download it elsewhere (hf download) and give the folder"
        ) from error
