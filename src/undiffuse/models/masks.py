"""Masks by name: which part of an example is hidden.

    left, right, top, bottom    that half; of signals left and right
    center                      the middle half along every axis
    random:0.5                  that share of the places, others for each example
    box:y,x,h,w                 where it starts along each axis, then how long it is: box:start,length of signals
    missing                     whatever is NaN
    a file                      an image, white where hidden, or an .npy array, 1 or true there

How files are read is said in data/mask_files.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from undiffuse.conditioning.base import warn_note
from undiffuse.data.mask_files import MASK_SUFFIXES, hidden_in
from undiffuse.errors import UsageError
from undiffuse.process.philox import standard_normal
from undiffuse.rng import NoiseStream

HALVES = {"left": (-1, False), "right": (-1, True), "top": (-2, False), "bottom": (-2, True)}
MASK_NAMES = "left, right, top, bottom, center, random:0.5, box:y,x,h,w, missing, or the name of an image or .npy file"


def read_mask(
    name: str,
    values: np.ndarray,
    seed: int = 0,
    fit: str = "crop",
    images: Sequence[str] = (),
    note: Callable[[str], object] = warn_note,
) -> np.ndarray:
    """Where to fill in, bool (n, 1 or C, *size), for values (n, C, *size).

    name: see the top of this file.   seed: of random masks.   fit: how images were brought to the model's size, crop, pad or stretch.
    images: names of the files that the values were read from.   note: called with each note on how a file was read.
    Raises UsageError for what names no mask, or one that does not fit.
    """
    size = values.shape[2:]
    kind, _, rest = name.partition(":")
    if name == "missing":
        missing: np.ndarray = np.isnan(values)
        return missing
    if kind == "random":
        return _random(rest, len(values), size, seed)
    mask = np.zeros(size, dtype=bool)
    if name in HALVES and len(size) >= -HALVES[name][0]:
        axis, far = HALVES[name]
        half = size[axis] // 2
        np.moveaxis(mask, axis, 0)[slice(half, None) if far else slice(half)] = True
    elif name == "center":
        mask[tuple(slice(length // 4, length - length // 4) for length in size)] = True
    elif kind == "box":
        mask[_box(rest, size)] = True
    else:
        path = Path(name).expanduser()
        if not path.exists() or path.suffix.lower() not in MASK_SUFFIXES:
            raise UsageError(f"there is no mask {name!r}: write {MASK_NAMES}.")
        mask = hidden_in(path, values.shape[1:], fit, images, note)
    return np.broadcast_to(mask, (len(values), *([1] * (len(size) + 1 - mask.ndim)), *mask.shape)).copy()


def _random(text: str, n: int, size: Sequence[int], seed: int) -> np.ndarray:
    share = float(text) if re.fullmatch(r"\d*\.?\d+", text) else math.nan
    places = math.prod(size)
    count = round(share * places) if 0 < share < 1 else 0
    if not 0 < count < places:
        raise UsageError(
            f"random:{text} hides no share of the {places} places: write one between 0 and 1, like random:0.5."
        )
    order = standard_normal((places,), seed, torch.arange(n), stream=NoiseStream.MASK).argsort(1).argsort(1)
    return (order < count).reshape(n, 1, *size).numpy()


def _box(text: str, size: Sequence[int]) -> tuple[slice, ...]:
    numbers = [int(part) for part in text.split(",")] if re.fullmatch(r"\d+(,\d+)*", text) else []
    starts, lengths = numbers[: len(size)], numbers[len(size) :]
    if len(numbers) == 2 * len(size):
        each = list(zip(starts, lengths, size, strict=True))
        if all(length > 0 and start + length <= end for start, length, end in each):
            return tuple(slice(start, start + length) for start, length, _ in each)
    raise UsageError(
        f"box:{text} is no box in {'×'.join(map(str, size))}: write where it starts along each axis, then its lengths, "
        f"{2 * len(size)} whole numbers."
    )
