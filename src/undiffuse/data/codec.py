"""The codec: stored values ↔ x in the model's range.  It is part of the model, so samples come out like the data went in.

Integers go from their range (data/ranges.py) to [-1, 1], alpha from all of its type; floats go channel by channel to mean 0 and
standard deviation 1/2, about the spread of images on [-1, 1], and are limited to the range of the training set (missing numbers, which
become 0, count for none of this):

    x = (value - offset)/scale,        value = offset + scale · x, rounded for integers.

x is float32.  Values that float32 cannot distinguish, such as 1.7e9 + 0.1 or whole numbers beyond 2^24, are subtracted from in
float64.  Ranges are those of all examples; mean, deviation and limits of floats are measured on the training set alone.

Rows of a table, whose columns are numbers and categories, go column by column (data/column_encoding.py), and x has more channels than these.

A model that diffuses in an autoencoder's space has one more step between its x and these.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from undiffuse.data.column_encoding import ColumnEncoder, ColumnEncoding, fitted_column, rows_are_known
from undiffuse.data.dataset import Dataset
from undiffuse.data.ranges import FULL_RANGES, colours, found_range, full_range, has_alpha
from undiffuse.data.statistics import PART_NUMBERS, channel_statistics, parts_of
from undiffuse.data.table_schema import TableSchema
from undiffuse.errors import UsageError

MOST_STEPS = 2**24  # between the smallest and the largest whole number that float32 distinguishes


def shape_in_files(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one example in an array file: (C,) for a row of a table, whose shape is (C, 1), and for all else its own."""
    return shape[:1] if len(shape) == 2 and shape[1] == 1 else shape


class CodecConfig(BaseModel):
    """How stored values become the model's range, (value - offset) / scale, and back."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    shape: tuple[int, ...] = Field(min_length=2, description="Shape of one example: (C, *size).")
    kind: Literal["integer", "float"] = Field(description="Whether stored values are whole numbers (integer) or float.")
    dtype: str = Field(description="NumPy's name of the stored type, such as uint8.")
    mode: str | None = Field(description="Pixel mode of images, by Pillow's name; None for anything else.")
    offset: tuple[float, ...] = Field(description="What is subtracted from stored values, one number per channel.")
    scale: tuple[float, ...] = Field(description="What they are then divided by, one number per channel.")
    low: tuple[float, ...] = Field(description="Lowest stored value, one per channel.")
    high: tuple[float, ...] = Field(description="Highest stored value, one per channel.")
    columns: tuple[ColumnEncoding, ...] | None = Field(
        None, description="What becomes of each column of a table; None of anything else."
    )

    @cached_property
    def encoder(self) -> ColumnEncoder | None:
        """Of the columns of a table."""
        return None if self.columns is None else ColumnEncoder(self.columns)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape (C, *size) of one x, where it has no space of its own."""
        return self.shape if self.encoder is None else (self.encoder.channels, *self.shape[1:])

    @property
    def bins(self) -> int | None:
        """The number of values of quantised data, of its colours where it has alpha; None for floats."""
        return round(self.high[0] - self.low[0]) + 1 if self.kind == "integer" else None

    def holds(self, values: np.ndarray) -> bool:
        """Whether stored values (N, C, *size) lie in the range of their channel."""
        if self.columns is not None and not rows_are_known(self.columns, values):
            return False
        each = zip(self.low, self.high, strict=True)
        return all(
            low <= np.nanmin(values[:, channel]) and np.nanmax(values[:, channel]) <= high
            for channel, (low, high) in enumerate(each)
        )

    @property
    def storage(self) -> torch.dtype:
        """The float type that distinguishes stored values."""
        exact = (
            max(map(abs, (*self.low, *self.high))) <= MOST_STEPS if self.kind == "integer" else self.dtype != "float64"
        )
        return torch.float32 if exact else torch.float64

    def placed(self, device: torch.device) -> torch.device:
        """Where stored values are encoded for a device: on the CPU where they are float64, which not every device has."""
        return torch.device("cpu") if self.storage == torch.float64 else device

    def carried(self, values: np.ndarray | Tensor) -> Tensor:
        """Stored values as a tensor of that type; on the CPU where it is float64, which not every device has.

        Raises UsageError for what is no array of numbers.
        """
        wide = self.storage == torch.float64
        try:
            if isinstance(values, np.ndarray):
                return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64 if wide else np.float32))
            values = torch.as_tensor(values)
        except (TypeError, ValueError):
            raise UsageError(
                f"examples are an array or a tensor of numbers, and not a {type(values).__name__} of anything else."
            ) from None
        return values.cpu().double() if wide else values.float()


def fitted_codec(data: Dataset, rows: np.ndarray | None = None, *, legacy: bool = False) -> CodecConfig:
    """The codec for a data set.   rows: those that mean, deviation and limits of floats are measured on, all when None.

    legacy: of runs that began when the type alone said the range (data/ranges.py) and every example was measured.
    Raises UsageError for values that are not finite, all equal, too far apart for float32, or outside the range that was set.
    """
    if data.table is not None:
        return _of_table(data, data.table, rows)
    return (
        _of_integers(data, legacy) if np.issubdtype(data.values.dtype, np.integer) else _of_floats(data, rows, legacy)
    )


def _of_integers(data: Dataset, legacy: bool) -> CodecConfig:
    channels, values = data.shape[0], data.bounds()
    shown, alpha = colours(values, data.mode), (FULL_RANGES[values.dtype.name],) if has_alpha(data.mode) else ()
    found = full_range(values) if legacy else found_range(values, data.mode)
    low, high = found[0] if data.low is None else data.low, found[1] if data.high is None else data.high
    if shown.min() < low or shown.max() > high:
        raise UsageError(
            f"the values lie in [{shown.min()}, {shown.max()}], beyond the range {low:g},{high:g}: leave the range out, or widen it."
        )
    if high - low > MOST_STEPS or max(-low, high) > 2**53:
        raise UsageError(
            f"the data holds whole numbers from {low:.0f} to {high:.0f}, more or larger than floats can distinguish (2^24, up to 2^53): "
            "store them as floats, or divide them."
        )
    if values.min() == values.max() or high <= low:
        raise UsageError(f"every value of the data is {values.min()}: there is nothing to learn from it.")
    lows = (low,) * (channels - len(alpha)) + (0.0,) * len(alpha)
    highs = (high,) * (channels - len(alpha)) + tuple(map(float, alpha))
    return CodecConfig(
        shape=data.shape,
        kind="integer",
        dtype=values.dtype.name,
        mode=data.mode,
        offset=tuple((a + b) / 2 for a, b in zip(lows, highs, strict=True)),
        scale=tuple((b - a) / 2 for a, b in zip(lows, highs, strict=True)),
        low=lows,
        high=highs,
    )


def _of_floats(data: Dataset, rows: np.ndarray | None, legacy: bool) -> CodecConfig:
    values = data.values
    if data.low is not None or data.high is not None:
        raise UsageError(
            "a range is set for whole numbers, and these are floats, which go by their mean and deviation: leave `range` out."
        )
    bad = sum(int((~np.isfinite(data.filled(part))).sum()) for part in parts_of(values))
    if bad:
        raise UsageError(f"the data holds {bad} values that are NaN or infinite: remove them.")
    mean, deviation, low, high = channel_statistics(values, None if legacy else rows, data.known)
    if (never := np.isnan(mean)).any():
        raise UsageError(f"channel {int(np.argmax(never))} is known in no example that is trained on: leave it out.")
    if (low == high).any():
        raise UsageError(
            f"channel {int(np.argmax(low == high))} of the data has the same value everywhere: leave it out."
        )
    if legacy:  # to the last digit what was stored
        axes = (0, *range(2, values.ndim))
        mean, deviation = values.mean(axes, dtype=np.float64), values.std(axes, dtype=np.float64)

    def each(numbers: np.ndarray) -> tuple[float, ...]:
        return tuple(float(number) for number in numbers)

    return CodecConfig(
        shape=data.shape,
        kind="float",
        dtype=values.dtype.name,
        mode=None,
        offset=each(mean),
        scale=each(2 * deviation),
        low=each(low),
        high=each(high),
    )


def _of_table(data: Dataset, table: TableSchema, rows: np.ndarray | None) -> CodecConfig:
    values, training = data.values, np.arange(len(data)) if rows is None else rows
    counts = [count for _, count in table.free]
    columns = tuple(fitted_column(name, values[:, k, 0], training, count) for k, (name, count) in enumerate(table.free))
    low, high = (of(values[training][:, :, 0], axis=0) for of in (np.nanmin, np.nanmax))
    low = tuple(0.0 if count else float(end) for end, count in zip(low, counts, strict=True))
    high = tuple(float(count - 1 if count else end) for end, count in zip(high, counts, strict=True))
    n = len(columns)
    return CodecConfig(
        shape=data.shape,
        kind="float",
        dtype="float64",
        mode=None,
        offset=(0.0,) * n,
        scale=(1.0,) * n,
        low=low,
        high=high,
        columns=columns,
    )


class Space(Protocol):
    """Where x lies instead, such as an autoencoder's latents: there and back.   shape: of one x.   at_once: examples encoded at once."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, *size) of one x."""

    @property
    def at_once(self) -> int:
        """How many examples are encoded or decoded at once."""

    def encode(self, x: Tensor) -> Tensor:
        """x (N, *shape) of plain values (N, C, *size) in [-1, 1]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Plain values (N, C, *size) of x (N, *shape)."""

    def limits(self) -> tuple[Tensor, Tensor]:
        """The range of x on the training set, (C, 1, …) each, low and high."""


class Codec:
    """encode: stored values (B, C, *size) → float32 x.   decode: x → stored values.   limits: of x, for clipping.

    space: where x lies, None for that of the values.   shape: of one x.
    """

    def __init__(self, config: CodecConfig, space: Space | None = None) -> None:
        self.config, self.space = config, space
        column = (-1, *[1] * (len(config.shape) - 1))
        self.offset, self.scale, self.low, self.high = (
            torch.tensor(numbers, dtype=config.storage).reshape(column)
            for numbers in (config.offset, config.scale, config.low, config.high)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (C, *size) of one x."""
        return self.config.x_shape if self.space is None else self.space.shape

    @property
    def bins(self) -> int | Tensor | None:
        """The number of values of quantised data, (C, 1, …) where channels differ; None for floats."""
        alike = len({*zip(self.config.low, self.config.high, strict=True)}) == 1
        return self.config.bins if alike or self.config.bins is None else (self.high - self.low).round() + 1

    @property
    def plain(self) -> Codec:
        """The codec of the same values without a space of its own."""
        return self if self.space is None else Codec(self.config)

    def in_plain(self, x: Tensor) -> Tensor:
        """x as the plain codec has it."""
        return x if self.space is None else self.space.decode(x).to(x.device)

    def encode(
        self, values: np.ndarray | Tensor, limited: bool = True, known: np.ndarray | Tensor | None = None
    ) -> Tensor:
        """x, float32, of values (B, C, *size).

        limited: False for noisy values, which may lie outside the range the model was made for.   known: (B, C or 1, *size), False where x
        shall be 0, whatever the value is; all when None.

        Raises UsageError for another shape, or values outside that range.
        """
        raw = self.config.carried(values)
        if raw.shape[1:] != self.config.shape:
            raise UsageError(
                f"the model takes examples of shape {self.config.shape}, but these have {tuple(raw.shape[1:])}."
            )
        device = raw.device
        if known is not None:
            raw = torch.where(torch.as_tensor(known, device=device), raw, self.offset.to(device))
        slack = (
            0.0 if self.config.kind == "integer" else float("inf")
        )  # floats outside the training set's range are data all the same
        if limited and ((raw < self.low.to(device) - slack).any() or (raw > self.high.to(device) + slack).any()):
            raise UsageError(
                f"the values lie in [{raw.min():g}, {raw.max():g}], but the model was made for "
                f"[{min(self.config.low):g}, {max(self.config.high):g}]: give the data as it was in training."
            )
        if self.config.encoder is not None:
            return self.config.encoder.encode(raw.cpu().double().numpy()).to(device)
        x = ((raw - self.offset.to(device)) / self.scale.to(device)).float()
        return x if self.space is None else self.space.encode(x)

    def encode_parts(
        self,
        values: np.ndarray | Tensor,
        rows: np.ndarray | None = None,
        device: torch.device | str = "cpu",
        limited: bool = True,
        known: np.ndarray | None = None,
    ) -> Tensor:
        """x of rows of stored values (of all when None), encoded part by part, so that no more is in memory than what is returned.

        Raises UsageError as `encode` does.
        """
        n, each = len(values) if rows is None else len(rows), self.at_once
        x = torch.empty(n, *self.shape, device=device)
        for start in range(0, n, each):
            part = slice(start, start + each)
            of = part if rows is None else rows[part]
            x[part] = self.encode(values[of], limited, None if known is None else known[of]).to(device)
        return x

    @property
    def at_once(self) -> int:
        """How many examples `encode_parts` takes at once."""
        return max(1, PART_NUMBERS // math.prod(self.config.x_shape)) if self.space is None else self.space.at_once

    def decode(self, x: Tensor) -> Tensor:
        """Float tensor in the data's own range (float64 where float32 would not do); integers are rounded and clipped, floats clipped."""
        if self.config.encoder is not None:
            return self.config.encoder.decode(self.in_plain(x)).clamp(self.low, self.high)
        values = self.in_plain(x).float().cpu() * self.scale + self.offset
        if self.config.kind == "integer":
            values = values.round()
        return values.clamp(self.low, self.high)

    def limits(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The range of x that decodes into the data's range, or that the training set had where x has a space of its own; (C, 1, …) each."""
        if self.space is not None:
            low, high = self.space.limits()
            return low.to(device), high.to(device)
        if self.config.encoder is not None:
            ends = self.config.encoder.limits(self.config.low, self.config.high)
            return ends[0].to(device), ends[1].to(device)
        low, high = (((end - self.offset) / self.scale).float().to(device) for end in (self.low, self.high))
        return low, high
