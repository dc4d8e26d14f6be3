# SPDX-License-Identifier: Apache-2.0
"""``harmonizer enhancers``: which enhancers there are, what installs them, and the licences of their weights."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from harmonizer_ns.enhancers.specs import SPECS


@dataclass(frozen=True)
class EnhancersConfig:
    """List the enhancers by name; a checkpoint's folder works wherever a name does."""


def main(arguments: list[str] | None = None) -> None:
    """Print one paragraph for each enhancer."""
    tyro.cli(EnhancersConfig, args=arguments, prog="harmonizer enhancers", description=EnhancersConfig.__doc__)
    for name, spec in SPECS.items():
        print(f"{name}: {spec.description}\n    install: {spec.install}\n    licence: {spec.licence}")


if __name__ == "__main__":
    main()
