"""Latents: x of a model that diffuses in an autoencoder's space instead of in the data's (Rombach et al. 2022).

    stored values ── codec ──> x in [-1, 1] ── padded, encoder ──> z ── (z - mean)/deviation, channel by channel ──> latent

The mean of the encoder's distribution is taken, not a draw, so that encoding is a function.  Mean and deviation are measured on
the training set and stored, so latents have standard deviation 1 whatever autoencoder made them.  Sizes need not fit: x
is padded by repeating its last values, and what is decoded is cropped.

What the autoencoder loses no diffusion can bring back, so the error of its reconstructions is kept beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.networks.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig
from undiffuse.networks.tiny_autoencoder import TinyAutoencoder, TinyAutoencoderConfig

FirstStageConfig = Annotated[KLAutoencoderConfig | TinyAutoencoderConfig, Field(discriminator="kind")]
CHUNK = 64  # examples at once
CHUNK_NUMBERS = 2**22


class LatentConfig(BaseModel):
    """An autoencoder and the statistics of its latents."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    autoencoder: FirstStageConfig = Field(description="The autoencoder's architecture.")
    shape: tuple[int, ...] = Field(description="Shape of a data example: (C, *size).")
    mean: tuple[float, ...] = Field(description="Mean of z over the training set, one number per channel.")
    std: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        description="Standard deviation of z over the training set, one number per channel."
    )
    low: tuple[float, ...] = Field(description="Lowest latent in the training set, one per channel.")
    high: tuple[float, ...] = Field(description="Highest latent in the training set, one per channel.")
    psnr: float | None = Field(
        None, description="PSNR of held-out reconstructions, in dB; no sample can be nearer to an example."
    )

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one latent."""
        return self.shape_of(self.autoencoder, self.shape)

    @staticmethod
    def shape_of(autoencoder: KLAutoencoderConfig | TinyAutoencoderConfig, shape: Sequence[int]) -> tuple[int, ...]:
        """Of one latent of x (C, *size)."""
        return (autoencoder.latent_channels, *(-(-n // autoencoder.factor) for n in shape[1:]))


def build_autoencoder(
    config: KLAutoencoderConfig | TinyAutoencoderConfig, channels: int
) -> KLAutoencoder | TinyAutoencoder:
    """With fresh weights, for x of so many channels."""
    return (
        TinyAutoencoder(config, channels)
        if isinstance(config, TinyAutoencoderConfig)
        else KLAutoencoder(config, channels)
    )


class Latents(nn.Module):
    """x (B, C, *size) ↔ latents (B, latent_channels, *size/factor). Never trained: no gradient is recorded unless through `decode`."""

    def __init__(self, config: LatentConfig, autoencoder: KLAutoencoder | TinyAutoencoder) -> None:
        super().__init__()
        self.config, self.autoencoder = config, autoencoder
        self.eval().requires_grad_(False)

    @staticmethod
    def build(config: LatentConfig) -> Latents:
        """With fresh weights."""
        return Latents(config, build_autoencoder(config.autoencoder, config.shape[0]))

    def of_shape(self, shape: tuple[int, ...]) -> Latents:
        """The same autoencoder for x of another size."""
        return Latents(self.config.model_copy(update={"shape": shape}), self.autoencoder)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one latent, (latent_channels, *size/factor)."""
        return self.config.latent_shape

    @property
    def device(self) -> torch.device:
        """The device of the autoencoder."""
        return next(self.parameters()).device

    def limits(self) -> tuple[Tensor, Tensor]:
        """The range of latents of the training set, (C, 1, …) each."""
        return self._column(self.config.low), self._column(self.config.high)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, latent_channels, *size/factor) of x (B, C, *size), on the autoencoder's device, some examples at a time."""
        parts = x.split(self.at_once)
        return torch.cat(
            [(encode(self.autoencoder, part.to(self.device)) - self._of("mean")) / self._of("std") for part in parts]
        )

    def decode(self, latents: Tensor) -> Tensor:
        """x (B, C, *size) of latents (B, latent_channels, *size/factor), on the autoencoder's device."""
        size = self.config.shape[1:]
        parts = latents.split(self.at_once)
        return torch.cat(
            [
                decode(self.autoencoder, part.to(self.device).float() * self._of("std") + self._of("mean"), size)
                for part in parts
            ]
        )

    def _of(self, name: str) -> Tensor:
        return self._column(getattr(self.config, name)).to(self.device)

    def _column(self, numbers: Iterable[float]) -> Tensor:
        return torch.tensor(list(numbers), dtype=torch.float32).reshape(-1, *[1] * (len(self.config.shape) - 1))

    @property
    def at_once(self) -> int:
        """How many examples go through the autoencoder at once."""
        return max(1, min(CHUNK, CHUNK_NUMBERS // math.prod(self.config.shape)))


def encode(autoencoder: KLAutoencoder | TinyAutoencoder, x: Tensor) -> Tensor:
    """The mean of z (B, latent_channels, *size/factor, rounded up) of x (B, C, *size), of any size."""
    return autoencoder.encode(pad_replicate(x, autoencoder.config.factor))[0].float()


def decode(autoencoder: KLAutoencoder | TinyAutoencoder, z: Tensor, size: tuple[int, ...]) -> Tensor:
    """x (B, C, *size) of z (B, latent_channels, *size/factor, rounded up), cropped to `size`."""
    x = autoencoder.decode(z).float()
    for axis, n in enumerate(size, start=2):
        x = x.narrow(axis, 0, n)
    return x


def pad_replicate(x: Tensor, factor: int) -> Tensor:
    """x (B, C, *size) with its last values repeated at the end of each axis, up to a multiple of the factor."""
    short = [-n % factor for n in x.shape[2:]]
    return (
        nn.functional.pad(x, [amount for n in reversed(short) for amount in (0, n)], mode="replicate")
        if any(short)
        else x
    )


def measure_latents(autoencoder: KLAutoencoder | TinyAutoencoder, x: Callable[[slice], Tensor], n: int) -> LatentConfig:
    """The configuration with the statistics of z over n examples.

    x: returns the examples of a slice, (N, C, *size).
    Raises UsageError for an autoencoder whose latents are the same for every example.
    """
    device = next(autoencoder.parameters()).device
    shape, statistics = tuple(x(slice(0, 1)).shape[1:]), None
    with torch.no_grad():
        for start in range(0, n, CHUNK):
            z = encode(autoencoder, x(slice(start, min(start + CHUNK, n))).to(device)).cpu().double()
            part = _Statistics.of(z.transpose(0, 1).flatten(1))
            statistics = part if statistics is None else statistics.merged(part)
    assert statistics is not None  # a data set has an example
    mean, deviation = statistics.mean, (statistics.squares / max(statistics.count - 1, 1)).sqrt()
    same = (statistics.low == statistics.high) | ~deviation.isfinite()
    if same.any():
        raise UsageError(
            f"channel {int(same.int().argmax())} of the latents has the same value for every example: train the autoencoder for longer."
        )
    low, high = ((limit - mean) / deviation for limit in (statistics.low, statistics.high))
    return LatentConfig(
        autoencoder=autoencoder.config,
        shape=shape,
        mean=tuple(mean.tolist()),
        std=tuple(deviation.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )


@dataclass(frozen=True)
class _Statistics:
    """Of count numbers in each channel: mean, sum of squared differences from it, least and greatest, (C,) each."""

    count: int
    mean: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor

    @staticmethod
    def of(z: Tensor) -> _Statistics:
        """Of z (C, count)."""
        mean = z.mean(1)
        return _Statistics(z.shape[1], mean, (z - mean[:, None]).square().sum(1), z.amin(1), z.amax(1))

    def merged(self, other: _Statistics) -> _Statistics:
        """Of both sets together (Chan, Golub & LeVeque 1979, eq. 2.1), so that no more than a part is ever held."""
        count, difference = self.count + other.count, other.mean - self.mean
        return _Statistics(
            count,
            self.mean + difference * other.count / count,
            self.squares + other.squares + difference.square() * self.count * other.count / count,
            torch.minimum(self.low, other.low),
            torch.maximum(self.high, other.high),
        )


# Autoencoders that others trained ---------------------------------------------------------------------------------------
