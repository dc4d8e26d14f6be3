# SPDX-License-Identifier: Apache-2.0
from wall import damaged_renderer, perfect_renderer, wall

__all__ = ["damaged_renderer", "perfect_renderer", "wall"]
