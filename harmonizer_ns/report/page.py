# SPDX-License-Identifier: Apache-2.0
"""A report becomes one page that holds all it needs: pictures as data, drawings as SVG, its style and its script."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL.Image import Image
from torch import Tensor

from harmonizer_ns import __version__
from harmonizer_ns.images import load_image, to_float, to_pillow
from harmonizer_ns.report.content import Report, View
from harmonizer_ns.report.drawings import curves, seen_from_above
from harmonizer_ns.report.figures import change, digits_of, shown
from harmonizer_ns.report.views import Changes, all_scores, changes, scores_by_picture, with_pictures, worst_first

_FOLDER = Path(__file__).parent
_LONGEST_SIDE = 1024
"""Larger pictures are shrunk."""
_GLANCE_SIDE = 160
"""Likewise those in the strip beside a slider."""
_QUALITY = 90
"""Of JPEG; colours keep their full resolution."""
_NOT_RESULTS = ("truth", "weight")
"""Pictures that no method made; the slider does not begin with them."""


@dataclass(frozen=True)
class Picture:
    """Holds a picture as the page embeds it.

    Args:
        name: of the picture.
        address: holds the picture itself.
        glance: likewise, small.
        size: width and height that it was given with.
        side: where the slider shows it first: left, right or nowhere.
    """

    name: str
    address: str
    glance: str
    size: tuple[int, int]
    side: str


@dataclass(frozen=True)
class Gain:
    """Holds one of the bars that tell how views changed.

    Args:
        view: its name.
        place: of the view among those with pictures, None where it is not.
        value: of the change.
        text: the change in words.
        tone: better, worse or nothing.
        height: of the bar in percent.
        zero: where bars begin, in percent from above.
    """

    view: str
    place: int | None
    value: float
    text: str
    tone: str
    height: float
    zero: float


def page(report: Report, settings: Any) -> str:
    """Give a report as HTML.

    Args:
        report: what it tells.
        settings: its settings as JSON can hold them.

    Raises:
        InputError: when a picture cannot be read.
    """
    views = worst_first(report.views)
    pictured = with_pictures(views)
    compared = changes(views)
    maps = {**({"": report.cameras} if report.cameras else {}), **report.maps}
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(shown=shown, curves=curves, scores_by_picture=scores_by_picture)
    return environment.get_template("page.html").render(
        report=report,
        version=__version__,
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        views=[(view, _embedded(view)) for view in pictured],
        galleries={title: [(view, _embedded(view)) for view in some] for title, some in report.galleries.items()},
        count=len(views),
        scores=all_scores(views),
        compared=compared,
        gains=_gains(compared, pictured) if compared else [],
        maps={name: drawn for name, cameras in maps.items() if (drawn := seen_from_above(cameras))},
        settings=json.dumps(settings, indent=1, ensure_ascii=False),
    )


def _embedded(view: View) -> list[Picture]:
    """Encode the pictures of a view; the slider begins with the first one and the last that a method made."""
    names = list(view.pictures)
    others = names[1:]
    right = next((name for name in reversed(others) if not name.startswith(_NOT_RESULTS)), others[0] if others else "")
    sides = {**dict.fromkeys(names, ""), **dict.fromkeys(names[:1], "left"), right: "right"}
    return [_encoded(name, picture, sides[name]) for name, picture in view.pictures.items()]


def _encoded(name: str, picture: Tensor | Path, side: str) -> Picture:
    pixels = load_image(picture) if isinstance(picture, Path) else picture
    pixels = to_float(pixels) if pixels.dtype == torch.uint8 else pixels
    image = to_pillow(pixels.expand(3, -1, -1))
    return Picture(name, _address(image, _LONGEST_SIDE), _address(image, _GLANCE_SIDE), image.size, side)


def _address(image: Image, longest_side: int) -> str:
    """Give a picture, shrunk if need be, as an address that holds it."""
    image, file = image.copy(), io.BytesIO()
    image.thumbnail((longest_side, longest_side))
    image.save(file, "JPEG", quality=_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _gains(compared: Changes, pictured: list[View]) -> list[Gain]:
    """Give a bar for each view, in the order of the views."""
    places = {id(view): place for place, view in enumerate(pictured)}
    values = [value for _, value in compared.values]
    digits, highest = digits_of(compared.measure, values), max(0.0, *values)
    percent = 100 / ((highest - min(0.0, *values)) or 1.0)
    return [
        Gain(
            view.name,
            places.get(id(view)),
            value,
            *change(value, compared.sign, digits),
            height=round(abs(value) * percent, 1),
            zero=round(highest * percent, 1),
        )
        for view, value in compared.values
    ]
