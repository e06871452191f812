"""Sheets: pictures in rows and columns with labels.  Sample grids, forward and reverse strips, frames of animations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from undiffuse.pictures.images import INK_RGB, PAPER_RGB

MUTED_RGB = (107, 114, 128)
SMALLEST_CELL, LARGEST_CELL, COMFORTABLE_WIDTH = 64, 192, 512
MARGIN, GAP, TEXT, TITLE = 16, 4, 12, 16
CAPTION, CAPTION_COLUMN = 11, 104


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has the Greek letters that Pillow's own font lacks."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def _enlarged(picture: np.ndarray, columns: int) -> Image.Image:
    """A picture (H, W, 3), its pixels repeated until it is SMALLEST_CELL high, or higher where `columns` of them leave the page half empty."""
    height, width = picture.shape[:2]
    times = max(1, -(-SMALLEST_CELL // height), min(LARGEST_CELL // height, COMFORTABLE_WIDTH // (columns * width)))
    return Image.fromarray(picture.repeat(times, 0).repeat(times, 1))


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    title: str = "",
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
) -> Image.Image:
    """Rows of pictures, uint8 (H, W, 3) each and all of one size, with labels at the left and on top."""
    columns = max(len(row) for row in rows)
    cells = [[_enlarged(picture, columns) for picture in row] for row in rows]
    width, height = cells[0][0].size
    font, title_font = _font(TEXT), _font(TITLE)
    left = MARGIN + (max(int(font.getlength(label)) for label in row_labels) + 10 if row_labels else 0)
    top = MARGIN + (TITLE + 12 if title else 0) + (TEXT + 8 if column_labels else 0)
    full = max(left + columns * (width + GAP) - GAP, MARGIN + int(title_font.getlength(title))) + MARGIN
    page = Image.new("RGB", (full, top + len(cells) * (height + GAP) - GAP + MARGIN), PAPER_RGB)
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((MARGIN, MARGIN - 3), title, font=title_font, fill=INK_RGB)
    for column, label in enumerate(column_labels):
        draw.text((left + column * (width + GAP) + width / 2, top - 6), label, font=font, fill=MUTED_RGB, anchor="ms")
    for r, row in enumerate(cells):
        y = top + r * (height + GAP)
        if r < len(row_labels):
            draw.text((left - 10, y + height / 2), row_labels[r], font=font, fill=MUTED_RGB, anchor="rm")
        for c, cell in enumerate(row):
            page.paste(cell, (left + c * (width + GAP), y))
    return page


def captioned(pictures: Iterable[np.ndarray], captions: Sequence[str], title: str, columns: int = 8) -> Image.Image:
    """Pictures of one size in rows, each with a caption of up to three lines under it."""
    shown = min(columns, len(captions))
    cells = [_enlarged(picture, shown) for picture in pictures]
    width, height = cells[0].size
    column, font, line = max(width, CAPTION_COLUMN), _font(CAPTION), CAPTION + 2
    wrapped = [textwrap.wrap(caption, max(8, int(column / font.getlength("n"))))[:3] for caption in captions]
    rows = -(-len(cells) // columns)
    tall = height + 3 * line + 10
    page = Image.new(
        "RGB",
        (
            max(shown * (column + 2 * GAP) - 2 * GAP, int(_font(TITLE).getlength(title))) + 2 * MARGIN,
            2 * MARGIN + TITLE + 12 + rows * tall,
        ),
        PAPER_RGB,
    )
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 3), title, font=_font(TITLE), fill=INK_RGB)
    for k, (cell, lines) in enumerate(zip(cells, wrapped, strict=True)):
        x, y = MARGIN + k % columns * (column + 2 * GAP), MARGIN + TITLE + 12 + k // columns * tall
        page.paste(cell, (x + (column - width) // 2, y))
        for number, text in enumerate(lines):
            draw.text((x + column / 2, y + height + 4 + number * line), text, font=font, fill=MUTED_RGB, anchor="mt")
    return page


def animate(frames: Sequence[Image.Image], path: Path, seconds: float = 3.0, hold: float = 1.5) -> None:
    """Writes an animation, GIF or WebP by the name of `path`; the last frame is held."""
    size = max(frame.size for frame in frames)
    same = [frame if frame.size == size else frame.resize(size) for frame in frames]
    each = max(20, round(1000 * seconds / len(same)))
    durations = [each] * (len(same) - 1) + [round(1000 * hold)]
    same[0].save(path, save_all=True, append_images=same[1:], duration=durations, loop=0, lossless=True)
