"""Mean and deviation of every channel, in float64, a part of the examples at a time: no more is in memory as floats than that part."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

PART_NUMBERS = 2**20  # numbers


def parts_of(values: np.ndarray, n: int | None = None) -> list[slice]:
    """Slices of n examples (all when None), of about AT_ONCE numbers each."""
    each = max(1, PART_NUMBERS // max(1, math.prod(values.shape[1:])))
    return [slice(start, start + each) for start in range(0, len(values) if n is None else n, each)]


def channel_statistics(
    values: np.ndarray, rows: np.ndarray | None = None, known: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mean, deviation, lowest, highest) of each channel of values (N, C, *size), or of these rows of them.

    known: (N, C or 1, *size), False at numbers that do not count; a channel without others has NaN.
    Squares are taken in units of the range, so that none overflows or vanishes; NaN where a channel holds one.
    """
    if known is not None:
        return _of_known(values, rows, known)
    with np.errstate(invalid="ignore"):  # infinite numbers give NaN
        axes, column = (0, *range(2, values.ndim)), (-1, *[1] * (values.ndim - 2))
        parts = [part if rows is None else rows[part] for part in parts_of(values, None if rows is None else len(rows))]
        count = values[0, 0].size * (len(values) if rows is None else len(rows))
        low, high = (
            np.min([values[part].min(axes) for part in parts], 0),
            np.max([values[part].max(axes) for part in parts], 0),
        )
        mean = np.sum([values[part].sum(axes, dtype=np.float64) for part in parts], 0) / count
        span = high.astype(np.float64) - low
        unit = np.where(span == 0, 1.0, span)
        squares = [
            (((values[part] - mean.reshape(column)) / unit.reshape(column)) ** 2).sum(axes, dtype=np.float64)
            for part in parts
        ]
        return mean, unit * np.sqrt(np.sum(squares, 0) / count), low, high


def _of_known(
    values: np.ndarray, rows: np.ndarray | None, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `channel_statistics`, over the known numbers alone. Ends are those of the type of the values, exactly."""
    axes, column = (0, *range(2, values.ndim)), (-1, *[1] * (values.ndim - 2))
    parts = [part if rows is None else rows[part] for part in parts_of(values, None if rows is None else len(rows))]

    def sums(of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Of a function of the numbers, (C,)."""
        total = np.zeros(values.shape[1])
        for part in parts:
            there = np.broadcast_to(known[part], values[part].shape)
            total += np.where(there, of(np.where(there, values[part], 0)), 0.0).sum(axes, dtype=np.float64)
        return total

    least, most = _limits(values.dtype)
    low, high = np.full(values.shape[1], most), np.full(values.shape[1], least)
    for part in parts:
        there = known[part]
        low = np.minimum(low, np.where(there, values[part], most).min(axes))
        high = np.maximum(high, np.where(there, values[part], least).max(axes))
    count = sums(np.ones_like)
    with np.errstate(invalid="ignore", divide="ignore"):  # infinite numbers, and no numbers, give NaN
        mean = sums(lambda part: part) / count
        span = np.where(count > 0, high.astype(np.float64) - low, np.nan)
        unit = np.where(span == 0, 1.0, span)
        squares = sums(lambda part: ((part - mean.reshape(column)) / unit.reshape(column)) ** 2)
        return mean, unit * np.sqrt(squares / count), low, high


def _limits(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """The smallest and the largest number of a type, infinite of floats."""
    if dtype.kind == "f":
        return dtype.type(-np.inf), dtype.type(np.inf)
    return np.iinfo(dtype).min, np.iinfo(dtype).max
