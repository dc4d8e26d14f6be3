# SPDX-License-Identifier: Apache-2.0
"""Reference mixing: self-attention across a view and its reference photos (Difix3D+, Wu et al. 2025). No new weights.

The images of a view stand side by side in the batch: its references, the view itself, its context. Inside every
transformer block the tokens of view and references are joined along the sequence for self-attention, then split again;
the normalisation before and the residual sum after work token by token, so joining for attention alone is the same.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


class Layout(NamedTuple):
    """What the images of one view are, in their order.

    Args:
        references: real photos.
        context: previous outputs, newest first; the view itself stands between photos and these.
    """

    references: int = 0
    context: int = 0

    @property
    def images(self) -> int:
        """Images of one view."""
        return self.references + 1 + self.context


class ReferenceMixing:
    """A processor of attention: view and references attend to each other, context images to themselves.

    The UNet hands it a `Layout` that stands in its ``cross_attention_kwargs={"layout": ...}``.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "bv n c"],
        encoder_hidden_states: Float[Tensor, "bv m d"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        layout: Layout = Layout(),
    ) -> Float[Tensor, "bv n c"]:
        """Attend; ``bv`` is batch x images of a view. With text it is cross-attention, where nothing is mixed."""
        if encoder_hidden_states is not None or not layout.references:
            return attend(attn, hidden_states, encoder_hidden_states)
        grouped = hidden_states.unflatten(0, (-1, layout.images))
        joined, alone = grouped.split([layout.references + 1, layout.context], dim=1)
        mixed = attend(attn, joined.flatten(1, 2)).view_as(joined)
        if layout.context:
            mixed = torch.cat([mixed, attend(attn, alone.flatten(0, 1)).view_as(alone)], dim=1)
        return mixed.flatten(0, 1)


def attend(
    attn: Attention, tokens: Float[Tensor, "b n c"], text: Float[Tensor, "b m d"] | None = None
) -> Float[Tensor, "b n c"]:
    """Attention of a UNet's transformer block to its own tokens or to text, in one fused kernel.

    Such layers have no masks, no normalised queries, no residual sum and nothing to divide by, so none of these costs a
    pass over the image here.
    """
    seen = tokens if text is None else text
    projected = attn.to_q(tokens), attn.to_k(seen), attn.to_v(seen)
    mixed = F.scaled_dot_product_attention(*(x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in projected))
    return attn.to_out[0](mixed.transpose(1, 2).flatten(2))
