# SPDX-License-Identifier: Apache-2.0
"""A self-test of the borders: readers are given damaged files, writers are killed, and the disk is full.

It may import everything but the commands. Begin with `READERS` in ``readers.py`` and `WRITERS` in ``kills.py``.
"""
