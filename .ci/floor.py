# SPDX-License-Identifier: Apache-2.0
"""The quality floor: ``python .ci/floor.py RUN/harmonize_report.json`` fails when its repairs made a run worse.

The report is that of ``ns-train harmonize... --compare-to-baseline True``, with PSNR on held-out photos.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SLACK = 0.05
"""How many dB processors and library versions may differ."""
RULES = {
    "the method": ("harmonize: rgb", "plain baseline: rgb"),
    "the enhancer": ("harmonize: rgb_enhanced", "harmonize: rgb"),
}
"""What is asked -> the row of the report that should be better, and the row that it is compared with."""


def failures(held_out: dict[str, dict[str, float]]) -> list[str]:
    """What fell below the floor, in words.

    Args:
        held_out: name of an image -> metrics, with ``psnr`` in dB.
    """
    found = []
    for subject, (better, plain) in RULES.items():
        gain = held_out[better]["psnr"] - held_out[plain]["psnr"]
        if not gain >= -SLACK:  # also NaN
            found.append(f"{subject} costs {-gain:.2f} dB: {better} against {plain} (allowed: {SLACK} dB)")
    return found


def main(path: str) -> None:
    """Check one report; exit status 1 with one line for each failure."""
    found = failures(json.loads(Path(path).read_text())["held_out"])
    if found:
        sys.exit("\n".join(f"quality floor: {line}" for line in found))
    print(f"quality floor: held ({path})")


if __name__ == "__main__":
    main(sys.argv[1])
