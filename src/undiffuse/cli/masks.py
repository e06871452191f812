"""Masks by name: which part of an example is hidden.

    left, right, top, bottom    that half; of signals left and right
    center                      the middle half along every axis
    random:0.5                  that share of the places, others for each example
    box:y,x,h,w                 where it starts along each axis, then how long it is: box:start,length of signals
    missing                     whatever is NaN in the file
    a file                      an image, white where hidden, or an .npy array, 1 or true there

A file is white above one half: of 1 where it holds nothing larger, else of 255, else of the largest number of 10, 12, 14 or 16 bits;
the same for images and arrays.
One of the size of the images is resized as these are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from undiffuse.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

WHITES, HALF = (1, 255, 1023, 4095, 16383, 65535), 0.5
BLACK, EDGES = 0.1, 0.1  # as far from black, or white, is grey; so much of a mask may be
ORIENTATION = 274  # EXIF's tag; from 5 on, the image lies on its side
HALVES = {"left": (-1, False), "right": (-1, True), "top": (-2, False), "bottom": (-2, True)}
NAMES = "left, right, top, bottom, center, random:0.5, box:y,x,h,w, missing, or the name of an image or .npy file"


def hidden(text: str, values: np.ndarray, seed: int, fit: str = "crop", images: Sequence[str] = ()) -> np.ndarray:
    """Where to fill in, bool (n, 1 or C, *size), for values (n, C, *size).

    fit: how images were brought to the model's size.   images: what the values were read from.
    Raises UsageError for what names no mask.
    """
    import numpy as np

    size = values.shape[2:]
    if text == "missing":
        missing: np.ndarray = np.isnan(values)
        return missing
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
        mask = _file(Path(text).expanduser(), text, values.shape[1:], fit, images)
    return np.broadcast_to(mask, (len(values), *(mask.shape if mask.ndim > len(size) else (1, *mask.shape)))).copy()


def _random(text: str, n: int, size: Sequence[int], seed: int) -> np.ndarray:
    import torch

    from undiffuse.process.philox import standard_normal
    from undiffuse.rng import NoiseStream

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
    axes = len(size)
    starts, lengths = numbers[:axes], numbers[axes:]
    fits = len(numbers) == 2 * axes and all(
        length > 0 and start + length <= end for start, length, end in zip(starts, lengths, size, strict=True)
    )
    if not fits:
        whole = "×".join(map(str, size))
        raise UsageError(
            f"box:{text} is no box in {whole}: write where it starts along each axis, then its lengths, {2 * axes} whole numbers."
        )
    return tuple(slice(start, start + length) for start, length in zip(starts, lengths, strict=True))


def _file(path: Path, text: str, shape: Sequence[int], fit: str, images: Sequence[str]) -> np.ndarray:
    import numpy as np

    from undiffuse.data.pixels import IMAGE_SUFFIXES

    if not path.exists() or path.suffix.lower() not in {".npy", *IMAGE_SUFFIXES}:
        raise UsageError(f"there is no mask {text!r}: write {NAMES}.")
    values = _array(path) if path.suffix.lower() == ".npy" else _image(path)
    if np.isnan(values).any() or values.min() < 0 or values.max() > WHITES[-1]:
        low, high = values.min(), values.max()
        raise UsageError(
            f"the mask {path} holds values from {low:g} to {high:g}: give 0 for what stays, and 1 or 255 for what is to be filled in."
        )
    white = next(white for white in WHITES if values.max() <= white)
    if white == 1 and path.suffix.lower() != ".npy" and values.max() == 1:
        typer.echo(f"note: {path.name} holds 0 and 1, so 1 is read as white")
    if 255 < white < WHITES[-1]:
        typer.echo(f"note: {path.name} holds values up to {values.max():g}, so {white} is read as white")
    lightness = (values / white).astype(np.float32)
    if lightness.ndim == 2 == len(shape) - 1 and lightness.shape != tuple(shape[1:]):
        lightness = _resized(lightness, path, shape[1:], fit, images)
    if lightness.shape not in (tuple(shape[1:]), (1, *shape[1:]), tuple(shape)):
        raise UsageError(
            f"the mask {path} has the shape {values.shape}, but the model's examples have the size {tuple(shape[1:])}: make it fit."
        )
    if _is_grey(values / white):
        typer.echo(f"note: {path.name} is not black and white; what is lighter than half is hidden")
    typer.echo(f"the mask hides {(lightness > HALF).mean():.0%} of the picture")
    return lightness > HALF


def _is_grey(lightness: np.ndarray) -> bool:
    """Whether more than the soft edges of a drawing lie between black and white."""
    return bool(((lightness > BLACK) & (lightness < 1 - BLACK)).mean() > EDGES)


def _array(path: Path) -> np.ndarray:
    import numpy as np

    from undiffuse.data.arrays import load_one

    content = load_one(path)
    if not (content.dtype == bool or np.issubdtype(content.dtype, np.number)) or np.iscomplexobj(content):
        raise UsageError(f"{path} holds no array of numbers: save a mask as one, true or 1 where to fill in.")
    if content.size == 0:
        raise UsageError(f"the mask {path} is empty: give one of the size of the images.")
    return content.astype(np.float64)


def _image(path: Path) -> np.ndarray:
    import numpy as np

    from undiffuse.data.pixels import Unreadable, read_image

    try:
        lightness: np.ndarray = read_image(path, "grey").values[0].astype(np.float64)
        return lightness
    except Unreadable as problem:
        raise UsageError(f"{path} cannot be read: {problem}.") from None


def _resized(lightness: np.ndarray, path: Path, size: Sequence[int], fit: str, images: Sequence[str]) -> np.ndarray:
    """A mask (H, W) of the images' own size, brought to the model's as these were. Raises UsageError for one of another shape."""
    from undiffuse.data.pixels import resized, size_text

    height, width = lightness.shape
    for name in images:
        of = _size_of(Path(name)) or tuple(size)
        if abs(width * of[0] - height * of[1]) > max(of):  # more than rounding to whole pixels does to a ratio of sides
            raise UsageError(
                f"the mask {path} is {size_text((height, width))} and {name} is {of[0]}×{of[1]}: give a mask of the size of the image, "
                f"or of the model's {size[0]}×{size[1]}."
            )
    how = {"crop": "cropping to fit", "pad": "padding to fit", "stretch": "stretching to fit"}[fit]
    typer.echo(
        f"note: the mask {path.name} is {size_text((height, width))}, resized, {how}, to the model's {size[0]}×{size[1]}, as images are"
    )
    fitted: np.ndarray = resized(lightness[None], (size[0], size[1]), fit)[0]
    return fitted


def _size_of(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image as it is seen, upright; None for what is no image."""
    from PIL import Image

    from undiffuse.data.pixels import IMAGE_SUFFIXES

    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    with Image.open(path) as file:
        width, height = file.size
        on_its_side = file.getexif().get(ORIENTATION, 1) >= 5
    return (width, height) if on_its_side else (height, width)
