"""Samples of points and tables: every column against every other, and the spread of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from undiffuse.data.codec import CodecConfig
from undiffuse.pictures.plots import COLOURS, MUTED, STYLE

MOST_TABLE_COLUMNS, MOST_COLOURED, MOST_LETTERS = 6, 8, 16
DOT = 9.0  # points², of few samples; smaller of many


def is_table(codec: CodecConfig) -> bool:
    """Whether an example is a row of columns, on no grid."""
    return all(n == 1 for n in codec.shape[1:])


def scatter(values: Tensor, codec: CodecConfig, labels: Sequence[str], title: str) -> Image.Image:
    """Rows (N, columns, 1) as dots, a colour for each label, on axes that end where the data ends.

    Two columns make one panel, any other number a matrix of panels with the spread of each column in its diagonal; the first six are shown.
    """
    columns = min(values.shape[1], MOST_TABLE_COLUMNS)
    rows = values.flatten(1)[:, :columns].double().numpy()
    ends = [_ends(low, high) for low, high in zip(codec.low[:columns], codec.high[:columns], strict=True)]
    names = [f"column {k}" for k in range(columns)]
    if codec.columns is not None:
        names = [column.name[:MOST_LETTERS] for column in codec.columns[:columns]]
    named = list(dict.fromkeys(labels))
    groups = {"": np.ones(len(rows), bool)}
    if 1 < len(named) <= MOST_COLOURED:
        groups = {name: np.array([label == name for label in labels]) for name in named}
    pair = columns == 2
    side = 1 if pair else columns
    with plt.rc_context(STYLE):
        size = 5.6 if side == 1 else 1.2 + 1.9 * side
        figure, axes = plt.subplots(side, side, figsize=(size, size + 0.3), layout="constrained", squeeze=False)
        for down in range(side):
            for across in range(side):
                ax, x, y = axes[down][across], across, 1 if pair else down
                if x == y:
                    _spread(ax, rows[:, x], ends[x], groups)
                else:
                    _dots(ax, rows[:, x], rows[:, y], groups)
                    ax.set(xlim=ends[x], ylim=ends[y])
                if down == side - 1:
                    ax.set_xlabel(names[x])
                if across == 0:
                    ax.set_ylabel(names[y])
                ax.tick_params(labelsize=7)
                for axis in (ax.xaxis, ax.yaxis):
                    axis.get_offset_text().set_fontsize(7)
                ax.locator_params(nbins=4)
        shown = f" (columns 0 to {columns - 1} of {values.shape[1]})" if columns < values.shape[1] else ""
        figure.suptitle(title + shown, x=0.02, ha="left", fontsize=11)
        if len(groups) > 1:
            figure.legend(
                *axes[0][-1].get_legend_handles_labels(),
                loc="outside lower center",
                ncols=len(groups),
                fontsize=9,
                markerscale=2,
            )
        figure.set_dpi(110)
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()  # type: ignore[attr-defined]
        plt.close(figure)
    return Image.fromarray(pixels)


def _ends(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def _dots(ax: Axes, x: np.ndarray, y: np.ndarray, groups: dict[str, np.ndarray]) -> None:
    size = DOT * min(1.0, (300 / len(x)) ** 0.5)
    for colour, (name, which) in zip(COLOURS, groups.items(), strict=False):
        ax.scatter(x[which], y[which], s=size, color=colour, alpha=0.6, linewidths=0, label=name)


def _spread(ax: Axes, x: np.ndarray, ends: tuple[float, float], groups: dict[str, np.ndarray]) -> None:
    for colour, which in zip(COLOURS, groups.values(), strict=False):
        ax.hist(x[which], bins=24, range=ends, color=colour, alpha=0.5)
    ax.set_xlim(*ends)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.tick_params(colors=MUTED)
