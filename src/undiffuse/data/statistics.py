"""Mean and deviation of every channel, in float64, a part of the examples at a time: no more is in memory as floats than that part."""

from __future__ import annotations

import math

import numpy as np

PART_NUMBERS = 2**20  # numbers


def parts_of(values: np.ndarray, n: int | None = None) -> list[slice]:
    """Slices of n examples (all when None), of about AT_ONCE numbers each."""
    each = max(1, PART_NUMBERS // max(1, math.prod(values.shape[1:])))
    return [slice(start, start + each) for start in range(0, len(values) if n is None else n, each)]


def channel_statistics(
    values: np.ndarray, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mean, deviation, lowest, highest) of each channel of values (N, C, *size), or of these rows of them.

    Squares are taken in units of the range, so that none overflows or vanishes; NaN where a channel holds one.
    """
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
