"""The size of pictures: resized to (height, width) by cropping, padding or stretching.

A large picture becomes smaller in two steps: by the means of blocks to REDUCED times the size, then by Lanczos' filter, where Pillow's own
documentation finds hardly a difference, at up to seven times the speed; a JPEG is decoded to an eighth, a fourth or half of its size for the first
step.  `DataConfig.exact_resize` leaves out the first step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from undiffuse.data.ranges import top_of

REDUCED = 3.0  # times the size that a large picture is made first
LANCZOS = Image.Resampling.LANCZOS


def resized(values: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Values (C, H, W) of uint8, uint16 or float32 at (height, width), by fit: crop, pad or stretch."""
    if values.shape[1:] == size:
        return values
    if values.dtype == np.uint8:
        image = np.asarray(fitted(as_image(values), size, fit))
        return image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    planes = values.astype(np.float32)  # Pillow resizes floats well and 16-bit integers badly
    alpha = values.dtype == np.uint16 and len(values) % 2 == 0
    if alpha:  # transparent pixels have no colour to lend
        planes[:-1] *= planes[-1:] / 65535
    planes = np.stack([np.asarray(fitted(Image.fromarray(plane), size, fit)) for plane in planes])
    if values.dtype == np.int32:
        return planes.round().astype(np.int32)
    if values.dtype != np.uint16:
        return planes
    if alpha:
        planes[:-1] /= np.maximum(planes[-1:], 1) / 65535
    shown = len(planes) - alpha  # as bright as before, beside alpha too, which is brighter than scans of 12 bits
    planes[:shown] = planes[:shown].clip(0, top_of(values[:shown].max(initial=0)))
    return planes.round().clip(0, 65535).astype(np.uint16)


def as_image(values: np.ndarray) -> Image.Image:
    """8-bit values (C, H, W) as an image of Pillow."""
    return Image.fromarray(values[0] if len(values) == 1 else np.ascontiguousarray(np.moveaxis(values, 0, -1)))


def fitted(image: Image.Image, size: tuple[int, int], fit: str, exact: bool = True) -> Image.Image:
    """An image at (height, width), by fit: crop, pad or stretch.   exact: in one step."""
    height, width = size
    across, down = image.width / width, image.height / height
    if exact or (max if fit == "pad" else min)(across, down) <= REDUCED:
        fitting = {"crop": ImageOps.fit, "pad": ImageOps.pad}.get(fit)
        return image.resize((width, height), LANCZOS) if fitting is None else fitting(image, (width, height), LANCZOS)
    if fit == "pad":
        times = max(across, down)
        within = (max(1, round(image.width / times)), max(1, round(image.height / times)))
        return ImageOps.pad(image.resize(within, LANCZOS, reducing_gap=REDUCED), (width, height), LANCZOS)
    left = top = 0.0
    if fit == "crop":
        times = min(across, down)
        left, top = (image.width - width * times) / 2, (image.height - height * times) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), LANCZOS, box=box, reducing_gap=REDUCED)


def drafted_size(file: Image.Image, size: tuple[int, int], fit: str) -> tuple[int, int]:
    """(width, height) that a JPEG is decoded to at least, before it is resized to (height, width), upright or lying on its side."""
    shorter, longer = min(size), max(size)
    across = (file.width / longer, file.height / longer) if fit != "crop" else (min(file.size) / longer,) * 2
    times = max(1.0, min(min(across), min(file.size) / shorter) / REDUCED)
    return math.ceil(file.width / times), math.ceil(file.height / times)


def size_text(size: Sequence[int]) -> str:
    """A size (height, width) as people read it, in the order that `size` takes it."""
    return f"{size[0]}×{size[1]} (height×width)"


def cut(given: tuple[int, ...], size: tuple[int, int]) -> float:
    """The share of a picture of (height, width) that is cut away by cropping to the shape of another."""
    ratio = given[0] / given[1] * size[1] / size[0]
    return 1 - min(ratio, 1 / ratio)
