"""Mask files: images, white where something is hidden or missing, or .npy arrays, 1 or true there.

A file is white above one half: of 1 where it holds nothing larger, else of 255, else of the largest number of 10, 12, 14 or 16 bits;
the same for images and arrays.
One of the size of the images is resized as these are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from undiffuse.data.arrays import load_one
from undiffuse.data.large_arrays import allocated
from undiffuse.data.pixels import IMAGE_SUFFIXES, ImageOptions, Unreadable, read_image, upright_size
from undiffuse.data.resizing import resized, size_text
from undiffuse.data.statistics import parts_of
from undiffuse.errors import UsageError

WHITES, HALF = (1, 255, 1023, 4095, 16383, 65535), 0.5
BLACK, EDGES = 0.1, 0.1  # as far from black, or white, is grey; so much of a mask may be
MASK_SUFFIXES = {".npy", *IMAGE_SUFFIXES}


def hidden_in(
    path: Path, shape: Sequence[int], fit: str, images: Sequence[str], note: Callable[[str], object]
) -> np.ndarray:
    """What a mask file hides of examples (C, *size): bool (1 or C, *size).

    fit: how images were brought to that size, crop, pad or stretch.   images: names of the files that the examples were read from.
    note: called with each note on how the file was read.   Raises UsageError for a file that is no mask, or does not fit.
    """
    size = tuple(shape[1:])
    of_numbers = path.suffix.lower() == ".npy"
    values = _array(path) if of_numbers else _image(path)
    high, white = values.max(), _white(path, values)
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
    return (lightness > HALF).reshape(-1, *size)


def known_by_array(path: Path, shape: Sequence[int]) -> np.ndarray:
    """What an array of masks leaves of examples (N, C, *size): bool (N, 1 or C, *size), False where hidden.

    The array is (N, *size), (N, C, *size), or (*size) for all.   Raises UsageError for one of another shape, or that is no mask.
    """
    values, (n, _, *size) = _of_numbers(path), shape
    white = _white(path, values)
    forms: dict[tuple[int, ...], tuple[int, ...]] = {
        tuple(shape): tuple(shape),
        (n, *size): (n, 1, *size),
        tuple(size): (1, 1, *size),
    }
    if values.shape not in forms:
        raise UsageError(
            f"the masks {path} have the shape {values.shape}, and the examples {tuple(shape)}: give one for each, {(n, *size)}."
        )
    values = values.reshape(forms[values.shape])
    known = allocated((n, *values.shape[1:]), bool)
    for part in parts_of(known):
        known[part] = (values if len(values) < n else values[part]) <= white * HALF
    return known


def _white(path: Path, values: np.ndarray) -> int:
    """The number that is white in a mask. Raises UsageError for values that are none of one."""
    low, high = values.min(), values.max()
    if np.isnan(values).any() or low < 0 or high > WHITES[-1]:
        raise UsageError(
            f"the mask {path} holds values from {low:g} to {high:g}: give 0 for what stays, and 1 or 255 for what is hidden."
        )
    return next(white for white in WHITES if high <= white)


def _is_grey(lightness: np.ndarray) -> bool:
    """Whether more than the soft edges of a drawing lie between black and white."""
    return bool(((lightness > BLACK) & (lightness < 1 - BLACK)).mean() > EDGES)


def _array(path: Path) -> np.ndarray:
    return _of_numbers(path).astype(np.float64)


def _of_numbers(path: Path) -> np.ndarray:
    content = load_one(path)
    if not (content.dtype == bool or np.issubdtype(content.dtype, np.number)) or np.iscomplexobj(content):
        raise UsageError(f"{path} holds no array of numbers: save a mask as one, true or 1 where to fill in.")
    if content.size == 0:
        raise UsageError(f"the mask {path} is empty: give one of the size of the images.")
    return content


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
