"""The range of integers: which stored values become -1 and 1, black and white.  Found from the values, and reported.

    up to 31                    0 to the largest: masks of 0 and 1, digits of 0 to 16, small label maps.  No photograph is so dark
                                in all its pixels: 31 of 255 is 1.4 % of white's light
    uint8 otherwise             0 to 255, however dark or few the values: ordinary photos always
    uint16 otherwise            0 to the largest number of 8, 10, 12, 14 or 16 bits, the fewest that hold every value: scans of 12 bits
                                are 0 to 4095, and the next scan, a little brighter, still fits
    other integers              the smallest to the largest
    alpha                       all of its type: it is full nearly everywhere, whatever the colour

All examples count, held-out ones too: a range is the unit of the data, and each of its values must have a place in it.  A setting
of the data (`range`) replaces the rule.  A model keeps the range it was trained with.
"""

from __future__ import annotations

import numpy as np

from undiffuse.data.statistics import channel_statistics, parts_of

SMALL = 31
FULL_RANGES = {"uint8": 255, "uint16": 65535}
DEPTHS = (8, 10, 12, 14)
MOST_LABELS, FAR = (
    64,
    0.5,
)  # different values of a label map, and how near the largest the one below it may be, of which a note is made


def has_alpha(mode: str | None) -> bool:
    """Whether the last channel of a kind of pixel (Pillow's name, data/pixels.py) is alpha; that of an array (None) is not."""
    return mode is not None and mode.startswith(("LA", "RGBA"))


def colours(values: np.ndarray, mode: str | None) -> np.ndarray:
    """Values (N, C, *size) without alpha."""
    return values[:, :-1] if has_alpha(mode) else values


def top_of(highest: float) -> int:
    """The largest number of the fewest bits, 8, 10, 12, 14 or 16, that hold `highest`."""
    return next((2**bits - 1 for bits in DEPTHS if highest < 2**bits), FULL_RANGES["uint16"])


def found_range(values: np.ndarray, mode: str | None = None) -> tuple[float, float]:
    """(low, high) of integers, by the rule at the top of this file; of pixels with alpha that of their colours.

    mode: the kind of pixel, None for arrays.   A drawing of one colour, whose shapes are in its alpha, is read as all of its type.
    """
    found = colours(values, mode)
    low, high = int(found.min()), int(found.max())
    if has_alpha(mode) and low == high:
        return full_range(values)
    if values.dtype.name not in FULL_RANGES:
        return float(low), float(high)
    return 0.0, float(high if high <= SMALL else FULL_RANGES["uint8"] if values.dtype == np.uint8 else top_of(high))


def full_range(values: np.ndarray) -> tuple[float, float]:
    """(low, high) of integers as it was taken before the rule: all of uint8 and uint16."""
    return (0.0, float(FULL_RANGES[values.dtype.name])) if values.dtype.name in FULL_RANGES else found_range(values)


def _lone(values: np.ndarray, known: np.ndarray | None) -> tuple[int, int] | None:
    """(lowest, highest) of few values with the largest far beyond them, such as labels of 0 to 20 and 255 for none; else None."""
    counts = np.zeros(FULL_RANGES[values.dtype.name] + 1, dtype=np.int64)
    for part in parts_of(values):
        found = values[part] if known is None else values[part][np.broadcast_to(known[part], values[part].shape)]
        counts += np.bincount(found.ravel(), minlength=len(counts))
        if np.count_nonzero(counts) > MOST_LABELS:
            return None
    *others, highest = np.flatnonzero(counts).tolist()
    return (others[0], others[-1]) if others and highest > SMALL and 0 < others[-1] < highest * FAR else None


def range_note(values: np.ndarray, low: float, high: float, known: np.ndarray | None = None) -> str | None:
    """What was decided of integers, None where nothing else could be meant.   low, high: the range that they are read in.

    known: (N, 1 or the channels, *size), False at values that are missing.
    """
    if values.dtype.name not in FULL_RANGES:
        return f"{values.dtype.name} values are read as {low:.0f} to {high:.0f}, their smallest and largest; `range` sets another range"
    least, most = (values.min(), values.max()) if known is None else channel_statistics(values, known=known)[2:]
    lowest, highest, full = int(np.min(least)), int(np.max(most)), FULL_RANGES[values.dtype.name]
    if lone := _lone(values, known):
        masks = (
            f"; if some files hold masks of 0 and 1 and others of 0 and {highest}, make them alike"
            if lone == (0, 1)
            else ""
        )
        return (
            f"{values.dtype.name} values are {lone[0]} to {lone[1]} and {highest}, nothing in between, and are read as {low:.0f} to {high:.0f}: "
            f"if they are labels and {highest} means none, store it as {lone[1] + 1} and set `range` to {lone[0]},{lone[1] + 1}{masks}"
        )
    if high < full:
        return f"{values.dtype.name} values reach {highest} and are read as {low:.0f} to {high:.0f}; `range` 0,{full} takes them as 0 to {full}"
    if lowest < highest < full // 2:
        return f"{values.dtype.name} values reach {highest} and are read as {low:.0f} to {high:.0f}; `range` 0,{highest} makes {highest} white"
    return None
