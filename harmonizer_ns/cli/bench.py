# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: ``harmonizer bench enhancers|raster|viewer``, or ``python -m harmonizer_ns.cli.bench ...``."""

from __future__ import annotations

import tyro

from harmonizer_ns.bench import viewer as viewer
from harmonizer_ns.bench import enhancers as enhancers
from harmonizer_ns.bench import raster as raster


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark that the command line names; each is a dataclass of options and a function."""
    benchmarks = {
        "enhancers": (enhancers.EnhancersBench, enhancers.run),
        "raster": (raster.RasterBench, raster.run),
        "viewer": (viewer.ViewerBench, viewer.run),
    }
    options = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in benchmarks.items()}, args=arguments
    )
    for kind, run in benchmarks.values():
        if type(options) is kind:
            run(options)


if __name__ == "__main__":
    main()
