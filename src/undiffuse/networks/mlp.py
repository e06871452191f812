"""A residual network of plain layers, for points and tables: examples of a few numbers that lie on no grid.

    x ── all numbers in one row ── linear ──[ adaptive norm, linear, SiLU, linear ] × depth ── adaptive norm, linear ── F

Every block receives the embedding of timestep and conditions as a scale, a shift and a gate that start at zero (adaLN-zero,
sequences.py).  Where there are tokens, the row attends to them.

It has no notion of neighbours: each number has weights of its own, so it is for one size, and images that fit a
convolution or a patch are better left to these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.networks.base import NetworkSettings, TimestepNetwork
from undiffuse.networks.blocks import zeroed
from undiffuse.networks.sequences import AttentionToTokens, Modulation, modulated
from undiffuse.networks.unet_config import Positive

MLP_FREQUENCIES = 256
MOST_MLP_NUMBERS = 4096


class MLPConfig(NetworkSettings):
    """A residual network of plain layers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["mlp"] = Field("mlp", description="Which kind of network this is.")
    width: Positive = Field(256, description="Numbers in a layer.")
    depth: Positive = Field(4, description="Blocks of two layers.")
    heads: Positive = Field(1, description="Attention heads of attention to tokens; they divide the width.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Probability of dropout between the two layers of a block, from 0 to less than 1."
    )
    embedding_width: Positive | None = Field(
        None, description="Width of the embedding of timestep and conditions; the width when left out."
    )


class MLP(TimestepNetwork):
    """F(x, timestep, conditioning, tokens, padding_mask), see base.py.

    size: of the examples.   tokens: whether it attends to tokens.
    Raises UsageError for examples of more than 4096 numbers.
    """

    def __init__(
        self, config: MLPConfig, channels_in: int, channels_out: int, size: Sequence[int], tokens: bool = False
    ) -> None:
        super().__init__(MLP_FREQUENCIES, config.embedding_width or config.width)
        numbers = channels_in * math.prod(size)
        if numbers > MOST_MLP_NUMBERS and math.prod(size) > 1:  # rows of a table have no neighbours anyway
            raise UsageError(
                f"an mlp connects all {numbers:,} numbers with each other and has no notion of neighbours: take the network unet or transformer "
                f"for examples of more than {MOST_MLP_NUMBERS:,} numbers."
            )
        self.config, self.channels_out = config, channels_out
        self.first = nn.Linear(numbers, config.width)
        self.blocks = nn.ModuleList([MLPBlock(config, self.embedding_width, tokens) for _ in range(config.depth)])
        self.modulation = Modulation(self.embedding_width, config.width, 2)
        self.last = zeroed(nn.Linear(config.width, channels_out * math.prod(size)))

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        conditioning: Tensor | None = None,
        tokens: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        embedding, h = self.embedding(timestep, conditioning), self.first(x.flatten(1))[:, None]
        h = h.to(torch.promote_types(h.dtype, x.dtype))  # under autocast too: the residual keeps small updates
        for block in self.blocks:
            h = block(h, embedding, tokens, padding_mask)
        out: Tensor = self.last(modulated(h, *self.modulation(embedding))).reshape(
            len(x), self.channels_out, *x.shape[2:]
        )
        return out


class MLPBlock(nn.Module):
    """x (B, 1, width) → the same."""

    def __init__(self, config: MLPConfig, embedding_width: int, tokens: bool) -> None:
        super().__init__()
        width = config.width
        self.modulation = Modulation(embedding_width, width, 3)
        self.to_tokens = AttentionToTokens(width, embedding_width, config.heads) if tokens else None
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.SiLU(), nn.Dropout(config.dropout), nn.Linear(width, width)
        )

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None, padding_mask: Tensor | None) -> Tensor:
        """x (B, 1, width), embedding (B, embedding_width), tokens (B, n, embedding_width), padding_mask (B, n) → (B, 1, width)."""
        shift, scale, gate = self.modulation(embedding)
        if self.to_tokens is not None:
            x = self.to_tokens(x, tokens, padding_mask)
        return torch.addcmul(x, gate, self.layers(modulated(x, shift, scale)))
