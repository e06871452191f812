"""The blocks networks are made of, in one, two or three dimensions.

ResidualBlock   GroupNorm, SiLU, conv, twice, with the embedding of time and conditions entering before the second:
                added (DDPM, Ho et al. 2020, appendix B) or as a scale and a shift of the normalised features, ADM's
                adaptive group normalization AdaGN(h, y) = y_s GroupNorm(h) + y_b (Dhariwal & Nichol 2021, eq. 14).
                It can also change the resolution itself, as in BigGAN (Brock et al. 2019).
Attention       self-attention over all positions, several heads, 1×1 projections.
CrossAttention  positions attend to tokens, of a text say            (Rombach et al. 2022, eq. 5).

The last layer of every block starts at zero, so each block starts as the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d, interpolate, scaled_dot_product_attention

from undiffuse.errors import UsageError

AVERAGE_POOL = {1: avg_pool1d, 2: avg_pool2d, 3: avg_pool3d}

Resample = Literal["up", "down"]


class Conv2d(nn.Conv2d):
    """A 3×3 convolution that, on a map of 2×2, is computed as the one matrix product it then is.

    Every output position sees all four inputs through its own 2×2 part of the kernel.  On a CPU that is several times
    faster than a convolution routine, whose padding outweighs so small a map (benchmarks/small_maps.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.shape[2:] != (2, 2) or self.kernel_size != (3, 3) or self.stride != (1, 1):
            return super().forward(x)
        kernel = self.weight.permute(0, 2, 3, 1)
        parts = [kernel[:, 1 - row : 3 - row, 1 - column : 3 - column] for row in (0, 1) for column in (0, 1)]
        matrix = torch.stack(parts).reshape(4 * self.out_channels, -1)  # (position out, channel out) × (position in, channel in)
        bias = None if self.bias is None else self.bias.repeat(4)
        y = nn.functional.linear(x.permute(0, 2, 3, 1).flatten(1), matrix, bias)
        return y.reshape(-1, 2, 2, self.out_channels).permute(0, 3, 1, 2)


CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: Conv2d, 3: nn.Conv3d}


def conv(dims: int, channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> nn.Module:
    """A convolution that keeps the resolution at stride 1."""
    return CONV[dims](channels_in, channels_out, size, stride=stride, padding=size // 2)


def group_norm(channels: int, groups: int, eps: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm with the largest number of groups up to `groups` that divides `channels`."""
    return nn.GroupNorm(max(g for g in range(1, min(groups, channels) + 1) if channels % g == 0), channels, eps)


def zeroed(module: nn.Module) -> nn.Module:
    """The module with every parameter at zero: a branch that starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def padded(x: Tensor, multiples: Sequence[int]) -> Tensor:
    """x (B, C, *size) padded with zeros at the end of each axis to a multiple."""
    short = [-n % multiple for n, multiple in zip(x.shape[2:], multiples, strict=True)]
    if not any(short):
        return x
    return nn.functional.pad(x, [amount for n in reversed(short) for amount in (0, n)])


def cropped(x: Tensor, size: Sequence[int]) -> Tensor:
    """The beginning of each axis: what undoes `padded`."""
    for axis, n in enumerate(size, start=2):
        x = x.narrow(axis, 0, n)
    return x


def split_evenly(width: int, heads: int) -> None:
    """Raises UsageError unless attention over `width` numbers can have so many heads."""
    if width % heads:
        raise UsageError(f"attention over {width} channels cannot be split into {heads} equal heads.")


def attended(q: Tensor, k: Tensor, v: Tensor, absent: Tensor | None = None) -> Tensor:
    """Attention of queries (B, heads, n, d) to keys and values (B, heads, m, d) → (B, n, heads · d).   absent: (B, m)."""
    mask = None if absent is None else ~absent[:, None, None]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


def resampled(x: Tensor, dims: int, way: Resample | None) -> Tensor:
    """x at twice (nearest) or half (average) the resolution."""
    if way == "up":
        return interpolate(x, scale_factor=2, mode="nearest")
    return AVERAGE_POOL[dims](x, 2) if way == "down" else x


class Downsample(nn.Module):
    """Half the resolution by a strided convolution."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(dims, channels, channels, stride=2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a convolution."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.dims = dims
        self.conv = conv(dims, channels, channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(resampled(x, self.dims, "up"))


class ResidualBlock(nn.Module):
    """x (B, channels_in, *size), embedding (B, embedding_width) already activated → (B, channels_out, *size').

    adaptive: scale and shift by the embedding (AdaGN) instead of adding it.
    resample: change the resolution inside the block.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        embedding_width: int,
        *,
        groups: int,
        dropout: float,
        adaptive: bool,
        resample: Resample | None = None,
    ) -> None:
        super().__init__()
        self.dims, self.adaptive, self.resample = dims, adaptive, resample
        self.norm1 = group_norm(channels_in, groups)
        self.conv1 = conv(dims, channels_in, channels_out)
        self.embed = nn.Linear(embedding_width, (2 if adaptive else 1) * channels_out)
        self.norm2 = group_norm(channels_out, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(conv(dims, channels_out, channels_out))
        self.skip = conv(dims, channels_in, channels_out, size=1) if channels_in != channels_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = nn.functional.silu(self.norm1(x), inplace=True)
        h = self.conv1(resampled(h, self.dims, self.resample))
        e = self.embed(embedding)
        e = e.reshape(*e.shape, *[1] * self.dims)
        if self.adaptive:
            scale, shift = e.chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + e)
        h = self.conv2(self.dropout(nn.functional.silu(h, inplace=True)))
        return self.skip(resampled(x, self.dims, self.resample)) + h


class Attention(nn.Module):
    """Self-attention over the positions of x (B, channels, *size), added to x.

    order: how the 3 · channels of the joint projection are laid out: "new" [q, k, v][head], "legacy" [head][q, k, v]
    as in the checkpoints released with DDPM-era code.
    """

    def __init__(self, channels: int, *, heads: int, groups: int, order: Literal["new", "legacy"]) -> None:
        super().__init__()
        split_evenly(channels, heads)
        self.heads, self.order = heads, order
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        zeroed(self.out)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        B, C, *size = x.shape
        qkv = self.qkv(self.norm(x).flatten(2).transpose(1, 2))  # (B, positions, 3C)
        split = (3, self.heads, -1) if self.order == "new" else (self.heads, 3, -1)
        qkv = qkv.unflatten(2, split)
        if self.order == "legacy":
            qkv = qkv.transpose(2, 3)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, heads, positions, C/heads)
        return x + self.out(attended(q, k, v)).transpose(1, 2).reshape(B, C, *size)


class CrossAttention(nn.Module):
    """The positions of x (B, channels, *size) attend to tokens (B, n, token_width); what they find is added to x."""

    def __init__(self, channels: int, token_width: int, *, heads: int, groups: int) -> None:
        super().__init__()
        split_evenly(channels, heads)
        self.heads = heads
        self.norm = group_norm(channels, groups)
        self.token_norm = nn.LayerNorm(token_width)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(token_width, 2 * channels)
        self.out = nn.Linear(channels, channels)
        zeroed(self.out)

    def forward(self, x: Tensor, tokens: Tensor, absent: Tensor) -> Tensor:
        """absent: (B, n), True where a token is not there; at least one is in every row."""
        B, C, *size = x.shape
        q = self.q(self.norm(x).flatten(2).transpose(1, 2)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = (part.transpose(1, 2) for part in self.kv(self.token_norm(tokens)).unflatten(2, (2, self.heads, -1)).unbind(2))
        return x + self.out(attended(q, k, v, absent)).transpose(1, 2).reshape(B, C, *size)
