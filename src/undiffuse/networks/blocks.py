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

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import interpolate, scaled_dot_product_attention

from undiffuse.errors import UsageError

AVERAGE_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
CONVOLVED = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}

Resample = Literal["up", "down"]


class Conv2d(nn.Conv2d):
    """A 3×3 convolution that, on a map of 2×2, is computed as the one matrix product it then is.

    Every output position depends on all four inputs, through its own 2×2 part of the kernel.  On a CPU that is several times
    faster than a convolution routine, whose padding outweighs so small a map (benchmarks/small_maps.py).
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels_in, H, W) → (B, channels_out, H', W')."""
        if x.device.type != "cpu" or x.shape[2:] != (2, 2) or self.kernel_size != (3, 3) or self.stride != (1, 1):
            return super().forward(x)
        kernel = self.weight.permute(0, 2, 3, 1)
        parts = [kernel[:, 1 - row : 3 - row, 1 - column : 3 - column] for row in (0, 1) for column in (0, 1)]
        matrix = torch.stack(parts).reshape(
            4 * self.out_channels, -1
        )  # (position out, channel out) × (position in, channel in)
        bias = None if self.bias is None else self.bias.repeat(4)
        y = nn.functional.linear(x.permute(0, 2, 3, 1).flatten(1), matrix, bias)
        return y.reshape(-1, 2, 2, self.out_channels).permute(0, 3, 1, 2)


CONV: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: Conv2d, 3: nn.Conv3d}


def conv(dims: int, channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> nn.Module:
    """A convolution that keeps the resolution at stride 1."""
    return CONV[dims](channels_in, channels_out, size, stride=stride, padding=size // 2)


def group_norm(channels: int, groups: int, eps: float = 1e-5, least: int = 1) -> nn.GroupNorm:
    """GroupNorm with the largest number of groups up to `groups`, of `least` channels each or more, that divides `channels`."""
    most = max(1, min(groups, channels // least))
    return nn.GroupNorm(max(g for g in range(1, most + 1) if channels % g == 0), channels, eps)


Norm = Callable[[int], nn.GroupNorm]
"""channels → a fresh GroupNorm of them."""


def zeroed(module: nn.Module) -> nn.Module:
    """The module with every parameter at zero: a branch that starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def modulate_channels(x: Tensor, by: float) -> Tensor:
    """by · x, of any shape; x itself where `by` is 1."""
    return x if by == 1 else by * x


def pad_zeros(x: Tensor, multiples: Sequence[int]) -> Tensor:
    """x (B, C, *size) padded with zeros at the end of each axis to a multiple."""
    short = [-n % multiple for n, multiple in zip(x.shape[2:], multiples, strict=True)]
    if not any(short):
        return x
    return nn.functional.pad(x, [amount for n in reversed(short) for amount in (0, n)])


def cropped(x: Tensor, size: Sequence[int]) -> Tensor:
    """The beginning of each axis of x (B, C, *larger) → (B, C, *size). Undoes `pad_zeros`."""
    for axis, n in enumerate(size, start=2):
        x = x.narrow(axis, 0, n)
    return x


def split_evenly(width: int, heads: int) -> None:
    """Raises UsageError unless attention over `width` numbers can have so many heads."""
    if width % heads:
        raise UsageError(f"attention over {width} channels cannot be split into {heads} equal heads.")


def attend(q: Tensor, k: Tensor, v: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Attention of queries (B, heads, n, d) to keys and values (B, heads, m, d) → (B, n, heads · d).   padding_mask: (B, m)."""
    mask = None if padding_mask is None else ~padding_mask[:, None, None]
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


class Resampling(nn.Module):
    """x (B, C, *size) at twice or half the resolution, by a filter along each axis; as it is where `way` is None.

    taps: of the filter, which is brought to sum 1; two equal ones are the average on the way down and nearest neighbour on the way
    up. More reach beyond the edge, where x counts as zero (Karras et al. 2020, StyleGAN2, appendix B).   padding: zeros at each end of an
    axis, as many as keep the size even when not given.
    """

    def __init__(
        self, dims: int, way: Resample | None, taps: Sequence[int] = (1, 1), padding: int | None = None
    ) -> None:
        super().__init__()
        self.dims, self.way, self.plain = dims, way, tuple(taps) == (1, 1)
        self.padding = len(taps) // 2 - 1 if padding is None else padding
        kernel = torch.tensor(taps, dtype=torch.float32) / sum(taps)
        for _ in range(dims - 1):
            kernel = kernel[..., None] * (torch.tensor(taps, dtype=torch.float32) / sum(taps))
        self.kernel: Tensor
        self.register_buffer("kernel", None if self.plain or way is None else kernel[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, *size) → (B, C, *size') at twice, half or the same resolution."""
        if self.way is None:
            return x
        if self.plain:
            return interpolate(x, scale_factor=2, mode="nearest") if self.way == "up" else AVERAGE_POOL[self.dims](x, 2)
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], -1, *self.kernel.shape[2:])
        if self.way == "down":
            return CONVOLVED[self.dims](x, kernel, stride=2, padding=self.padding, groups=x.shape[1])
        return TRANSPOSED[self.dims](x, 2**self.dims * kernel, stride=2, padding=self.padding, groups=x.shape[1])


class DownsampleLayer(nn.Module):
    """Half the resolution by a strided convolution.   padding: 1 at both ends of each axis, or 0 for one zero at its end alone."""

    def __init__(self, dims: int, channels: int, padding: int = 1) -> None:
        super().__init__()
        self.conv = conv(dims, channels, channels, stride=2)
        self.at_end = padding == 0

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, channels, *size) → (B, channels, *size/2). The embedding is not used: all layers of a stage have one signature."""
        if not self.at_end:
            out: Tensor = self.conv(x)
            return out
        weight, bias = self.conv.weight, self.conv.bias
        return CONVOLVED[x.ndim - 2](functional.pad(x, (0, 1) * (x.ndim - 2)), weight, bias, stride=2)  # type: ignore[arg-type]


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a convolution."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(dims, channels, channels)
        self.resampling = Resampling(dims, "up")

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, channels, *size) → (B, channels, *2 size). The embedding is not used: all layers of a stage have one signature."""
        out: Tensor = self.conv(self.resampling(x))
        return out


class ResidualBlock(nn.Module):
    """x (B, channels_in, *size), embedding (B, embedding_width) already activated → (B, channels_out, *size').

    adaptive: scale and shift by the embedding (AdaGN) instead of adding it.
    resample: change the resolution inside the block, by a filter of these `taps`.   project: a 1×1 convolution on the skip path even where the
    numbers of channels agree.   skip_scale: what the sum of both paths is multiplied by.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        embedding_width: int,
        *,
        norm: Norm,
        dropout: float,
        adaptive: bool,
        resample: Resample | None = None,
        taps: Sequence[int] = (1, 1),
        project: bool = False,
        skip_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.dims, self.adaptive, self.skip_scale = dims, adaptive, skip_scale
        self.resampling = Resampling(dims, resample, taps)
        self.norm1 = norm(channels_in)
        self.conv1 = conv(dims, channels_in, channels_out)
        self.embed = nn.Linear(embedding_width, (2 if adaptive else 1) * channels_out)
        self.norm2 = norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(conv(dims, channels_out, channels_out))
        self.skip = (
            conv(dims, channels_in, channels_out, size=1) if project or channels_in != channels_out else nn.Identity()
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, channels_in, *size), embedding (B, embedding_width) → (B, channels_out, *size')."""
        h = nn.functional.silu(self.norm1(x), inplace=True)
        h = self.conv1(self.resampling(h))
        e = self.embed(embedding)
        e = e.reshape(*e.shape, *[1] * self.dims)
        if self.adaptive:
            scale, shift = e.chunk(2, 1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        else:
            h = self.norm2(h + e)
        h = self.conv2(self.dropout(nn.functional.silu(h, inplace=True)))
        return modulate_channels(self.skip(self.resampling(x)) + h, self.skip_scale)


class Attention(nn.Module):
    """Self-attention over the positions of x (B, channels, *size), added to x.

    order: how the 3 · channels of the joint projection are laid out: "new" [q, k, v][head], "legacy" [head][q, k, v]
    as in the checkpoints released with DDPM-era code.   skip_scale: what the sum is multiplied by.
    """

    def __init__(
        self, channels: int, *, heads: int, norm: Norm, order: Literal["new", "legacy"], skip_scale: float = 1.0
    ) -> None:
        super().__init__()
        split_evenly(channels, heads)
        self.heads, self.order, self.skip_scale = heads, order, skip_scale
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        zeroed(self.out)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x (B, channels, *size) → the same shape. The embedding is not used: all layers of a stage have one signature."""
        B, C, *size = x.shape
        qkv = self.qkv(self.norm(x).flatten(2).transpose(1, 2))  # (B, positions, 3C)
        split = (3, self.heads, -1) if self.order == "new" else (self.heads, 3, -1)
        qkv = qkv.unflatten(2, split)
        if self.order == "legacy":
            qkv = qkv.transpose(2, 3)
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))  # (B, heads, positions, C/heads)
        return modulate_channels(x + self.out(attend(q, k, v)).transpose(1, 2).reshape(B, C, *size), self.skip_scale)


class CrossAttention(nn.Module):
    """The positions of x (B, channels, *size) attend to tokens (B, n, token_width); what they find is added to x.

    The sum is never scaled: a trained network that gets tokens later must stay the same function at first.
    """

    def __init__(self, channels: int, token_width: int, *, heads: int, norm: Norm) -> None:
        super().__init__()
        split_evenly(channels, heads)
        self.heads = heads
        self.norm = norm(channels)
        self.token_norm = nn.LayerNorm(token_width)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(token_width, 2 * channels)
        self.out = nn.Linear(channels, channels)
        zeroed(self.out)

    def forward(self, x: Tensor, tokens: Tensor, padding_mask: Tensor) -> Tensor:
        """padding_mask: (B, n), True where a token is not there; at least one is in every row."""
        B, C, *size = x.shape
        q = self.q(self.norm(x).flatten(2).transpose(1, 2)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = (
            part.transpose(1, 2)
            for part in self.kv(self.token_norm(tokens)).unflatten(2, (2, self.heads, -1)).unbind(2)
        )
        out: Tensor = x + self.out(attend(q, k, v, padding_mask)).transpose(1, 2).reshape(B, C, *size)
        return out
