# SPDX-License-Identifier: Apache-2.0
"""From a recipe to pairs: `recipe` is read, `plan` lists its items, `workers` make `items`, `collect` gathers pairs.

May import streams and what these may import. The whole flow reads in `harmonizer synthesize` (cli.synthesize).
"""
