"""The codec: stored values ↔ x in the model's range.  It is part of the model, so samples come out like the data went in.

Integers of a known range go to [-1, 1]; floats go channel by channel to mean 0 and standard deviation 1/2, about the
spread of images on [-1, 1], and are limited to the range seen in training:

    x = (value - offset)/scale,        value = offset + scale · x, rounded for integers.

A model that diffuses in an autoencoder's space has one more step between its x and these.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError

INTEGER_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0)}


class CodecConfig(BaseModel):
    """shape: (C, *size) of one example.   dtype: of the stored values.   mode: of images, Pillow's name.

    offset, scale: one per channel.   low, high: the range of stored values, one per channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    shape: tuple[int, ...] = Field(min_length=2)
    kind: Literal["integer", "float"]
    dtype: str
    mode: str | None
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def bins(self) -> int | None:
        """The number of values of quantised data; None for floats."""
        return round(self.high[0] - self.low[0]) + 1 if self.kind == "integer" else None


def fitted_codec(data: Dataset) -> CodecConfig:
    """The codec for a training set. Raises UsageError for values that are not finite, or all equal."""
    channels, values = data.shape[0], data.values
    if np.issubdtype(values.dtype, np.integer):
        full = INTEGER_RANGES.get(values.dtype.name, (float(values.min()), float(values.max())))
        low = full[0] if data.low is None else data.low
        high = full[1] if data.high is None else data.high
        if high <= low:
            raise UsageError(f"every value of the data is {low:g}: there is nothing to learn from it.")
        return CodecConfig(
            shape=data.shape, kind="integer", dtype=values.dtype.name, mode=data.mode,
            offset=((low + high) / 2,) * channels, scale=((high - low) / 2,) * channels,
            low=(low,) * channels, high=(high,) * channels,
        )  # fmt: skip
    if not np.isfinite(values).all():
        raise UsageError(f"the data holds {int((~np.isfinite(values)).sum())} values that are NaN or infinite: remove them.")
    axes = (0, *range(2, values.ndim))
    spread = values.std(axes, dtype=np.float64)
    if (spread == 0).any():
        raise UsageError(f"channel {int(np.argmin(spread))} of the data has the same value everywhere: leave it out.")

    def each(numbers: np.ndarray) -> tuple[float, ...]:
        return tuple(float(number) for number in numbers)

    return CodecConfig(
        shape=data.shape, kind="float", dtype=values.dtype.name, mode=None,
        offset=each(values.mean(axes, dtype=np.float64)), scale=each(2 * spread),
        low=each(values.min(axes)), high=each(values.max(axes)),
    )  # fmt: skip


class Space(Protocol):
    """Where x lies instead, such as an autoencoder's latents: there and back.   shape: of one x."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def limits(self) -> tuple[Tensor, Tensor]: ...


class Codec:
    """encode: stored values (B, C, *size) → float32 x.   decode: x → stored values.   limits: of x, for clipping.

    space: where x lies, None for that of the values.   shape: of one x.
    """

    def __init__(self, config: CodecConfig, space: Space | None = None) -> None:
        self.config, self.space = config, space
        column = (-1, *[1] * (len(config.shape) - 1))
        self.offset = torch.tensor(config.offset, dtype=torch.float32).reshape(column)
        self.scale = torch.tensor(config.scale, dtype=torch.float32).reshape(column)
        self.low = torch.tensor(config.low, dtype=torch.float32).reshape(column)
        self.high = torch.tensor(config.high, dtype=torch.float32).reshape(column)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.config.shape if self.space is None else self.space.shape

    @property
    def plain(self) -> Codec:
        """The codec of the same values without a space of its own."""
        return self if self.space is None else Codec(self.config)

    def in_plain(self, x: Tensor) -> Tensor:
        """x as the plain codec has it."""
        return x if self.space is None else self.space.decode(x).to(x.device)

    def encode(self, values: np.ndarray | Tensor, limited: bool = True) -> Tensor:
        """limited: False for noisy values, which may lie outside the range the model was made for.

        Raises UsageError for another shape, or values outside that range.
        """
        raw = torch.as_tensor(values.astype(np.float32) if isinstance(values, np.ndarray) else values).float()
        if raw.shape[1:] != self.config.shape:
            raise UsageError(f"the model takes examples of shape {self.config.shape}, but these have {tuple(raw.shape[1:])}.")
        device = raw.device
        slack = 0.0 if self.config.kind == "integer" else float("inf")  # floats outside the range seen are data all the same
        if limited and ((raw < self.low.to(device) - slack).any() or (raw > self.high.to(device) + slack).any()):
            raise UsageError(
                f"the values lie in [{raw.min():g}, {raw.max():g}], but the model was made for "
                f"[{min(self.config.low):g}, {max(self.config.high):g}]: give the data as it was in training."
            )
        x = (raw - self.offset.to(device)) / self.scale.to(device)
        return x if self.space is None else self.space.encode(x)

    def decode(self, x: Tensor) -> Tensor:
        """Float tensor in the data's own range; integers are rounded and clipped, floats clipped."""
        values = self.in_plain(x).float().cpu() * self.scale + self.offset
        if self.config.kind == "integer":
            values = values.round()
        return values.clamp(self.low, self.high)

    def limits(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The range of x that decodes into the data's range, or that the training set had where x has a space of its own; (C, 1, …) each."""
        if self.space is not None:
            low, high = self.space.limits()
            return low.to(device), high.to(device)
        return ((self.low - self.offset) / self.scale).to(device), ((self.high - self.offset) / self.scale).to(device)
