"""The U-Net of DDPM and of ADM, one network with both as settings.

    x ── conv ──┬─ blocks ─┬─ down ─┬─ blocks ─ … ─ middle ─ … ─ blocks ── up ── blocks ── norm, SiLU, conv ── F
                └──────────┴────────┴──────── every output is kept and concatenated on the way up ────────┘

Every residual block receives the embedding of the clock plus that of the conditions.  DDPM (Ho et al. 2020) adds it,
attends at 16×16 with one head and resamples by convolutions; ADM (Dhariwal & Nichol 2021, section 3) goes deeper and
less wide, attends at 32, 16 and 8 with 64 channels per head, resamples inside BigGAN residual blocks, and scales and
shifts normalised features by the embedding.  presets.py names the published configurations.

Sizes need not fit: inputs are padded to a multiple of the total downsampling and outputs cropped, so padded positions
receive no gradient of the loss and never leave the network.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from undiffuse.networks.blocks import Attention, Downsample, ResidualBlock, Upsample, conv, group_norm, zeroed
from undiffuse.networks.embeddings import Convention, sinusoidal_embedding

Positive = Annotated[int, Field(gt=0)]


class UNetConfig(BaseModel):
    """What a U-Net is made of; its channels in and out come from the data.

    dims: 1 for signals, 2 for images, 3 for volumes.
    width: base number of channels; multipliers: of width, one per level, each level at half the resolution; rounded.
    depth: residual blocks per level (decoder levels have one more); one number, or one per level.
    attention: downsampling factors at which blocks are followed by attention (2 = half resolution).
    heads, head_channels: number of heads, or channels per head, which wins when given.
    adaptive: scale and shift by the embedding (AdaGN) rather than add it.
    residual_resample: resample inside residual blocks (BigGAN) rather than by convolutions.
    embedding_width: of time and conditions, 4 · width when not given.
    groups: at most so many groups in GroupNorm; fewer where the channels ask for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["unet"] = "unet"
    dims: Literal[1, 2, 3] = 2
    width: Positive = 128
    multipliers: tuple[Annotated[float, Field(gt=0)], ...] = (1, 2, 2, 2)
    depth: Positive | tuple[Positive, ...] = 2
    attention: tuple[Positive, ...] = ()
    middle_attention: bool = True
    heads: Positive = 1
    head_channels: Positive | None = None
    adaptive: bool = True
    residual_resample: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    groups: Positive = 32
    embedding_width: Positive | None = None
    attention_order: Literal["new", "legacy"] = "new"
    clock_embedding: Convention = "adm"

    @model_validator(mode="after")
    def _one_depth_per_level(self) -> UNetConfig:
        if not self.multipliers:
            raise ValueError("a U-Net needs at least one multiplier, one for each level.")
        if isinstance(self.depth, tuple) and len(self.depth) != len(self.multipliers):
            raise ValueError(f"{len(self.depth)} depths were given for {len(self.multipliers)} levels: give one each.")
        return self

    @property
    def depths(self) -> tuple[int, ...]:
        return self.depth if isinstance(self.depth, tuple) else (self.depth,) * len(self.multipliers)


class Stage(nn.Sequential):
    """Blocks in a row, each given the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for block in self:
            x = block(x, embedding)
        return x


class UNet(nn.Module):
    """F(x, clock, conditioning): (B, channels_in, *size), (B,), (B, embedding_width) → (B, channels_out, *size)."""

    def __init__(self, config: UNetConfig, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.config = config
        self.embedding_width = config.embedding_width or 4 * config.width
        self.clock_mlp = nn.Sequential(
            nn.Linear(config.width, self.embedding_width),
            nn.SiLU(),
            nn.Linear(self.embedding_width, self.embedding_width),
        )
        dims, widths = config.dims, [max(1, round(config.width * m)) for m in config.multipliers]
        channels, kept, factor = widths[0], [widths[0]], 1
        self.encoder = nn.ModuleList([Stage(_Entry(conv(dims, channels_in, channels)))])
        for level, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            for _ in range(depth):
                self.encoder.append(Stage(self._residual(channels, width), *self._attention(width, factor)))
                channels = width
                kept.append(channels)
            if level < len(widths) - 1:
                self.encoder.append(Stage(self._resampler(channels, "down")))
                kept.append(channels)
                factor *= 2
        middle_attention = [self._attend(channels)] if config.middle_attention else []
        self.middle = Stage(self._residual(channels, channels), *middle_attention, self._residual(channels, channels))
        self.decoder = nn.ModuleList()
        for level, (width, depth) in reversed(list(enumerate(zip(widths, config.depths, strict=True)))):
            for block in range(depth + 1):
                stage = [self._residual(channels + kept.pop(), width), *self._attention(width, factor)]
                channels = width
                if level and block == depth:
                    stage.append(self._resampler(channels, "up"))
                    factor //= 2
                self.decoder.append(Stage(*stage))
        self.norm = group_norm(channels, config.groups)
        self.last = zeroed(conv(dims, channels, channels_out))
        self.multiple = 2 ** (len(widths) - 1)

    def forward(self, x: Tensor, clock: Tensor, conditioning: Tensor | None = None) -> Tensor:
        size = x.shape[2:]
        x = self._padded(x)
        embedding = self.clock_mlp(sinusoidal_embedding(clock, self.config.width, self.config.clock_embedding))
        if conditioning is not None:
            embedding = embedding + conditioning
        embedding = nn.functional.silu(embedding)
        kept = []
        for stage in self.encoder:
            x = stage(x, embedding)
            kept.append(x)
        x = self.middle(x, embedding)
        for stage in self.decoder:
            x = stage(torch.cat([x, kept.pop()], 1), embedding)
        x = self.last(nn.functional.silu(self.norm(x)))
        for axis, n in enumerate(size, start=2):
            x = x.narrow(axis, 0, n)
        return x

    def _padded(self, x: Tensor) -> Tensor:
        """x padded with zeros at the end of each axis to a size that halves evenly."""
        short = [-n % self.multiple for n in x.shape[2:]]
        if not any(short):
            return x
        return nn.functional.pad(x, [amount for n in reversed(short) for amount in (0, n)])

    def _residual(self, channels_in: int, channels_out: int, resample: Literal["up", "down"] | None = None) -> nn.Module:
        c = self.config
        return ResidualBlock(
            c.dims, channels_in, channels_out, self.embedding_width,
            groups=c.groups, dropout=c.dropout, adaptive=c.adaptive, resample=resample,
        )  # fmt: skip

    def _resampler(self, channels: int, way: Literal["up", "down"]) -> nn.Module:
        if self.config.residual_resample:
            return self._residual(channels, channels, way)
        return (Upsample if way == "up" else Downsample)(self.config.dims, channels)

    def _attention(self, channels: int, factor: int) -> list[nn.Module]:
        return [self._attend(channels)] if factor in self.config.attention else []

    def _attend(self, channels: int) -> nn.Module:
        c = self.config
        heads = max(1, channels // c.head_channels) if c.head_channels else c.heads
        return Attention(channels, heads=heads, groups=c.groups, order=c.attention_order)


class _Entry(nn.Module):
    """The first convolution, with the signature of a block."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.conv = first

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.conv(x)
