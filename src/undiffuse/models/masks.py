"""Masks by name: which part of an example is hidden.

    left, right, top, bottom    that half; of signals left and right
    center                      the middle half along every axis
    random:0.5                  that share of the places, others for each example
    box:y,x,h,w                 where it starts along each axis, then how long it is: box:start,length of signals
    missing                     whatever is NaN
    a file                      an image, white where hidden, or an .npy array, 1 or true there

A file is white above one half: of 1 where it holds nothing larger, else of 255, else of the largest number of 10, 12, 14 or 16 bits;
the same for images and arrays.
One of the size of the images is resized as these are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from undiffuse.conditioning.base import warn_note
from undiffuse.data.arrays import load_one
from undiffuse.data.pixels import IMAGE_SUFFIXES, ImageOptions, Unreadable, read_image, upright_size
from undiffuse.data.resizing import resized, size_text
from undiffuse.errors import UsageError
from undiffuse.process.philox import standard_normal
from undiffuse.rng import NoiseStream

WHITES, HALF = (1, 255, 1023, 4095, 16383, 65535), 0.5
BLACK, EDGES = 0.1, 0.1  # as far from black, or white, is grey; so much of a mask may be
HALVES = {"left": (-1, False), "right": (-1, True), "top": (-2, False), "bottom": (-2, True)}
MASK_NAMES = "left, right, top, bottom, center, random:0.5, box:y,x,h,w, missing, or the name of an image or .npy file"
MASK_SUFFIXES = {".npy", *IMAGE_SUFFIXES}


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
        mask = _file(name, values.shape[1:], fit, images, note)
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


def _file(
    name: str, shape: Sequence[int], fit: str, images: Sequence[str], note: Callable[[str], object]
) -> np.ndarray:
    path, size = Path(name).expanduser(), tuple(shape[1:])
    if not path.exists() or path.suffix.lower() not in MASK_SUFFIXES:
        raise UsageError(f"there is no mask {name!r}: write {MASK_NAMES}.")
    of_numbers = path.suffix.lower() == ".npy"
    values = _array(path) if of_numbers else _image(path)
    low, high = values.min(), values.max()
    if np.isnan(values).any() or low < 0 or high > WHITES[-1]:
        raise UsageError(
            f"the mask {path} holds values from {low:g} to {high:g}: give 0 for what stays, and 1 or 255 for what is to be filled in."
        )
    white = next(white for white in WHITES if high <= white)
    if white == high == 1 and not of_numbers:
        note(f"{path.name} holds 0 and 1, so 1 is read as white")
    if 255 < white < WHITES[-1]:
        note(f"{path.name} holds values up to {high:g}, so {white} is read as white")
    lightness = (values / white).astype(np.float32)
    if lightness.ndim == len(size) == 2 and lightness.shape != size:
        lightness = _resized(lightness, path, size, fit, images)
        how = {"crop": "cropping to fit", "pad": "padding to fit", "stretch": "stretching to fit"}[fit]
        note(
            f"the mask {path.name} is {size_text(values.shape)}, resized, {how}, to the model's {size[0]}×{size[1]}, as images are"
        )
    if lightness.shape not in (size, (1, *size), tuple(shape)):
        raise UsageError(
            f"the mask {path} has the shape {values.shape}, but the model's examples have the size {size}: make it fit."
        )
    if _is_grey(values / white):
        note(f"{path.name} is not black and white; what is lighter than half is hidden")
    hidden: np.ndarray = lightness > HALF
    return hidden


def _is_grey(lightness: np.ndarray) -> bool:
    """Whether more than the soft edges of a drawing lie between black and white."""
    return bool(((lightness > BLACK) & (lightness < 1 - BLACK)).mean() > EDGES)


def _array(path: Path) -> np.ndarray:
    content = load_one(path)
    if not (content.dtype == bool or np.issubdtype(content.dtype, np.number)) or np.iscomplexobj(content):
        raise UsageError(f"{path} holds no array of numbers: save a mask as one, true or 1 where to fill in.")
    if content.size == 0:
        raise UsageError(f"the mask {path} is empty: give one of the size of the images.")
    return content.astype(np.float64)


def _image(path: Path) -> np.ndarray:
    try:
        lightness: np.ndarray = read_image(path, ImageOptions("grey")).values[0].astype(np.float64)
        return lightness
    except Unreadable as problem:
        raise UsageError(f"{path} cannot be read: {problem}.") from None


def _resized(lightness: np.ndarray, path: Path, size: Sequence[int], fit: str, images: Sequence[str]) -> np.ndarray:
    """A mask (H, W) of the images' own size, brought to the model's as these were. Raises UsageError for one of another shape."""
    height, width = lightness.shape
    for name in images:
        of = upright_size(Path(name)) or tuple(size)
        if abs(width * of[0] - height * of[1]) > max(of):  # more than rounding to whole pixels does to a ratio of sides
            raise UsageError(
                f"the mask {path} is {size_text((height, width))} and {name} is {of[0]}×{of[1]}: give a mask of the size of the image, "
                f"or of the model's {size[0]}×{size[1]}."
            )
    fitted: np.ndarray = resized(lightness[None], (size[0], size[1]), fit)[0]
    return fitted
