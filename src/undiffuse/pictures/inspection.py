"""One page of what a data set holds: examples, values, classes, and what deserves a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from undiffuse.pictures.plots import COLOURS, FAINT, INK, MUTED, STYLE, save_figure

MOST_CLASS_BARS = 20
ACROSS = 12  # pictures
AROUND = 4  # pixels, of a picture in a square
PAGE_WIDTH = 12.0  # inches


@dataclass(frozen=True)
class InspectionPage:
    """title, subtitle: of the page.   examples: pictures uint8 (H, W, 3).   values: some, for a histogram, with the ends of the range.

    classes: examples of each.   rows: pictures under a heading each, such as copies; a cluster's stand together.
    """

    title: str
    subtitle: str
    examples: Sequence[np.ndarray]
    values: np.ndarray
    span: tuple[float, float]
    classes: Mapping[str, int]
    rows: Sequence[tuple[str, Sequence[Sequence[np.ndarray]]]] = ()


def draw_inspection(page: InspectionPage, path: Path) -> None:
    """Writes the page as a PNG file."""
    mosaics = [_mosaic([[picture] for picture in page.examples]), *(_mosaic(clusters) for _, clusters in page.rows)]
    tall = [PAGE_WIDTH * canvas.shape[0] / canvas.shape[1] + 0.45 for canvas in mosaics]
    heights = [tall[0], 2.6, *tall[1:]]
    with plt.rc_context(STYLE):
        whole = sum(heights) + 0.9
        room = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, 0.98 - 0.8 / whole))
        figure = plt.figure(figsize=(PAGE_WIDTH, whole), layout=room)
        figure.text(0.02, 1 - 0.38 / whole, page.title, fontsize=18, fontweight="bold", color=INK)
        figure.text(0.02, 1 - 0.66 / whole, page.subtitle, fontsize=10.5, color=MUTED)
        parts = list(np.atleast_1d(np.asarray(figure.subfigures(len(heights), 1, height_ratios=heights))))
        _show_mosaic(parts[0], "examples, as the network will see them", mosaics[0])
        _curves(parts[1], page)
        for part, (heading, _), canvas in zip(parts[2:], page.rows, mosaics[1:], strict=True):
            _show_mosaic(part, heading, canvas)
        save_figure(figure, path)


def in_square(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture uint8 (H, W, 3) as large as fits into a square of `side`, in its middle, on white; a small one is enlarged pixel by pixel."""
    height, width = picture.shape[:2]
    times = (side - 2 * AROUND) / max(height, width)
    size = max(1, round(width * times)), max(1, round(height * times))
    resample = Image.Resampling.NEAREST if times > 1 else Image.Resampling.LANCZOS
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(Image.fromarray(picture).resize(size, resample), ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(canvas)


def _mosaic(clusters: Sequence[Sequence[np.ndarray]], across: int = ACROSS) -> np.ndarray:
    """Pictures side by side; those of one cluster touch, and a gap parts it from the next."""
    first = clusters[0][0]
    height, width = first.shape[:2]
    gap = max(2, width // 12)
    lines: list[list[tuple[int, np.ndarray]]] = [[]]
    place = 0
    for cluster in clusters:
        shown = cluster[:across]
        if place and place + len(shown) * width > across * (width + gap):
            lines.append([])
            place = 0
        for picture in shown:
            lines[-1].append((place, picture))
            place += width
        place += gap
    canvas = np.full((len(lines) * (height + gap) - gap, across * (width + gap) - gap, 3), 255, np.uint8)
    for row, line in enumerate(lines):
        for left, picture in line:
            visible = picture[:, : max(0, canvas.shape[1] - left)]
            canvas[row * (height + gap) : row * (height + gap) + height, left : left + visible.shape[1]] = visible
    return canvas


def _show_mosaic(part: SubFigure, heading: str, canvas: np.ndarray) -> None:
    """A mosaic under its heading."""
    axes = part.subplots()
    axes.imshow(canvas, interpolation="nearest" if canvas.shape[1] < 48 * ACROSS else "antialiased")
    axes.set_title(heading, fontsize=11, color=INK)
    axes.set_axis_off()
    axes.set_anchor("W")


def _curves(part: SubFigure, page: InspectionPage) -> None:
    """The spread of all values, and how many examples each class has."""
    columns = part.subplots(1, 2 if page.classes else 1, squeeze=False)[0]
    axes = columns[0]
    counts, edges = np.histogram(page.values, bins=min(64, max(8, len(np.unique(page.values[:4096])))), range=page.span)
    axes.stairs(counts / max(1, counts.sum()), edges, fill=True, color=COLOURS[0], alpha=0.85)
    axes.set_title("values", fontsize=11)
    axes.set_ylabel("share")
    axes.set_xlim(*page.span)
    axes.set_ylim(0)
    if not page.classes:
        return
    axes = columns[1]
    many = len(page.classes) > MOST_CLASS_BARS
    shown = (
        sorted(page.classes.items(), key=lambda item: -item[1])[:MOST_CLASS_BARS]
        if many
        else list(page.classes.items())
    )
    more = f", the {MOST_CLASS_BARS} largest of {len(page.classes)}" if many else ""
    names = [name[:14] or "none" for name, _ in shown]
    axes.bar(range(len(shown)), [count for _, count in shown], color=COLOURS[2], edgecolor=FAINT)
    axes.set_xticks(range(len(shown)), names, rotation=0 if max(map(len, names)) * len(names) < 60 else 60, ha="center")
    axes.set_title(f"examples of each class{more}", fontsize=11)
