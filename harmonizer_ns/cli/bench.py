# SPDX-License-Identifier: Apache-2.0
"""``harmonizer bench enhancers|gpu|raster|stereo|viewer``: speed and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tyro

from harmonizer_ns.bench import enhancers, gpu, raster, stereo, viewer
from harmonizer_ns.cli.parsing import with_examples

EXAMPLES = """
harmonizer bench enhancers                        # the built-in one
harmonizer bench enhancers --enhancers configs/harmonizer.json --sizes 1024x576 --precisions bf16 --compile
harmonizer bench gpu --json gpu.json              # all that runs on a GPU, in 8 minutes
harmonizer bench raster                           # the CPU rasterizer beside gsplat's torch reference
harmonizer bench stereo                           # depth from photos
harmonizer bench viewer                           # what a viewer costs a run
"""
BENCHMARKS = {
    "enhancers": (enhancers.EnhancersBench, enhancers.run),
    "gpu": (gpu.GpuBench, gpu.run),
    "raster": (raster.RasterBench, raster.run),
    "stereo": (stereo.StereoBench, stereo.run),
    "viewer": (viewer.ViewerBench, viewer.run),
}
"""Name -> dataclass of options, function."""


def parse(arguments: Sequence[str]) -> Any:
    """Read the command line: the options of one benchmark."""
    return tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in BENCHMARKS.items()},
        args=arguments,
        prog="harmonizer bench",
        description=with_examples("Measure speed and memory.", EXAMPLES),
    )


def main(options: Any) -> None:
    """Run the benchmark that the command line names."""
    for kind, run in BENCHMARKS.values():
        if type(options) is kind:
            run(options)
