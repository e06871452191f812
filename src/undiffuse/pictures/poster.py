"""The poster: what diffusion is, and what this model learned, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from undiffuse.pictures.plots import COLOURS, MUTED, STYLE, error_by_level, save_figure

NOTE = 0.062  # of the lower half, from a heading to the line below it


@dataclass(frozen=True)
class Poster:
    """Pictures are uint8 (H, W, 3).

    forward: a real example, clean first.   x_t, clean: the reverse trajectory and x̂ along it.
    real, made: per class, equally many real examples and samples.   errors: see plots.error_by_level.
    """

    title: str
    subtitle: str
    forward: Sequence[np.ndarray]
    forward_labels: Sequence[str]
    x_t: Sequence[np.ndarray]
    clean: Sequence[np.ndarray]
    reverse_labels: Sequence[str]
    reverse_title: str
    classes: Sequence[str]
    real: Sequence[Sequence[np.ndarray]]
    made: Sequence[Sequence[np.ndarray]]
    ratio: Sequence[float]
    errors: Mapping[str, Sequence[float]]
    held_out: int


def _picture(axes: Axes, picture: np.ndarray) -> None:
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#d1d5db", linewidth=0.6)


def _strip(
    figure: SubFigure,
    rows: Sequence[Sequence[np.ndarray]],
    row_labels: Sequence[str],
    labels: Sequence[str],
    title: str,
    note: str,
    colour: str,
) -> None:
    figure.text(0.012, 0.985, title, fontsize=15, fontweight="bold", color=colour, va="top")
    figure.text(0.012, 0.985 - (0.17 if len(rows) == 1 else 0.105), note, fontsize=10.5, color=MUTED, va="top")
    top = 0.62 if len(rows) == 1 else 0.75
    place = {"left": 0.085, "right": 0.988, "top": top, "bottom": 0.02, "wspace": 0.08, "hspace": 0.08}
    grid = figure.subplots(len(rows), len(labels), squeeze=False, gridspec_kw=place)
    for r, row in enumerate(rows):
        for axes, picture in zip(grid[r], row, strict=True):
            _picture(axes, picture)
        grid[r][0].set_ylabel(row_labels[r], rotation=0, ha="right", va="center", fontsize=11, labelpad=8)
    for axes, label in zip(grid[0], labels, strict=True):
        axes.set_title(label, fontsize=9.5, color=MUTED, loc="center", fontweight="normal", pad=4)


def _mosaic(rows: Sequence[Sequence[np.ndarray]], gap: int = 1) -> np.ndarray:
    """Pictures of one size in rows and columns, white between them, as one picture."""
    height, width = rows[0][0].shape[:2]
    page = np.full((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            page[r * (height + gap) : r * (height + gap) + height, c * (width + gap) : c * (width + gap) + width] = (
                picture
            )
    return page


def _by_class(figure: SubFigure, poster: Poster) -> None:
    """Real examples above, samples below, a column for each class."""
    figure.text(
        0.022, 0.985, "3  Told a class, it makes new ones", fontsize=15, fontweight="bold", color=COLOURS[2], va="top"
    )
    figure.text(
        0.022,
        0.985 - NOTE,
        "Real digits that were held out, and samples of each class.",
        fontsize=10.5,
        color=MUTED,
        va="top",
    )
    upper, lower = figure.subplots(
        2, 1, gridspec_kw={"left": 0.085, "right": 0.985, "top": 0.885, "bottom": 0.06, "hspace": 0.06}
    )
    for axes, pictures, name in ((upper, poster.real, "real"), (lower, poster.made, "made")):
        axes.imshow(_mosaic(list(zip(*pictures, strict=True))), interpolation="nearest")
        axes.set_axis_off()
        axes.text(-0.015, 0.5, name, transform=axes.transAxes, ha="right", va="center", fontsize=11)
    width = poster.made[0][0].shape[1]
    for column, name in enumerate(poster.classes):
        lower.text(
            column * (width + 1) + width / 2 - 0.5,
            -0.02,
            name,
            transform=lower.get_xaxis_transform(),
            ha="center",
            va="top",
            fontsize=11,
        )


def draw_poster(poster: Poster, path: Path) -> None:
    """Draws the poster into a PNG file."""
    with plt.rc_context(STYLE):
        figure: Figure = plt.figure(figsize=(13, 12.6))
        bands: Any = figure.subfigures(4, 1, height_ratios=(0.95, 2.2, 3.35, 5.6))
        head, forward, reverse, bottom = bands
        head.text(0.012, 0.80, poster.title, fontsize=24, fontweight="bold", va="top")
        head.text(0.012, 0.32, poster.subtitle, fontsize=11.5, color=MUTED, va="top")
        _strip(
            forward,
            [poster.forward],
            ["$x_t$"],
            poster.forward_labels,
            "1  Forward: a real example dissolves",
            "A little Gaussian noise is added at every step, until nothing of it is left.  x_t = α·x₀ + σ·ε",
            COLOURS[0],
        )
        _strip(
            reverse,
            [poster.x_t, poster.clean],
            ["$x_t$", "what it\nbelieves\n$x_0$ to be"],
            poster.reverse_labels,
            poster.reverse_title,
            "At every step the network estimates the clean picture, and one small step is taken towards it.",
            COLOURS[1],
        )
        left, right = bottom.subfigures(1, 2, width_ratios=(1.25, 1))
        _by_class(left, poster)
        right.text(0.0, 0.985, "4  What it has learned", fontsize=15, fontweight="bold", color=COLOURS[3], va="top")
        note = "Its error on digits it never saw; lower is better, at every noise level."
        right.text(0.0, 0.985 - NOTE, note, fontsize=10.5, color=MUTED, va="top")
        axes = right.subplots(gridspec_kw={"left": 0.14, "right": 0.97, "top": 0.87, "bottom": 0.13})
        error_by_level(axes, poster.ratio, poster.errors, poster.held_out, title="")
        save_figure(figure, path)
