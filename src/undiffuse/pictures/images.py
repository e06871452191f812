"""From values in the data's own range to pixels.

The range is the codec's, never that of the one picture at hand, so brightness means the same in every picture.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from undiffuse.data.codec import CodecConfig
from undiffuse.data.ranges import has_alpha

SIGNAL_SIZE = (96, 160)  # height, width of the plot that stands for a one-dimensional example
INK_RGB, PAPER_RGB = (31, 41, 55), (255, 255, 255)
LINE_COLOURS = ((37, 99, 235), (217, 119, 6), (5, 150, 105), (190, 24, 93))


def to_bytes(values: np.ndarray, codec: CodecConfig) -> np.ndarray:
    """(N, C, *size) in the data's range → uint8 of the same shape, black at the codec's low and white at its high."""
    column = (-1, *[1] * (values.ndim - 2))
    low, high = np.reshape(codec.low, column), np.reshape(codec.high, column)
    pixels = np.empty(values.shape, np.uint8)
    for k in range(len(values)):  # one by one: the arithmetic is float64, of eight times the memory
        share = (values[k : k + 1] - low) / (high - low)
        pixels[k] = (np.nan_to_num(share) * 255).round().clip(0, 255)[0]  # what is missing is black
    return pixels


def to_rgb(values: Tensor, codec: CodecConfig) -> np.ndarray:
    """Values (N, C, *size) → pictures uint8 (N, H, W, 3).

    Signals are drawn as curves, rows of tables as a bar for each column, volumes shown by their middle slice, alpha (also the last of four
    channels) laid over white, and any other number of channels shown side by side in grey.
    """
    pixels = to_bytes(values.numpy(), codec)
    if pixels.ndim == 3:
        return np.stack([_curve(example) for example in pixels])
    if pixels.ndim == 5:
        pixels = pixels[:, :, pixels.shape[2] // 2]
    channels = pixels.shape[1]
    if side_by_side(channels, codec.mode):
        pixels = np.concatenate(np.split(pixels, channels, axis=1), axis=-1)
    elif channels in (2, 4):
        alpha = pixels[:, -1:].astype(np.float32) / 255
        pixels = (pixels[:, :-1] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    return np.repeat(pixels, 3, axis=1).transpose(0, 2, 3, 1) if pixels.shape[1] == 1 else pixels.transpose(0, 2, 3, 1)


def side_by_side(channels: int, mode: str | None) -> bool:
    """Whether channels are drawn beside each other: those that are no colour, and colour with alpha.   mode: kind of pixel."""
    return channels not in (1, 3, 4) and not (channels == 2 and has_alpha(mode))


def _curve(signal: np.ndarray) -> np.ndarray:
    """One example (C, L) as a plot."""
    height, width = SIGNAL_SIZE
    image = Image.new("RGB", (width, height), PAPER_RGB)
    draw = ImageDraw.Draw(image)
    if signal.shape[-1] == 1:
        each = (width - 4) / len(signal)
        for column, value in enumerate(signal[:, 0]):
            left = 2 + column * each
            box = (left + 0.1 * each, 2 + (height - 5) * (1 - value / 255), left + 0.9 * each, height - 3)
            draw.rectangle(box, fill=LINE_COLOURS[column % len(LINE_COLOURS)])
        return np.asarray(image)
    x = np.linspace(2, width - 3, signal.shape[-1])
    for channel, line in enumerate(signal):
        y = (height - 5) * (1 - line / 255.0) + 2
        draw.line(
            list(zip(x.tolist(), y.tolist(), strict=True)), fill=LINE_COLOURS[channel % len(LINE_COLOURS)], width=1
        )
    return np.asarray(image)


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG file of uint16 values (H, W, C): grey or colour, with alpha or not, which Pillow cannot write (ISO 15948)."""
    height, width, channels = values.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = b"".join(
        b"\0" + line.tobytes() for line in values.astype(">u2")
    )  # each begins with the number of its filter: none
    head = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def save_image(value: Tensor, codec: CodecConfig, path: Path) -> None:
    """One example (C, H, W) in the format of the data: grey as grey, 16 bits as 16 bits; anything else as shown."""
    if codec.mode is not None:
        array = value.numpy().astype(codec.dtype)
        image = array[0] if array.shape[0] == 1 else array.transpose(1, 2, 0)
        if codec.mode.endswith(";16") and len(array) > 1:
            path.write_bytes(png_of_16_bits(image))
            return
    elif len(codec.shape) == 3 and codec.shape[0] == 1:
        image = to_bytes(value[None].numpy(), codec)[0, 0]
    else:
        image = to_rgb(value[None], codec)[0]
    Image.fromarray(image).save(path)
