"""What networks on sequences of vectors (B, n, width) are made of: adaptive layer norm and attention to tokens.

Adaptive layer norm (Peebles & Xie 2023, section 3.2) normalises each vector, then scales and shifts it by what the
embedding of timestep and conditions determines:  y = LN(x) (1 + scale) + shift.  "Zero" means that the branch that follows is
also gated, and that scale, shift and gate start at 0, so that each block starts as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undiffuse.networks.blocks import attend, split_evenly, zeroed

LAYER_NORM_EPS = 1e-6


class Modulation(nn.Module):
    """embedding (B, embedding_width), activated → `count` vectors (B, 1, width) that all start at zero."""

    def __init__(self, embedding_width: int, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(embedding_width, count * width)
        zeroed(self.linear)

    def forward(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """embedding (B, embedding_width) → `count` tensors (B, 1, width)."""
        numbers: Tensor = self.linear(embedding)
        return numbers[:, None].chunk(self.count, -1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LN(x) (1 + scale) + shift."""
    return torch.addcmul(shift, nn.functional.layer_norm(x, x.shape[-1:], eps=LAYER_NORM_EPS), 1 + scale)


class AttentionToTokens(nn.Module):
    """Vectors x (B, n, width) attend to tokens (B, m, token_width); what they find is added to them. Starts as the identity."""

    def __init__(self, width: int, token_width: int, heads: int) -> None:
        super().__init__()
        split_evenly(width, heads)
        self.heads = heads
        self.norm, self.token_norm = nn.LayerNorm(width), nn.LayerNorm(token_width)
        self.q, self.kv = nn.Linear(width, width), nn.Linear(token_width, 2 * width)
        self.out = nn.Linear(width, width)
        zeroed(self.out)

    def forward(self, x: Tensor, tokens: Tensor, padding_mask: Tensor) -> Tensor:
        """x (B, n, width), tokens (B, m, token_width), padding_mask (B, m), True where a token is absent → (B, n, width)."""
        q = self.q(self.norm(x)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = (
            part.transpose(1, 2)
            for part in self.kv(self.token_norm(tokens)).unflatten(2, (2, self.heads, -1)).unbind(2)
        )
        out: Tensor = x + self.out(attend(q, k, v, padding_mask))
        return out
