# SPDX-License-Identifier: Apache-2.0
"""The ``harmonizer`` command: each file is one sub command, which reads its options and calls the package that works.

May import everything; nothing imports it. `main` holds the table of commands.
"""
