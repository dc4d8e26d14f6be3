# SPDX-License-Identifier: Apache-2.0
"""What test doubles of enhancers have in common."""


class ToyEnhancer:
    """Looks at nothing, has nothing to move; a double adds ``enhance`` and whatever else it is about."""

    max_references = 0
    max_context = 0
    needs_geometry = False

    def to(self, device):
        return self
