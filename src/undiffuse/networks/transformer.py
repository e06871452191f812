"""The diffusion transformer, DiT (Peebles & Xie 2023): examples of any dimension as a sequence of patches.

    x ── patches ── linear ──[ attention, MLP ] × depth ── adaptive norm, linear ── patches back to an example ── F

Every block normalises, scales, shifts and gates by the embedding of timestep and conditions (adaLN-zero, sequences.py).  Where
there are tokens, patches attend to them after they attend to each other.

The position of a patch is encoded in one of three ways:

    rotary    queries and keys are rotated by angles that grow with the position, one group of pairs for each axis, so
              that q·k depends on how far two patches are apart    (Su et al. 2021; axes as in Heo et al. 2024, base 100)
    sines     sines and cosines of the position, added once: the paper's
    learned   a vector for each position, added once; for the size it was made for alone

Queries and keys can be divided by their root mean square, which keeps attention from saturating (Dehghani et al. 2023).

Sizes need not be multiples of the patch: inputs are padded with zeros at the end, outputs cropped.  Rotary and sines hold
for sizes that were not trained on as well; how far one may go is a matter of trying.
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
from undiffuse.networks.blocks import attend, cropped, pad_zeros, split_evenly, zeroed
from undiffuse.networks.embeddings import sinusoidal_embedding
from undiffuse.networks.sequences import LAYER_NORM_EPS, AttentionToTokens, Modulation, modulated
from undiffuse.networks.unet_config import Positive

TRANSFORMER_FREQUENCIES = 256
ROTARY_BASE = 100.0


class TransformerConfig(NetworkSettings):
    """A transformer of patches (DiT)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["transformer"] = Field("transformer", description="Which kind of network this is.")
    patch: Positive | tuple[Positive, ...] = Field(
        2, description="Side of a patch in pixels; one number, or one per axis."
    )
    width: Positive = Field(384, description="Numbers in a patch's vector.")
    depth: Positive = Field(12, description="Transformer blocks.")
    heads: Positive = Field(6, description="Attention heads; they divide the width.")
    mlp_ratio: float = Field(
        4.0, gt=0, description="Width of a block's hidden layer as a multiple of the width, above 0."
    )
    positions: Literal["rotary", "sines", "learned"] = Field(
        "rotary", description="How positions are encoded: rotary, sines or learned."
    )
    qk_norm: bool = Field(True, description="Whether queries and keys are normalised (RMSNorm).")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Probability of dropout in the hidden layers, from 0 to less than 1."
    )
    embedding_width: Positive | None = Field(
        None, description="Width of the embedding of timestep and conditions; the width when left out."
    )

    def patches(self, dims: int) -> tuple[int, ...]:
        """The patch along each of `dims` axes. Raises UsageError."""
        patch = self.patch if isinstance(self.patch, tuple) else (self.patch,) * dims
        if len(patch) != dims:
            raise UsageError(
                f"a patch of {len(patch)} axes was given for examples of {dims}: give one number for each, or one for all."
            )
        return patch


class Transformer(TimestepNetwork):
    """F(x, timestep, conditioning, tokens, padding_mask), see base.py.   size: of the examples.   tokens: whether it attends to tokens.

    Raises UsageError for a patch larger than the size, or heads that do not divide the width.
    """

    def __init__(
        self, config: TransformerConfig, channels_in: int, channels_out: int, size: Sequence[int], tokens: bool = False
    ) -> None:
        super().__init__(TRANSFORMER_FREQUENCIES, config.embedding_width or config.width)
        self.config, self.patch, width = config, config.patches(len(size)), config.width
        if any(patch > n for patch, n in zip(self.patch, size, strict=True)):
            raise UsageError(
                f"patches of {_times(self.patch)} do not fit into examples of {_times(size)}: make network.patch smaller."
            )
        split_evenly(width, config.heads)
        if config.positions == "rotary" and width // config.heads < 2 * len(size):
            raise UsageError(
                f"{config.heads} heads of {width // config.heads} numbers cannot be rotated along {len(size)} axes: "
                "take fewer heads or a larger width."
            )
        numbers = math.prod(self.patch)
        self.first = nn.Linear(channels_in * numbers, width)
        self.blocks = nn.ModuleList(
            [TransformerBlock(config, self.embedding_width, tokens) for _ in range(config.depth)]
        )
        self.modulation = Modulation(self.embedding_width, width, 2)
        self.last = zeroed(nn.Linear(width, channels_out * numbers))
        self.grid = tuple(-(-n // patch) for n, patch in zip(size, self.patch, strict=True))
        self.places = (
            nn.Parameter(0.02 * torch.randn(math.prod(self.grid), width)) if config.positions == "learned" else None
        )
        self._elsewhere: tuple[tuple[tuple[int, ...], torch.device], Tensor] | None = (
            None  # of the last grid of another size
        )
        self._known: Tensor
        self.register_buffer(
            "_known", None if self.places is not None else self._positions(self.grid), persistent=False
        )

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        conditioning: Tensor | None = None,
        tokens: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        size = x.shape[2:]
        x = pad_zeros(x, self.patch)
        grid = tuple(n // patch for n, patch in zip(x.shape[2:], self.patch, strict=True))
        embedding, positions = self.embedding(timestep, conditioning), self._at(grid, x.device)
        h = self.first(_to_patches(x, self.patch))
        h, rotation = (
            h.to(torch.promote_types(h.dtype, x.dtype)),
            None,
        )  # under autocast too: the residual keeps small updates
        if self.config.positions == "rotary":
            rotation = positions
        else:
            h = h + positions
        for block in self.blocks:
            h = block(h, embedding, rotation, tokens, padding_mask)
        h = self.last(modulated(h, *self.modulation(embedding)))
        return cropped(_from_patches(h, grid, self.patch), size)

    def _at(self, grid: tuple[int, ...], device: torch.device) -> Tensor:
        """The encoded positions, for a grid of any size unless they are learned."""
        if grid == self.grid:
            return self._known if self.places is None else self.places
        if self.places is not None:
            raise UsageError(
                f"the network learned positions for {_times(self.grid)} patches and was given {_times(grid)}: "
                "train it with network.positions=rotary for other sizes."
            )
        if self._elsewhere is None or self._elsewhere[0] != (grid, device):
            self._elsewhere = (grid, device), self._positions(grid).to(device)
        return self._elsewhere[1]

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        """The encoded positions: of rotary, cosines and sines (2, patches, pairs) of each pair's angle; of sines, (patches, width)."""
        axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
        if self.config.positions == "sines":
            each = self.config.width // len(grid) // 2 * 2
            table = torch.cat([sinusoidal_embedding(axis.flatten(), each) for axis in axes], 1)
            return nn.functional.pad(table, (0, self.config.width - table.shape[1]))
        pairs = self.config.width // self.config.heads // 2
        each = pairs // len(grid)
        frequencies = ROTARY_BASE ** -(torch.arange(each, dtype=torch.float32) / each)
        angles = torch.cat([axis.flatten()[:, None] * frequencies for axis in axes], 1)
        angles = nn.functional.pad(angles, (0, pairs - angles.shape[1]))  # pairs left over are not rotated
        return torch.stack([angles.cos(), angles.sin()])


class TransformerBlock(nn.Module):
    """x (B, patches, width) → the same, by attention of patches to each other, to tokens, and an MLP of each."""

    def __init__(self, config: TransformerConfig, embedding_width: int, tokens: bool) -> None:
        super().__init__()
        width, hidden = config.width, round(config.mlp_ratio * config.width)
        self.heads = config.heads
        self.modulation = Modulation(embedding_width, width, 6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        norms = (
            nn.RMSNorm(width // config.heads, eps=LAYER_NORM_EPS) if config.qk_norm else nn.Identity() for _ in range(2)
        )
        self.q_norm, self.k_norm = norms
        self.to_tokens = AttentionToTokens(width, embedding_width, config.heads) if tokens else None
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU("tanh"), nn.Dropout(config.dropout), nn.Linear(hidden, width)
        )

    def forward(
        self, x: Tensor, embedding: Tensor, rotation: Tensor | None, tokens: Tensor | None, padding_mask: Tensor | None
    ) -> Tensor:
        """x (B, n, width) → the same shape.

        embedding: (B, embedding_width).   rotation: (2, n, pairs).   tokens: (B, m, embedding_width).   padding_mask: (B, m).
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.modulation(embedding)
        q, k, v = (
            self.qkv(modulated(x, shift, scale)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )
        exact = torch.promote_types(q.dtype, torch.float32)  # of roots and angles
        q, k = self.q_norm(q.to(exact)), self.k_norm(k.to(exact))
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
        x = torch.addcmul(x, gate, self.out(attend(q.to(v.dtype), k.to(v.dtype), v)))
        if self.to_tokens is not None:
            x = self.to_tokens(x, tokens, padding_mask)
        return torch.addcmul(x, mlp_gate, self.mlp(modulated(x, mlp_shift, mlp_scale)))


def rotated(x: Tensor, rotation: Tensor) -> Tensor:
    """x (B, heads, n, d) with pair i, the i-th numbers of its two halves, turned by the angle of rotation (2, n, d/2)."""
    cos, sin = rotation
    odd = x[..., 2 * cos.shape[-1] :]  # of an odd width one number stays as it is
    a, b = x[..., : 2 * cos.shape[-1]].chunk(2, -1)
    return torch.cat([torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(a * sin, b, cos), odd], -1)


def _to_patches(x: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *size) → (B, patches, C · numbers in a patch)."""
    for axis, p in enumerate(patch):
        x = x.unflatten(2 + 2 * axis, (-1, p))  # (B, C, grid, p, grid, p, …)
    dims = len(patch)
    order = [0, *(2 + 2 * axis for axis in range(dims)), 1, *(3 + 2 * axis for axis in range(dims))]
    return x.permute(order).flatten(1 + dims).flatten(1, dims)


def _from_patches(x: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """What undoes _to_patches."""
    dims = len(patch)
    x = x.unflatten(2, (-1, *patch)).unflatten(1, tuple(grid))  # (B, *grid, C, *patch)
    order = [0, 1 + dims, *(place for axis in range(dims) for place in (1 + axis, 2 + dims + axis))]
    x = x.permute(order)
    for axis in range(dims):
        x = x.flatten(2 + axis, 3 + axis)
    return x


def _times(numbers: Sequence[int]) -> str:
    return "×".join(str(n) for n in numbers)
