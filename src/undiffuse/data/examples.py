"""Examples for a trained model, from files: an image or an array, brought to the shape and the values it was trained on.

Every conversion is reported in a note; what makes no sense is refused.  An image is

    converted   to the model's kind of pixel, white of 8 bits or 16 to the highest value of the other depth
    resized     to the model's size, cropping, padding or stretching as the training images were
    scaled      from black and white to the lowest and highest value, for a model trained on arrays
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from undiffuse.data.arrays import load_one
from undiffuse.data.codec import CodecConfig, shape_in_files
from undiffuse.data.pixels import DESCRIBED, IMAGE_SUFFIXES, MUCH_CUT, WIDE, Unreadable, converted, read_image
from undiffuse.data.resizing import cut, resized, size_text
from undiffuse.errors import UsageError

PIXEL_MODES = dict(enumerate(list(DESCRIBED)[:4], start=1))


def read_examples(
    path: Path, codec: CodecConfig, fit: str = "crop", missing: bool = False
) -> tuple[np.ndarray, list[str]]:
    """The examples in a file, (n, C, *size) of type `codec.storage` in the range of the model's data, and notes on what was done.

    fit: how to resize: crop, pad or stretch.   missing: whether values of an array may be NaN.
    Raises UsageError for a file that is missing, of another kind, unreadable or of a shape that does not fit.
    """
    if not path.exists():
        raise UsageError(f"there is no file {path}: give an image, or an .npy array of shape {codec.shape}.")
    if path.suffix.lower() == ".npy":
        return _array(path, codec, missing), []
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UsageError(f"{path} is neither an image nor an .npy array: give one of these.")
    if len(codec.shape) != 3 or codec.shape[0] not in PIXEL_MODES:
        raise UsageError(
            f"this model is for arrays of shape {codec.shape}, which an image cannot hold: give an .npy file instead of {path}."
        )
    return _image(path, codec, fit)


def _array(path: Path, codec: CodecConfig, missing: bool) -> np.ndarray:
    """An array of one example or several, channels first or last, or left out where there is but one; rows of a table."""
    content, shape = load_one(path), codec.shape
    if np.iscomplexobj(content):
        content = _parts(path, content, shape)
    if not (np.issubdtype(content.dtype, np.number) or content.dtype == bool):
        raise UsageError(f"the values of {path} are of type {content.dtype}: they should be integers or floats.")
    last, bare = (*shape[1:], shape[0]), shape[1:]
    for form in dict.fromkeys((shape, last, shape_in_files(shape), *((bare,) if shape[0] == 1 else ()))):
        if content.shape[-len(form) :] == form and content.ndim in (len(form), len(form) + 1):
            values = content.reshape(-1, *form)
            values = np.moveaxis(values, -1, 1) if form == last and form != shape else values.reshape(-1, *shape)
            if len(values) == 0 or np.isinf(values).any() or (np.isnan(values).any() and not missing):
                raise UsageError(
                    f"{path} holds {'no examples' if len(values) == 0 else 'values that are NaN or infinite'}: fix the file."
                )
            return codec.carried(np.ascontiguousarray(values)).numpy()
    raise UsageError(
        f"{path} has the shape {content.shape}, but the model takes {shape}, or several as (n, {', '.join(map(str, shape))})."
    )


def _parts(path: Path, content: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Complex numbers as two channels each, for a model whose examples (C, *size) have these. Raises UsageError where they do not fit."""
    size, complex_shape = shape[1:], (shape[0] // 2, *shape[1:])
    if shape[0] == 2 and content.shape[-len(size) :] == size and content.ndim in (len(size), len(size) + 1):
        content = content.reshape(-1, 1, *size)
    if shape[0] % 2 or content.shape[-len(complex_shape) :] != complex_shape:
        raise UsageError(
            f"{path} holds complex numbers of shape {content.shape}, which the model's {shape} do not hold as parts."
        )
    whole = content.reshape(-1, *complex_shape)
    return np.stack([whole.real, whole.imag], 2).reshape(-1, *shape)


def _image(path: Path, codec: CodecConfig, fit: str) -> tuple[np.ndarray, list[str]]:
    channels, height, width = codec.shape
    mode = codec.mode or PIXEL_MODES[channels]
    try:
        picture = read_image(path)
    except Unreadable as problem:
        raise UsageError(f"{path} cannot be read: {problem}.") from None
    notes, given = [], picture.values
    low, high = (
        np.reshape(ends, (-1, 1, 1)) for ends in (codec.low, codec.high)
    )  # by channel: alpha has a range of its own
    if picture.frames > 1:
        notes.append(f"{path.name} has {picture.frames} pages or frames, the first is used")
    if picture.converted:
        notes.append(f"{path.name} has {picture.converted} colours, converted to RGB")
    if picture.mode != mode:
        notes.append(
            f"{path.name} is {DESCRIBED[picture.mode]}, converted to {DESCRIBED[mode]} as the model's data are"
        )
        given = converted(given, channels)
    if given.shape[1:] != (height, width):
        how = {
            "crop": "resized, cropping to fit",
            "pad": "resized, padding to fit",
            "stretch": "resized, stretching to fit",
        }[fit]
        share = cut(given.shape[1:], (height, width)) if fit == "crop" else 0.0
        how += f" ({share:.0%} of it is cut away)" if share > MUCH_CUT else ""
        notes.append(f"{path.name} is {size_text(given.shape[1:])}, {how}, to the model's {height}×{width}")
        given = resized(given, (height, width), fit)
    values: np.ndarray = given.astype(np.float32)
    if picture.mode in WIDE:
        if codec.mode is not None:
            raise UsageError(
                f"{path} holds {DESCRIBED[picture.mode]}, and the model is for {DESCRIBED[mode]}: give a file of that kind."
            )
        return values[None], notes
    if codec.mode is None or picture.mode.endswith(";16") != mode.endswith(";16"):
        values = (low + values / np.iinfo(given.dtype).max * (high - low)).astype(np.float32)
        values = values.round() if codec.kind == "integer" else values
    if codec.mode is None:  # pictures of such data are written with black at its lowest value and white at its highest
        notes.append(
            f"{path.name}: black to white read as {low.min():g} to {high.max():g}, the range of the model's data"
        )
    return values[None], notes
