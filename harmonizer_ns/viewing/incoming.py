# SPDX-License-Identifier: Apache-2.0
"""What clients send is dropped, before viser sees it, unless a browser that shows viser's page could have sent it.

viser stores what it is sent: any value in any control, and even the control's callbacks. A message that it cannot read
ends the conversation without telling anybody that the client has gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import wraps
from typing import Any
from weakref import WeakValueDictionary

FILE_NAMES = ("Render name",)
"""Labels of controls whose text names a file that nerfstudio then writes into the capture's ``camera_paths``."""
_LONGEST = 1000
_FAR = 1e9
_ASPECTS = 0.01, 100.0

_controls: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The state of every control by its id, which is unique in the process; its `offer` says what it takes."""


def remember_controls() -> None:
    """Know the controls that viser makes from now on."""
    from viser._gui_api import GuiApi

    create = GuiApi._create_gui_input

    @wraps(create)
    def create_known(self: Any, value: Any, message: Any, *arguments: Any, **named: Any) -> Any:
        made = create(self, value, message, *arguments, **named)
        state = getattr(made, "_impl", made)
        state.offer = getattr(message, "props", message)
        _controls[_control_id(message)] = state
        return made

    GuiApi._create_gui_input = create_known  # pyright: ignore[reportAttributeAccessIssue]


def receive_plausible(websocket: Any) -> None:
    """Let a server's end of a websocket receive nothing else."""
    receive = websocket.recv

    async def receive_next(*arguments: Any, **named: Any) -> Any:
        while not is_plausible(raw := await receive(*arguments, **named)):
            pass
        return raw

    websocket.recv = receive_next


def is_plausible(raw: bytes | str) -> bool:
    """Tell whether a message can be read, has finite numbers only, and asks for what was offered."""
    from viser._messages import Message

    try:
        message = Message.deserialize(raw)  # pyright: ignore[reportArgumentType]
        return _is_finite(vars(message)) and _is_sane(message)
    except Exception:  # a stranger wrote it: whatever reading it raises, it is no message
        return False


def _is_sane(message: Any) -> bool:
    kind = type(message).__name__
    if kind == "ViewerCameraMessage":
        return _is_camera(message)
    if kind == "GuiUpdateMessage":
        control = _controls.get(_control_id(message))
        return control is not None and set(message.updates) == {"value"} and _takes(control, message.updates["value"])
    return not kind.startswith("FileTransfer")  # no viewer here has a button for it; any control would take the file


def _is_camera(message: Any) -> bool:
    places = message.position, message.look_at, message.up_direction
    return (
        all(len(place) == 3 and all(abs(value) <= _FAR for value in place) for place in places)
        and len(message.wxyz) == 4
        and 0.5 < math.hypot(*message.wxyz) < 2
        and 0 < message.fov < math.pi
        and _ASPECTS[0] <= _aspect(message) <= _ASPECTS[1]
    )


def _aspect(message: Any) -> float:
    """Width over height: viser 0.2 sends it, viser 1 sends both."""
    return message.aspect if hasattr(message, "aspect") else message.image_width / message.image_height


def _takes(control: Any, value: Any) -> bool:
    """Tell whether a control may have a value: of its kind, and one of its options or within its range."""
    now, offer = control.value, control.offer
    options = _options(control)
    if options is not None:
        return value in options
    if isinstance(now, bool):
        return isinstance(value, bool)
    if isinstance(now, str):
        is_text = isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST
        return is_text and not (offer.label in FILE_NAMES and {"/", "\\"} & set(value))
    if isinstance(now, tuple):
        return isinstance(value, (tuple, list)) and len(value) == len(now) and _is_within(value, offer)
    return isinstance(now, (int, float)) and _is_within((value,), offer)


def _options(control: Any) -> Sequence[str] | None:
    """Give the options of a list or a group of buttons, as they are now."""
    name = "id" if hasattr(control, "id") else "uuid"  # of viser 0.2 and of viser 1
    handle = getattr(control.gui_api, f"_gui_input_handle_from_{name}").get(getattr(control, name))
    return getattr(handle, "options", getattr(control.offer, "options", None))


def _is_within(values: Sequence[Any], offer: Any) -> bool:
    is_colour = "rgb" in type(offer).__name__.lower()
    low, high = (0, 255) if is_colour else (getattr(offer, "min", None), getattr(offer, "max", None))
    return all(
        type(value) in (int, float) and (least is None or least <= value) and (most is None or value <= most)
        for value, least, most in zip(values, _each(low, values), _each(high, values), strict=True)
    )


def _each(limit: Any, values: Sequence[Any]) -> Sequence[Any]:
    return limit if isinstance(limit, tuple) else (limit,) * len(values)


def _is_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_finite(part) for part in value.values())
    if isinstance(value, (tuple, list)):
        return all(_is_finite(part) for part in value)
    return not isinstance(value, float) or math.isfinite(value)


def _control_id(message: Any) -> str:
    return message.id if hasattr(message, "id") else message.uuid
