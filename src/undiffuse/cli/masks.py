"""Masks by name: which part of an example is hidden.

    left, right, top, bottom    that half; of signals left and right
    center                      the middle half along every axis
    random:0.5                  that share of the places, others for each example
    box:y,x,h,w                 where it starts along each axis, then how long it is: box:start,length of signals
    missing                     whatever is NaN in the file
    a file                      an image, white where hidden, or an .npy array, true there
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from undiffuse.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

MASK_STREAM = 7
HALVES = {"left": (-1, False), "right": (-1, True), "top": (-2, False), "bottom": (-2, True)}
NAMES = "left, right, top, bottom, center, random:0.5, box:y,x,h,w, missing, or the name of an image or .npy file"


def hidden(text: str, values: np.ndarray, seed: int) -> np.ndarray:
    """Where to fill in, bool (n, 1 or C, *size), for values (n, C, *size). Raises UsageError for what names no mask."""
    import numpy as np

    size = values.shape[2:]
    if text == "missing":
        return np.isnan(values)
    kind, _, rest = text.partition(":")
    if kind == "random":
        return _random(rest, len(values), size, seed)
    mask = np.zeros(size, dtype=bool)
    if text in HALVES and len(size) >= -HALVES[text][0]:
        axis, far = HALVES[text]
        half = size[axis] // 2
        np.moveaxis(mask, axis, 0)[slice(half, None) if far else slice(half)] = True
    elif text == "center":
        mask[tuple(slice(length // 4, length - length // 4) for length in size)] = True
    elif kind == "box":
        mask[_box(rest, size)] = True
    else:
        mask = _file(Path(text), text, values.shape[1:])
    return np.broadcast_to(mask, (len(values), *(mask.shape if mask.ndim > len(size) else (1, *mask.shape)))).copy()


def _random(text: str, n: int, size: Sequence[int], seed: int) -> np.ndarray:
    import torch

    from undiffuse.process.noise import standard_normal

    share = float(text) if re.fullmatch(r"\d*\.?\d+", text) else math.nan
    places = math.prod(size)
    count = round(share * places) if 0 < share < 1 else 0
    if not 0 < count < places:
        raise UsageError(f"random:{text} hides no share of the {places} places: write one between 0 and 1, like random:0.5.")
    order = standard_normal((places,), seed, torch.arange(n), stream=MASK_STREAM).argsort(1).argsort(1)
    return (order < count).reshape(n, 1, *size).numpy()


def _box(text: str, size: Sequence[int]) -> tuple[slice, ...]:
    numbers = [int(part) for part in text.split(",")] if re.fullmatch(r"\d+(,\d+)*", text) else []
    axes = len(size)
    starts, lengths = numbers[:axes], numbers[axes:]
    fits = len(numbers) == 2 * axes and all(length > 0 and start + length <= end for start, length, end in zip(starts, lengths, size, strict=True))
    if not fits:
        whole = "×".join(map(str, size))
        raise UsageError(f"box:{text} is no box in {whole}: write where it starts along each axis, then its lengths, {2 * axes} whole numbers.")
    return tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))


def _file(path: Path, text: str, shape: Sequence[int]) -> np.ndarray:
    import numpy as np

    from undiffuse.data.arrays import load
    from undiffuse.data.images import SUFFIXES, Unreadable, read_image

    if not path.exists() or path.suffix.lower() not in {".npy", *SUFFIXES}:
        raise UsageError(f"there is no mask {text!r}: write {NAMES}.")
    if path.suffix == ".npy":
        content = load(path)
        assert isinstance(content, np.ndarray)
        mask = content != 0
    else:
        try:
            mask = np.asarray(read_image(path, "L")) > 127
        except Unreadable as problem:
            raise UsageError(f"{path} cannot be read: {problem}.") from None
    if mask.shape not in (tuple(shape[1:]), (1, *shape[1:]), tuple(shape)):
        raise UsageError(f"the mask {path} has the shape {mask.shape}, but the model's examples have the size {tuple(shape[1:])}: make it fit.")
    return mask
