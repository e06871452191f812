"""A small autoencoder for latents: no norms, no noise, few layers (Bohan 2023, TAESD, as in diffusers' AutoencoderTiny).

    x ── conv ── blocks ── conv, half ── blocks ── … ── conv ──>  z
    z ── 3 tanh(z/3) ── conv, ReLU ── blocks ── twice, conv ── … ── conv ──>  x

It works on x scaled from [-1, 1] to [0, 1], as it was published.  The names of the modules are those of diffusers.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from undiffuse.networks.blocks import CONV, conv
from undiffuse.networks.unet_config import Positive


class TinyAutoencoderConfig(BaseModel):
    """A small deterministic autoencoder, as TAESD."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["tiny"] = Field("tiny", description="Which kind of autoencoder this is.")
    dims: Literal[1, 2, 3] = Field(2, description="1 for signals, 2 for images, 3 for volumes.")
    channels: Positive = Field(64, description="Channels of every level.")
    encoder_blocks: tuple[Positive, ...] = Field(
        (1, 3, 3, 3), description="Residual blocks of each level of the encoder, from full resolution down."
    )
    decoder_blocks: tuple[Positive, ...] = Field(
        (3, 3, 3, 1), description="Residual blocks of each level of the decoder, from the lowest resolution up."
    )
    latent_channels: Positive = Field(4, description="Channels of z.")

    @property
    def factor(self) -> int:
        """How many positions of x along each axis become one of z."""
        return int(2 ** (len(self.encoder_blocks) - 1))


class TinyBlock(nn.Module):
    """Three convolutions with ReLU, added to x."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv(dims, channels, channels),
            nn.ReLU(),
            conv(dims, channels, channels),
            nn.ReLU(),
            conv(dims, channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, *size) → the same shape."""
        return torch.relu(self.conv(x) + x)


def _plain(dims: int, channels: int, stride: int = 1) -> nn.Module:
    """A convolution without a bias."""
    return CONV[dims](channels, channels, 3, padding=1, stride=stride, bias=False)


class TinyEncoder(nn.Module):
    """The encoder: x (B, channels_in, *size) in [-1, 1] → z (B, latent_channels, *size/factor)."""

    def __init__(self, config: TinyAutoencoderConfig, channels_in: int) -> None:
        super().__init__()
        c, layers = config.channels, list[nn.Module]()
        for level, blocks in enumerate(config.encoder_blocks):
            layers.append(_plain(config.dims, c, stride=2) if level else conv(config.dims, channels_in, c))
            layers += [TinyBlock(config.dims, c) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers, conv(config.dims, c, config.latent_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels_in, *size) in [-1, 1] → z (B, latent_channels, *size/factor)."""
        out: Tensor = self.layers((x + 1) / 2)
        return out


class TinyDecoder(nn.Module):
    """The decoder: z (B, latent_channels, *size) → x (B, channels_out, *factor size) in [-1, 1]."""

    def __init__(self, config: TinyAutoencoderConfig, channels_out: int) -> None:
        super().__init__()
        c = config.channels
        layers: list[nn.Module] = [conv(config.dims, config.latent_channels, c), nn.ReLU()]
        for level, blocks in enumerate(config.decoder_blocks):
            layers += [TinyBlock(config.dims, c) for _ in range(blocks)]
            if level < len(config.decoder_blocks) - 1:
                layers += [nn.Upsample(scale_factor=2), _plain(config.dims, c)]
        self.layers = nn.Sequential(*layers, conv(config.dims, c, channels_out))

    def forward(self, z: Tensor) -> Tensor:
        """z (B, latent_channels, *size) → x (B, channels_out, *factor size)."""
        out: Tensor = 2 * self.layers(3 * torch.tanh(z / 3)) - 1
        return out


class TinyAutoencoder(nn.Module):
    """encode: x (B, channels, *size) → z (B, latent_channels, *size/factor), and None: it has no spread.   decode: z → x.

    Every axis of x is a multiple of the factor.
    """

    def __init__(self, config: TinyAutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = TinyEncoder(config, channels), TinyDecoder(config, channels)

    def encode(self, x: Tensor) -> tuple[Tensor, None]:
        """z (B, latent_channels, *size/factor) of x (B, channels, *size), and None in place of a log-variance."""
        return self.encoder(x), None

    def decode(self, z: Tensor) -> Tensor:
        """x (B, channels, *factor size) of z (B, latent_channels, *size)."""
        out: Tensor = self.decoder(z)
        return out
