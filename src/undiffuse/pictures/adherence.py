"""Whether samples show their conditions, one by one, between a floor and a ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import pyplot as plt

from undiffuse.pictures.plots import COLOURS, FAINT, INK, MUTED, STYLE, save_figure


@dataclass(frozen=True)
class AdherenceRow:
    """One condition.   requested, read: of numbers."""

    name: str
    measure: str
    samples: float
    error: float
    ceiling: float
    floor: float
    requested: Sequence[float] = ()
    read: Sequence[float] = ()


def plot_adherence(path: Path, rows: Sequence[AdherenceRow], title: str) -> None:
    """A line for each condition, and for numbers the requested value against the one measured on the samples."""
    scattered = [row for row in rows if len(row.requested)]
    with plt.rc_context(STYLE):
        panels = 1 + len(scattered)
        size = (6.4 + 4.4 * len(scattered), max(3.2, 1.6 + 0.7 * len(rows)))
        figure, axes = plt.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
        ax = axes[0][0]
        for k, row in enumerate(rows):
            ax.plot([row.floor, row.ceiling], [k, k], color=FAINT, linewidth=9, solid_capstyle="round", zorder=1)
            ax.plot(
                row.floor,
                k,
                "|",
                color=MUTED,
                markersize=16,
                markeredgewidth=2.5,
                label="floor: shuffled" if k == 0 else None,
            )
            ax.plot(
                row.ceiling,
                k,
                "|",
                color=COLOURS[2],
                markersize=16,
                markeredgewidth=2.5,
                label="ceiling: real examples" if k == 0 else None,
            )
            ax.errorbar(
                row.samples,
                k,
                xerr=2 * row.error,
                fmt="o",
                color=COLOURS[0],
                markersize=9,
                capsize=4,
                label="samples" if k == 0 else None,
            )
            ax.annotate(
                f"{row.samples:.3g}",
                (row.samples, k),
                xytext=(0, 10),
                textcoords="offset points",
                ha="center",
                color=INK,
            )
        ax.set_yticks(range(len(rows)), [f"{row.name}: {row.measure}" for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.8)
        ax.set(xlabel="score (bars: two standard errors)", title=title)
        ax.grid(axis="y", visible=False)
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, -0.42), ncols=3, fontsize=9)
        for ax, row in zip(axes[0][1:], scattered, strict=True):
            ends = [min(*row.requested, *row.read), max(*row.requested, *row.read)]
            ax.plot(ends, ends, "--", color=MUTED, linewidth=1.2)
            ax.plot(row.requested, row.read, ".", color=COLOURS[0], alpha=0.45)
            ax.set(
                xlabel=f"{row.name}, requested",
                ylabel=f"{row.name}, read off the sample",
                title=f"{row.name}: R² {row.samples:.3f}",
            )
        save_figure(figure, path)
