# SPDX-License-Identifier: Apache-2.0
"""Make the README's picture from a report: plain, harmonized and truth of three views, mild to strong extrapolation.

    python .ci/picture.py outputs/demo/harmonize-tiny/.../report.html docs/demo.jpg

The report is that of the README's main command; its views are numbered along the path away from the photos.
"""

import base64
import io
import re
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from harmonizer_ns.images import contact_sheet, labelled, resize, to_float, to_pillow

COLUMNS = "plain", "harmonized", "truth"
WIDTH, QUALITY = 360, 82


def pictures(report: Path) -> dict[str, dict[str, torch.Tensor]]:
    """View -> role -> picture, as the report's page holds them."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    pattern = r'src="data:image/jpeg;base64,([^"]+)" alt="(\S+): (\w+)"'
    for data, view, role in re.findall(pattern, report.read_text(encoding="utf-8")):
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
        image = to_float(torch.from_numpy(pixels)).permute(2, 0, 1)[None]
        found.setdefault(view, {})[role] = resize(image, round(WIDTH * image.shape[-2] / image.shape[-1]), WIDTH)[0]
    return found


def main(report: Path, output: Path) -> None:
    """Choose the views, and write them below each other."""
    found = pictures(report)
    names = sorted(found)
    chosen = [found[names[i]] for i in (len(names) // 4, len(names) // 2, len(names) - 2)]
    rows = [[view[role] for role in COLUMNS] for view in chosen]
    head = [labelled(dict(zip(COLUMNS, rows[0], strict=True)))]
    to_pillow(contact_sheet([head, *rows[1:]])).save(output, quality=QUALITY)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
