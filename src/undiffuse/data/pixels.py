"""One image file: its first page or frame, upright, as an array (C, H, W) of the kind of pixel that the file has.

Kinds are grey or colour, with or without alpha, of 8 bits (uint8) or 16 (uint16), grey floats and whole numbers of 32 bits.  Other colours
(CMYK, YCbCr, LAB, HSV) become RGB, which is said.  Nothing is cut: a palette becomes colour,
a transparent colour becomes alpha, and a file of 9 to 16 bits keeps them.  Pillow decodes 16-bit colour to its high bytes
only, but it knows both byte orders, so decoding a second time in the other order gives the low bytes:

    value = 256 · (decoded in the file's order) + (decoded in the other order)                                            (1)

What would lose something is refused with the reason, so is anything but an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps, UnidentifiedImageError

from undiffuse.data.config import DataConfig
from undiffuse.data.resizing import ON_ITS_SIDE, Box, as_image, cut, drafted, fitted, orientation, resized

IMAGE_SUFFIXES = {
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".webp",
    ".avif",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
    ".ppm",
    ".pgm",
    ".pnm",
    ".tga",
    ".jp2",
    ".j2k",
}
DESCRIBED = {"L": "grey", "LA": "grey with alpha", "RGB": "colour", "RGBA": "colour with alpha"}
CONVERTED = ("CMYK", "YCbCr", "LAB", "HSV")  # to RGB
DESCRIBED |= {f"{mode};16" if mode != "L" else "I;16": f"16-bit {text}" for mode, text in DESCRIBED.items()}
DESCRIBED |= {"F": "grey floats", "I": "grey whole numbers of 32 bits"}
WIDE = ("F", "I")  # kinds of more than 16 bits
CHANNELS = {"grey": 1, "rgb": 3, "rgba": 4}
DEEP = 257  # 65535/255
BYTE_ORDERS = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if np.little_endian else ";16L"}
MUCH_CUT = 0.25  # of a picture
TIFF_WIDTH, TIFF_LENGTH = 256, 257  # tags
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601), as Pillow's


class Openable(Protocol):
    """What an image is read from: a path, or anything else that opens for reading, such as a member of an archive."""

    def open(self, mode: Literal["rb"], /) -> IO[bytes]:
        """The file, from its beginning; it can be opened any number of times."""


class Unreadable(Exception):
    """Why one file cannot be used.   passing: whether that may be otherwise in a moment, such as for want of memory or a permission."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


@dataclass(frozen=True)
class Picture:
    """values: (C, H, W), uint8 or uint16.   size: (height, width) in the file, upright.   frames: pages or frames in the file.

    cut: the share of the picture that cropping took away.   converted: from which kind of colours, by Pillow's name; empty where they
    are as in the file.
    """

    values: np.ndarray
    size: tuple[int, int]
    frames: int = 1
    cut: float = 0.0
    converted: str = ""

    @property
    def mode(self) -> str:
        """The kind of pixel, a key of DESCRIBED."""
        return mode_of(self.values)


def mode_of(values: np.ndarray) -> str:
    """The kind of pixel of values (C, H, W)."""
    if values.dtype in (np.float32, np.int32):
        return "F" if values.dtype == np.float32 else "I"
    return list(DESCRIBED)[len(values) - 1 + 4 * (values.dtype == np.uint16)]


@dataclass(frozen=True)
class ImageOptions:
    """How images are read.

    channels: grey, rgb or rgba to convert to, at the depth of the file.   size: (height, width) to resize to, by `fit`: crop, pad
    or stretch.   max_pixels: a larger image is not opened; Pillow's limit when None, which reading raises for this process.
    exact_resize: see DataConfig.
    """

    channels: str | None = None
    size: tuple[int, int] | None = None
    fit: str = "crop"
    max_pixels: int | None = None
    exact_resize: bool = False

    @classmethod
    def of(cls, config: DataConfig) -> ImageOptions:
        """As a configuration says."""
        return cls(config.channels, config.size, config.fit, config.max_pixels, config.exact_resize)


def read_image(path: Openable, how: ImageOptions | None = None) -> Picture:
    """One image.   how: it is read, as it is when None. Raises Unreadable."""
    how = how or ImageOptions()
    limit = how.max_pixels or Image.MAX_IMAGE_PIXELS
    if how.max_pixels and Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max(how.max_pixels, Image.MAX_IMAGE_PIXELS)  # Pillow has no other place for it
    try:
        with path.open("rb") as stream, Image.open(stream) as file:
            if limit and file.width * file.height > limit:
                raise Unreadable(_too_large(file.width * file.height, limit))
            # the second picture of MPO is the camera's own copy of the first
            frames = (
                int(getattr(file, "n_frames", 1)) if getattr(file, "is_animated", False) and file.format != "MPO" else 1
            )
            original = file.mode if file.mode in CONVERTED else ""
            stored = (file.height, file.width)
            region = drafted(file, how.size, how.fit) if how.size and not how.exact_resize else None
            deep = _deep(path, file)
            plain = _plain(_upright(file)) if deep is None else deep
            # of a PNG, EXIF is read with the pixels, which `_deep` must come before
            whole = stored[::-1] if orientation(file) >= ON_ITS_SIDE else stored
            share = cut(whole, how.size) if how.size and how.fit == "crop" else 0.0
            if isinstance(plain, Image.Image):
                plain.load()  # here, where a file that is cut short is found out
                values = _of_image(plain, how, region)
            else:
                plain = plain if how.channels is None else converted(plain, CHANNELS[how.channels])
                values = plain if how.size is None else resized(plain, how.size, how.fit)
            return Picture(values, whole, frames, share, original)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        with path.open("rb") as stream:
            raise Unreadable(
                "it is no image that this Pillow reads" if stream.read(1) else "it is empty, of 0 bytes"
            ) from None
    except Image.DecompressionBombError:
        raise Unreadable(_too_large(None, limit or 0)) from None
    except Exception as error:  # Pillow raises many kinds; for one file out of many, all mean the same
        # an error of the system has a number, one of Pillow's has none
        passing = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)
        raise Unreadable(str(error) or type(error).__name__, passing) from None


def _of_image(image: Image.Image, how: ImageOptions, region: Box | None) -> np.ndarray:
    """The values (C, H, W) of an image of 8 bits, which is converted and resized before it becomes an array.   region: see `fitted`."""
    into = image.mode if how.channels is None else list(DESCRIBED)[CHANNELS[how.channels] - 1]
    image = image if image.mode == into else image.convert(into)
    if how.size is not None and (region is not None or how.size != (image.height, image.width)):
        image = fitted(image, how.size, how.fit, how.exact_resize, region)
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _too_large(pixels: int | None, limit: int) -> str:
    has = f"{pixels / 1e6:.0f} megapixels, " if pixels else ""
    return f"{has}more than the {limit / 1e6:.0f} megapixels that are opened; `max_pixels` allows larger ones, such as 1000000000"


# 16 bits -----------------------------------------------------------------------------------------------------------------


def _deep(path: Openable, file: Image.Image) -> np.ndarray | None:
    """The values of a file with 16-bit colour, or alpha, None for any other. Raises Unreadable where they would be cut to 8 bits."""
    tiles = getattr(file, "tile", [])
    modes = {t.args if isinstance(t.args, str) else str(t.args[0]) for t in tiles if t.args}
    if file.format == "PPM" and file.mode == "RGB" and tiles[0].codec_name == "ppm" and tiles[0].args[-1] > 255:
        return _ppm(path, tiles[0].offset, file.size, tiles[0].args[-1])
    if not any(";16" in mode for mode in modes) or file.mode not in ("LA", "RGB", "RGBA"):
        if (bits := _bits(path, file)) > 8 and file.mode != "I;16":
            raise Unreadable(
                f"a {file.format} of {bits} bits in several channels, which would lose all beyond 8: store such images as .npy"
            )
        return None
    swapped = {
        mode: mode[:-4] + BYTE_ORDERS[mode[-4:]]
        for mode in modes
        if mode[-4:] in BYTE_ORDERS and mode[:-4] in ("RGB", "RGBA")
    }
    swapped |= {"LA;16B": "RGBA"} if modes == {"LA;16B"} else {}  # its four bytes
    if modes != swapped.keys():
        raise Unreadable(
            f"16-bit pixels stored as {', '.join(sorted(modes))}, which would lose half of their depth: store such images as .npy"
        )
    transparent = file.info.get("transparency")
    high = np.asarray(_upright(file))
    with path.open("rb") as stream, Image.open(stream) as again:
        assert isinstance(again, ImageFile.ImageFile)  # of any file
        again.tile = [t._replace(args=_other(t.args, swapped)) for t in again.tile]
        low = np.asarray(_upright(again))
    values = low[..., ::2] * np.uint16(256) + low[..., 1::2] if modes == {"LA;16B"} else high * np.uint16(256) + low
    return _with_alpha(np.moveaxis(values, -1, 0), transparent)


def _other(args: Any, swapped: dict[str, str]) -> Any:
    """A tile's arguments with the other byte order."""
    return swapped[args] if isinstance(args, str) else (swapped[args[0]], *args[1:])


def _ppm(path: Openable, offset: int, size: tuple[int, int], highest: int) -> np.ndarray:
    """Of a binary PPM with two bytes a number; scaled to 65535, as Pillow scales a PGM."""
    width, height = size
    with path.open("rb") as stream:
        stream.seek(offset)
        content = stream.read(2 * width * height * 3)
    values = np.frombuffer(content[: len(content) // 2 * 2], ">u2")
    if len(values) < width * height * 3:
        raise Unreadable("the file is cut short")
    if highest != 65535:
        values = (values.astype(np.float64) / highest * 65535).round().clip(0, 65535)
    return np.ascontiguousarray(np.moveaxis(values.reshape(height, width, 3), -1, 0), dtype=np.uint16)


def _bits(path: Openable, file: Image.Image) -> int:
    """Bits of a number in the formats whose tiles do not say so: JPEG 2000, and AVIF, of more than 8."""
    if file.format not in ("JPEG2000", "AVIF"):
        return 8
    with path.open("rb") as stream:
        head = stream.read(4096)
    if file.format == "JPEG2000":
        size = head.find(
            b"\xff\x51"
        )  # marker SIZ (ISO 15444-1, A.5.1); the depth of the first component stands 40 bytes on
        return (head[size + 40] & 0x7F) + 1 if size >= 0 and len(head) > size + 40 else 8
    config = head.find(
        b"av1C"
    )  # AV1 in ISO base media, 2.3.3: after the marker, the third byte has high_bitdepth and twelve_bit
    flags = head[config + 6] if config >= 0 and len(head) > config + 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


# Kinds of pixel -----------------------------------------------------------------------------------------------------------


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an image as EXIF says that it is shown."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF, whose size is upright already in newer Pillows
    size = (tags.get(TIFF_LENGTH, image.height), tags.get(TIFF_WIDTH, image.width))
    return size[::-1] if orientation(image) >= ON_ITS_SIDE else size


def _upright(image: Image.Image) -> Image.Image:
    """An image as EXIF says that it is shown; the same one, where it says nothing."""
    return image if orientation(image) == 1 else ImageOps.exif_transpose(image)


def _plain(image: Image.Image) -> Image.Image | np.ndarray:
    """An image of Pillow in the nearest kind that loses nothing, as an image where that has 8 bits, else as values (C, H, W).

    Raises Unreadable where there is none.
    """
    transparent = image.info.get("transparency")
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        values = np.asarray(image)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            return values.astype(np.int32)[None]
        return _with_alpha(values.astype(np.uint16)[None], transparent)
    if image.mode in ("L", "RGB", "1"):
        into = {"1": "L"}.get(image.mode, image.mode) + ("" if transparent is None else "A")
        image = image if image.mode == into else image.convert(into)
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or transparent is not None else "RGB")
    elif image.mode == "F":
        return np.asarray(image)[None]
    elif image.mode in CONVERTED:
        image = _in_rgb(image)
    elif image.mode not in DESCRIBED:
        raise Unreadable(f"its colour mode {image.mode} is not one that is read: convert the file first")
    return image


def _in_rgb(image: Image.Image) -> Image.Image:
    """CMYK, YCbCr, HSV and LAB as sRGB."""
    if image.mode != "LAB":
        return image.convert("RGB")
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert found is not None  # only in place it gives nothing
    return found


def _with_alpha(values: np.ndarray, transparent: Any) -> np.ndarray:
    """16-bit values with an alpha that hides the colour which is transparent, if any."""
    if transparent is None or len(values) % 2 == 0:
        return values
    colour = np.reshape(transparent, (-1, 1, 1))
    return np.concatenate([values, np.where((values == colour).all(0), 0, 65535).astype(values.dtype)[None]])


def converted(values: np.ndarray, channels: int) -> np.ndarray:
    """Values (C, H, W) with 1 (grey), 2 (with alpha), 3 (colour) or 4 channels, at their own depth; alpha is dropped or full."""
    if len(values) == channels:
        return values
    if values.dtype in (np.float32, np.int32):
        return values if channels == 1 else np.repeat(values, 3, 0)
    if values.dtype == np.uint8:
        into = list(DESCRIBED)[channels - 1]
        image = np.asarray(as_image(values).convert(into))
        return image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0)
    colour, alpha = (values[:-1], values[-1:]) if len(values) % 2 == 0 else (values, None)
    if channels <= 2 and len(colour) == 3:
        colour = np.tensordot(LUMA, colour, 1).round().astype(np.uint16)[None]
    colour = np.repeat(colour, 3, 0) if channels > 2 and len(colour) == 1 else colour
    if channels % 2:
        return colour
    return np.concatenate([colour, np.full_like(colour[:1], 65535) if alpha is None else alpha])


def deepened(values: np.ndarray) -> np.ndarray:
    """8 bits as 16, white as white."""
    return values * np.uint16(DEEP) if values.dtype == np.uint8 else values


def upright_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of an image file as it is shown, upright; None for what is no image that can be opened."""
    return size_in_header(path) if path.suffix.lower() in IMAGE_SUFFIXES else None


def size_in_header(image: Openable) -> tuple[int, int] | None:
    """(height, width) of an image as it is shown, upright, by its header alone; None where that cannot be read."""
    try:
        with image.open("rb") as stream, Image.open(stream) as file:
            return _upright_size(file)
    except Exception:  # Pillow raises many kinds, and decoding says which
        return None
