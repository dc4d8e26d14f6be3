# SPDX-License-Identifier: Apache-2.0
"""Files are damaged in two ways, drawn by hypothesis: in their bytes, and in the values that they hold."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from gsplat_trainer.checkpoint import load_full, save_full
from harmonizer_ns.files import read_torch


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

_CHANGES = st.sampled_from([1, 1, 2, 4])
_NUMBER = re.compile(rb"-?\d+(\.\d+)?(e[-+]?\d+)?")
_NUMBERS = st.sampled_from([0, -1, 2**31, 2**63, 1e15, 1e38, float("nan"), float("inf")]) | st.integers() | st.floats()
_PIECES = st.one_of(
    _NUMBERS.map(lambda value: str(value).encode()),
    st.floats(width=32).map(lambda value: struct.pack("<f", value)),
    st.floats().map(lambda value: struct.pack("<d", value)),
    st.integers(0, 2**32 - 1).map(lambda value: struct.pack("<I", value)),
    st.integers(0, 2**64 - 1).map(lambda value: struct.pack("<Q", value)),
    st.sampled_from([b"", bytes(8), bytes(64)]) | st.binary(max_size=16),
)
_DEEP = "[" * 500 + "]" * 500
_TEXTS = st.sampled_from(["1", "\0", "../../x", "/dev/zero", "x" * 5000]) | st.text(max_size=8)
_CONTAINERS = st.sampled_from(["[]", "{}", "[[]]", '{"x": null}', _DEEP]).map(json.loads)
_VALUES = st.one_of(st.none(), st.booleans(), _NUMBERS, _TEXTS, _CONTAINERS)
_DTYPES = (torch.float16, torch.float64, torch.float8_e4m3fn, torch.int64, torch.complex64, torch.bool)


@st.composite
def damaged(draw: st.DrawFn, form: Form, good: Path) -> Any:
    """Draw a damaged version of what a good file holds, up to four changes away."""
    value = form.load(good)
    if isinstance(value, bytes):
        return _damaged_bytes(draw, bytearray(value))
    root = [value]
    for _ in range(draw(_CHANGES)):
        places = list(_places(root))
        _change(draw, *places[draw(st.integers(0, len(places) - 1))], root)
    return root[0]


def _damaged_bytes(draw: st.DrawFn, data: bytearray) -> bytes:
    """Put pieces over, between or in place of others, leave some out or repeat them; of texts often the numbers."""
    for _ in range(draw(_CHANGES)):
        start, piece = draw(st.integers(0, len(data))), draw(_PIECES)
        end = start + draw(st.sampled_from([len(piece)] * 4 + [0, 1, 64, len(data)]))
        number = _NUMBER.search(data, start, start + 4096)
        if number and draw(st.booleans()):
            start, end = number.span()
        data[start:end] = piece if draw(st.integers(0, 7)) else data[start : start + 1024] * 3
    return bytes(data)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """List every value that can be changed, as what holds it and its key there."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _change(draw: st.DrawFn, holder: Any, key: Any, root: list[Any]) -> None:
    """Replace a value, remove it, repeat it in its list, or give it another name as well."""
    how, old = draw(st.sampled_from(["replace", "replace", "remove", "repeat"])), holder[key]
    if how == "replace" or holder is root:
        holder[key] = _other_tensor(draw, old) if isinstance(old, Tensor) else draw(_VALUES)
    elif how == "remove":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, old)
    else:
        holder[draw(st.just(f"{key}x") | st.text(max_size=3))] = old


def _other_tensor(draw: st.DrawFn, old: Tensor) -> Tensor | None:
    """Change a tensor's values, precision, shape or layout."""
    try:
        twice = torch.cat([torch.atleast_1d(old)] * 2)
        shapes = (old[None], old.flatten()[1:], old.flatten()[:0], twice, old.float().to_sparse())
        return draw(
            _NUMBERS.map(lambda value: torch.full_like(old.real.float(), value))
            | st.sampled_from(_DTYPES).map(old.to)
            | st.integers(0, len(shapes) - 1).map(shapes.__getitem__)
        )
    except (RuntimeError, OverflowError):  # a tensor that was changed before may not allow it
        return None


def attacks(canary: Path) -> dict[str, bytes]:
    """Files that would do something when they are opened, or that grow without end; the first ones write ``canary``."""
    command = f"touch '{canary}'"
    pickled = b"cos\nsystem\n(S" + repr(command).encode() + b"\ntR."
    call = f"!!python/object/apply:os.system [{json.dumps(command)}]"
    aliases = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))
    ply = "ply\nformat ascii 1.0\nelement vertex 100000000000\nproperty float x\nend_header\n1\n"
    return {
        "pickle": pickled,
        "torch file": _torch_file(pickled),
        "yaml that calls": call.encode(),
        "yaml that calls below": f"streams:\n- {call}\n".encode(),
        "yaml that builds": f"!!python/object/new:os._wrap_close\nstate: {call}\n".encode(),
        "yaml of aliases": f"a0: &a0 [x, x]\n{aliases}\n".encode(),
        "deep nesting": b"[" * 100_000,
        "deep mapping": b'{"a":' * 100_000,
        "huge number": b'{"w": ' + b"9" * 5000 + b"}",
        "ply of many": ply.encode(),
        "png of many": _large_png(60_000),
        "count of many": struct.pack("<Q", 2**62) + bytes(64),
        "zeros": bytes(4096),
        "empty": b"",
    }


def _torch_file(pickled: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (("data.pkl", pickled), ("version", "3\n"), ("byteorder", "little")):
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def _large_png(side: int) -> bytes:
    """A small PNG that says of itself that it is large."""
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "png")
    head = b"IHDR" + struct.pack(">II", side, side) + file.getvalue()[24:29]
    return file.getvalue()[:12] + head + struct.pack(">I", zlib.crc32(head)) + file.getvalue()[33:]
