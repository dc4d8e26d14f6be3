# SPDX-License-Identifier: Apache-2.0
"""The one exception for what a user can mend."""


class InputError(ValueError):
    """Something the user gave is wrong. The message names it and says what to do; commands print it alone."""
