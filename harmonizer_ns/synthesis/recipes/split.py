# SPDX-License-Identifier: Apache-2.0
"""Which scenes are kept for testing: whole scenes, and never two names of the same photos on both sides."""

from __future__ import annotations

import hashlib

from harmonizer_ns.synthesis.recipes.sources import Contents, Scene


def held_out(groups: list[frozenset[str]], fraction: float, seed: str) -> frozenset[str]:
    """Names of a fraction of the groups; at least one of two, and never all.

    Args:
        groups: names of scenes that go the same way.
        fraction: in [0, 1).
        seed: of the choice.
    """
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{min(group)}".encode()).hexdigest())
    wanted = round(fraction * len(order))
    count = min(len(order) - 1, max(1, wanted)) if fraction and order else 0
    return frozenset().union(*order[:count])


def scene_groups(scenes: list[Scene], contents: Contents) -> list[frozenset[str]]:
    """Names of scenes, together where scenes share an image byte for byte, under whatever file name."""
    groups: list[tuple[frozenset[str], frozenset[str]]] = []
    for scene in scenes:
        names = frozenset([scene.name])
        images = frozenset(contents.of(scene.folder / file) for file in scene.files)
        for group in [group for group in groups if group[1] & images]:
            names, images = names | group[0], images | group[1]
            groups.remove(group)
        groups.append((names, images))
    return [names for names, _ in groups]
