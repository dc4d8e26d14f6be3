# SPDX-License-Identifier: Apache-2.0
"""Files are damaged in two ways, drawn by hypothesis: in their bytes, and in the values that they hold."""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from gsplat_trainer.checkpoint import load_full, save_full
from harmonizer_ns.files import read_torch


class _Quiet:
    """Holds values that are too long to be printed."""

    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(frozen=True)
class Form:
    """A form takes a file apart into values that can be changed one by one, and puts it together again.

    Args:
        load: gives a tree of dictionaries and lists, or bytes.
        dump: writes what was changed; may fail on what the form cannot hold.
    """

    load: Callable[[Path], Any]
    dump: Callable[[Any, Path], Any]


BYTES = Form(Path.read_bytes, lambda data, path: path.write_bytes(data))
GZIP = Form(lambda path: gzip.decompress(path.read_bytes()), lambda data, path: path.write_bytes(gzip.compress(data)))
JSON = Form(lambda path: json.loads(path.read_text()), lambda value, path: path.write_text(json.dumps(value)))
YAML = Form(lambda path: yaml.safe_load(path.read_text()), lambda value, path: path.write_text(yaml.dump(value)))
TORCH = Form(read_torch, lambda state, path: torch.save(state, path))
SAFETENSORS = Form(load_file, lambda tensors, path: save_file(tensors, path))
FULL_CHECKPOINT = Form(load_full, lambda state, path: save_full(path, state))

_NUMBERS = [0, -1, 1, 255, 65536, 2**31, 2**63, 1e-300, 1e15, 1e38, 1e308, float("nan"), float("inf"), float("-inf")]
_DEEP: Any = []
for _ in range(500):
    _DEEP = [_DEEP]
_OTHERS = [None, True, "", "x", "1", "\0", "../../x", "/dev/zero", "x" * 5000, [], {}, [[]], {"x": None}, _DEEP]
_PACKED = [struct.pack(f"<{form}", value) for form in "fd" for value in (*_NUMBERS[-3:], 0.0, -1.0, 1e30)]
_PACKED += [struct.pack(f"<{form}", value) for form in "IQ" for value in (0, 1, 2**31, 2**32 - 1)]
_TENSORS: list[Callable[[Tensor], Any]] = [
    *(lambda tensor, value=value: torch.full_like(tensor.real.float(), value) for value in (*_NUMBERS[-3:], 0.0, 1e38)),
    lambda tensor: tensor[:0] if tensor.ndim else tensor[None],
    lambda tensor: tensor.flatten()[1:],
    lambda tensor: tensor[None].clone(),
    lambda tensor: tensor.repeat(2, *[1] * (tensor.ndim - 1)) if tensor.ndim else tensor.double(),
    lambda tensor: tensor.to(torch.int64),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor.half(),
    lambda tensor: tensor.to(torch.float8_e4m3fn),
    lambda tensor: tensor > 0,
    lambda tensor: tensor.float().to_sparse(),
]


def damaged(good: Any) -> st.SearchStrategy[Any]:
    """Draw damaged versions of a file's bytes or values, which are copied: tensors may still lie in the file."""
    return damaged_bytes(good) if isinstance(good, bytes) else damaged_tree(_Quiet(deepcopy(good)))


@st.composite
def damaged_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Flip, overwrite, cut, repeat, insert and put in other numbers, up to four times."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([1, 2, 4, 8, 64, 1024])))
        change = draw(st.sampled_from(["flip", "pack", "number", "truncate", "remove", "repeat", "insert", "zero"]))
        if change == "flip":
            data[start:end] = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in data[start:end][:4])
        elif change == "pack":
            value = draw(st.sampled_from(_PACKED))
            data[start : start + len(value)] = value
        elif change == "number":
            found = list(re.finditer(rb"-?\d+(\.\d+)?(e[-+]?\d+)?", bytes(data[start : start + 4096])))
            if found:
                place = found[draw(st.integers(0, len(found) - 1))]
                data[start + place.start() : start + place.end()] = str(draw(st.sampled_from(_NUMBERS))).encode()
        elif change == "truncate":
            del data[start:]
        elif change == "remove":
            del data[start:end]
        elif change == "repeat":
            data[start:start] = data[start:end] * draw(st.sampled_from([1, 3, 50]))
        elif change == "insert":
            data[start:start] = draw(st.binary(min_size=1, max_size=16))
        else:
            data[start:end] = bytes(end - start)
    return bytes(data)


@st.composite
def damaged_tree(draw: st.DrawFn, good: _Quiet) -> Any:
    """Replace, remove, repeat and rename values, up to three times."""
    root = [deepcopy(good.value)]
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(root))
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        change = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat", "rename"]))
        if change == "replace" or holder is root:
            holder[key] = draw(_replacement(holder[key]))
        elif change == "remove":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            holder[f"{key}x" if change == "rename" else "x"] = holder.pop(key) if change == "rename" else holder[key]
    return root[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """List every value that can be changed, as what holds it and its key there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _replacement(old: Any) -> st.SearchStrategy[Any]:
    if isinstance(old, Tensor):
        return st.sampled_from(_TENSORS).map(lambda change: _changed(old, change))
    return st.sampled_from(_NUMBERS + _OTHERS).map(deepcopy)


def _changed(tensor: Tensor, change: Callable[[Tensor], Any]) -> Any:
    try:
        return change(tensor)
    except RuntimeError:  # a tensor that was changed before may not allow it
        return None


def attacks(canary: Path) -> dict[str, bytes]:
    """Files that would do something when they are opened, or that grow without end; the first ones write ``canary``."""
    command = f"touch '{canary}'"
    pickled = b"cos\nsystem\n(S" + repr(command).encode() + b"\ntR."
    call = {"tag": f"!!python/object/apply:os.system [{json.dumps(command)}]"}
    aliases = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    ply = "ply\nformat ascii 1.0\nelement vertex 100000000000\nproperty float x\nend_header\n1\n"
    return {
        "pickle": pickled,
        "torch file": _torch_file(pickled),
        "yaml that calls": call["tag"].encode(),
        "yaml that calls below": f"streams:\n- {call['tag']}\n".encode(),
        "yaml that builds": f"!!python/object/new:os._wrap_close\nstate: {call['tag']}\n".encode(),
        "yaml of aliases": f"a0: &a0 [x, x]\n{aliases}\n".encode(),
        "deep nesting": b"[" * 100_000,
        "deep mapping": b'{"a":' * 100_000,
        "huge number": b'{"w": ' + b"9" * 5000 + b"}",
        "ply of many": ply.encode(),
        "png of many": _png(60_000),
        "count of many": struct.pack("<Q", 2**62) + bytes(64),
        "zeros": bytes(4096),
        "empty": b"",
    }


def _torch_file(pickled: bytes) -> bytes:
    import io
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def _png(side: int) -> bytes:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
