# SPDX-License-Identifier: Apache-2.0
"""Model outputs hold one more image, ``rgb_enhanced``, which is made only when it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

ENHANCED = "rgb_enhanced"


class EnhancedOutputs(dict):
    """A model's outputs plus `ENHANCED`, computed at its first look-up and then kept.

    nerfstudio's evaluation, viewer and renderer all read one dictionary by name. They list the new image like any
    other output, and ``rgb`` stays what the model rendered.
    """

    def __init__(self, outputs: dict[str, Any], enhance: Callable[[dict[str, Any]], Tensor]) -> None:
        super().__init__(outputs)
        self[ENHANCED] = None
        self._enhance = enhance

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        if key == ENHANCED and value is None:
            value = self._enhance(self)
            self[ENHANCED] = value
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """As `dict.get`."""
        return self[key] if key in self else default  # noqa: SIM401 - dict.get bypasses __getitem__

    def items(self) -> Any:
        """As `dict.items`; computes the enhanced image."""
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        """As `dict.values`; computes the enhanced image."""
        return [self[key] for key in self]
