"""Stages: what U-Nets, either half of one, and autoencoders are put together from, level by level."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from undiffuse.networks.blocks import (
    Attention,
    CrossAttention,
    DownsampleLayer,
    Norm,
    ResidualBlock,
    Upsample,
    conv,
    group_norm,
    pad_zeros,
)
from undiffuse.networks.unet_config import StagesConfig


class Stage(nn.Sequential):
    """Blocks in a row. Each receives the embedding, or the tokens where it attends to them."""

    def forward(  # type: ignore[override]
        self, x: Tensor, embedding: Tensor, tokens: Tensor | None = None, padding_mask: Tensor | None = None
    ) -> Tensor:
        """x (B, channels_in, *size) → (B, channels_out, *size').

        embedding: (B, embedding_width).   tokens: (B, n, embedding_width).   padding_mask: (B, n), True where a token is absent.
        """
        return through(self, x, embedding, tokens, padding_mask)


def through(
    blocks: Iterable[nn.Module], x: Tensor, embedding: Tensor, tokens: Tensor | None, padding_mask: Tensor | None
) -> Tensor:
    """x (B, channels, *size) after the blocks, one after the other; see Stage.forward for the shapes."""
    for block in blocks:
        x = block(x, tokens, padding_mask) if isinstance(block, CrossAttention) else block(x, embedding)
    return x


class Stages:
    """Makes stages.   embedding_width: of time and conditions.   tokens: whether positions attend to tokens as well."""

    def __init__(self, config: StagesConfig, tokens: bool = False) -> None:
        self.config, self.tokens, self.norm = config, tokens, norm_layer(config)
        self.widths = [max(1, round(config.width * m)) for m in config.multipliers]
        self.embedding_width = config.embedding_width or 4 * config.width
        self.multiple = 2 ** (len(self.widths) - 1)

    def encoder(self, channels_in: int) -> tuple[nn.ModuleList, list[int]]:
        """The stages on the way down, and the number of channels of each stage's output."""
        channels, factor = self.config.first_width or self.widths[0], 1
        kept, stages = [channels], nn.ModuleList([Stage(_Entry(conv(self.config.dims, channels_in, channels)))])
        for level, (width, depth) in enumerate(zip(self.widths, self.config.depths, strict=True)):
            for _ in range(depth):
                stages.append(Stage(self._residual(channels, width), *self._attention(width, factor)))
                channels = width
                kept.append(channels)
            if level < len(self.widths) - 1:
                stages.append(Stage(self._resampler(channels, "down")))
                kept.append(channels)
                factor *= 2
        return stages, kept

    def middle(self) -> Stage:
        """The stage at the lowest resolution, between the way down and the way up."""
        channels = self.widths[-1]
        attention = [self._attend(channels)] if self.config.middle_attention else []
        if self.tokens:
            attention.append(self._attend_to_tokens(channels))
        return Stage(self._residual(channels, channels), *attention, self._residual(channels, channels))

    def decoder(self, kept: list[int] | None = None) -> nn.ModuleList:
        """The stages on the way up.

        kept: channels of what each stage receives from the way down, the last one's first; None for nothing.
        """
        channels, factor, stages, left = self.widths[-1], self.multiple, nn.ModuleList(), list(kept or [])
        for level, (width, depth) in reversed(list(enumerate(zip(self.widths, self.config.depths, strict=True)))):
            for block in range(depth + 1):
                attends = self.config.decoder_attention == "every" or block == depth
                stage = [
                    self._residual(channels + (left.pop() if kept else 0), width),
                    *self._attention(width, factor, attends),
                ]
                channels = width
                if level and block == depth:
                    stage.append(self._resampler(channels, "up"))
                    factor //= 2
                stages.append(Stage(*stage))
        return stages

    def padded(self, x: Tensor) -> Tensor:
        """x (B, C, *size) padded with zeros to a size that halves evenly."""
        return pad_zeros(x, (self.multiple,) * self.config.dims)

    def _residual(
        self, channels_in: int, channels_out: int, resample: Literal["up", "down"] | None = None
    ) -> nn.Module:
        c = self.config
        return ResidualBlock(
            c.dims,
            channels_in,
            channels_out,
            self.embedding_width,
            norm=self.norm,
            dropout=c.dropout,
            adaptive=c.adaptive,
            resample=resample,
            taps=c.resample_filter,
            project=c.resample_proj and resample is not None,
            skip_scale=c.skip_scale,
        )

    def _resampler(self, channels: int, way: Literal["up", "down"]) -> nn.Module:
        if self.config.residual_resample:
            return self._residual(channels, channels, way)
        return (
            Upsample(self.config.dims, channels)
            if way == "up"
            else DownsampleLayer(self.config.dims, channels, self.config.downsample_padding)
        )

    def _attention(self, channels: int, factor: int, attends: bool = True) -> list[nn.Module]:
        """What follows the residual block of a level: attention to positions where it `attends`, to tokens, to both or neither."""
        lowest = 2 ** (len(self.config.multipliers) - 1)
        factors = (lowest, max(1, lowest // 2)) if self.config.cross_attention is None else self.config.cross_attention
        found = [self._attend(channels)] if attends and factor in self.config.attention else []
        return [*found, self._attend_to_tokens(channels)] if self.tokens and factor in factors else found

    def _heads(self, channels: int) -> int:
        return max(1, channels // self.config.head_channels) if self.config.head_channels else self.config.heads

    def _attend(self, channels: int) -> nn.Module:
        c = self.config
        return Attention(
            channels, heads=self._heads(channels), norm=self.norm, order=c.attention_order, skip_scale=c.skip_scale
        )

    def _attend_to_tokens(self, channels: int) -> nn.Module:
        return CrossAttention(channels, self.embedding_width, heads=self._heads(channels), norm=self.norm)


def norm_layer(config: StagesConfig) -> Norm:
    """GroupNorm as it is set."""
    return partial(group_norm, groups=config.groups, eps=config.norm_eps, least=config.min_channels_per_group)


class _Entry(nn.Module):
    """The first convolution, with the signature of a block."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.conv = first

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out
