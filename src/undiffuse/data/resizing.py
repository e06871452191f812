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
from PIL.JpegImagePlugin import JpegImageFile

from undiffuse.data.ranges import top_of

REDUCED = 3.0  # times the size that a large picture is made first
LANCZOS = Image.Resampling.LANCZOS
ORIENTATION, ON_ITS_SIDE = 274, 5  # EXIF's tag, and its first value with the sides exchanged
Box = tuple[float, float, float, float]
"""(left, top, right, bottom), in pixels."""


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


def fitted(
    image: Image.Image, size: tuple[int, int], fit: str, exact: bool = True, region: Box | None = None
) -> Image.Image:
    """An image at (height, width), by fit: crop, pad or stretch.   exact: in one step.   region: that the picture fills, all when None."""
    height, width = size
    whole = (0.0, 0.0, float(image.width), float(image.height))
    left, top, right, bottom = region or whole
    across, down = (right - left) / width, (bottom - top) / height
    large = (max if fit == "pad" else min)(across, down) > REDUCED
    gap = REDUCED if large and not exact else None
    if fit == "crop" and gap is None and region in (None, whole):
        return ImageOps.fit(image, (width, height), LANCZOS)
    within = (width, height)
    if fit == "pad":  # as ImageOps.contain, which makes nothing of a side that would be shorter than half a pixel
        within = _contained(right - left, bottom - top, size)
    elif fit == "crop":
        times = min(across, down)
        beside, above = (right - left - width * times) / 2, (bottom - top - height * times) / 2
        left, top, right, bottom = left + beside, top + above, right - beside, bottom - above
    image = image.resize(within, LANCZOS, box=(left, top, right, bottom), reducing_gap=gap)
    return image if within == (width, height) else ImageOps.pad(image, (width, height), LANCZOS)


def _contained(across: float, down: float, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture, at least 1, where it is as large as (height, width) contains."""
    height, width = size
    if across * height > down * width:
        return width, max(1, round(down / across * width))
    return max(1, round(across / down * height)), height


def drafted(file: Image.Image, size: tuple[int, int], fit: str) -> Box | None:
    """Has a JPEG decoded at a part of its size, no less than the first step needs, before it is resized, upright, to (height, width).

    Returns the region, upright, that the picture then fills: its edge may lie within the last pixels.   None where all of it is decoded.
    """
    if not isinstance(file, JpegImageFile):
        return None
    turned = orientation(file)
    width, height = file.size if turned < ON_ITS_SIDE else file.size[::-1]
    times = (max if fit == "pad" else min)(width / size[1], height / size[0])
    if times <= REDUCED:
        return None
    found = file.draft(None, (math.ceil(file.width * REDUCED / times), math.ceil(file.height * REDUCED / times)))
    return None if found is None else _upright_box(found[1], file.size, turned)


def _upright_box(box: Box, size: tuple[int, int], turned: int) -> Box:
    """A box at the origin of an image (width, height) as it lies in the upright one.   turned: EXIF's orientation."""
    _, _, right, bottom = box
    width, height = size
    from_right, from_bottom = turned in (2, 3, 7, 8), turned in (3, 4, 6, 7)
    x = (width - right, float(width)) if from_right else (0.0, float(right))
    y = (height - bottom, float(height)) if from_bottom else (0.0, float(bottom))
    return (y[0], x[0], y[1], x[1]) if turned >= ON_ITS_SIDE else (x[0], y[0], x[1], y[1])


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 for upright, from ON_ITS_SIDE on with its sides exchanged."""
    return int(image.getexif().get(ORIENTATION, 1))


def size_text(size: Sequence[int]) -> str:
    """A size (height, width) as people read it, in the order that `size` takes it."""
    return f"{size[0]}×{size[1]} (height×width)"


def cut(given: tuple[int, ...], size: tuple[int, int]) -> float:
    """The share of a picture of (height, width) that is cut away by cropping to the shape of another."""
    ratio = given[0] / given[1] * size[1] / size[0]
    return 1 - min(ratio, 1 / ratio)
