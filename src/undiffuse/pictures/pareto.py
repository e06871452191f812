"""The picture of a sweep: distance against evaluations, one line per solver and grid, the front and the choice marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator, ScalarFormatter

from undiffuse.pictures.plots import COLOURS, INK, MUTED, STYLE, save_figure

LINE_STYLES: Any = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))


Setting = tuple[str, str, int, float]
"""A setting of sampling: solver, grid, evaluations, and how far it is from where it should be."""


def pareto(
    path: Path,
    to_reference: Sequence[Setting],
    to_data: Sequence[Setting],
    front: Sequence[Setting],
    chosen: Setting | None,
    title: str,
    data_label: str,
) -> None:
    """to_reference, to_data: a panel each, where there are any.   front: its cheapest; chosen: the cheapest that is near enough."""
    solvers = list(dict.fromkeys(solver for solver, *_ in [*to_reference, *to_data]))
    grids = list(dict.fromkeys(grid for _, grid, *_ in [*to_reference, *to_data]))
    with plt.rc_context(STYLE):
        panels = [p for p in (to_reference, to_data) if p]
        figure, axes = plt.subplots(
            1, len(panels), figsize=(7.2 * len(panels), 5.2), layout="constrained", squeeze=False
        )
        for ax, panel in zip(axes[0], panels, strict=True):
            for solver, grid in dict.fromkeys((solver, grid) for solver, grid, *_ in panel):
                x, y = zip(*(each[2:] for each in panel if each[:2] == (solver, grid)), strict=True)
                ax.plot(
                    x,
                    y,
                    color=COLOURS[solvers.index(solver) % len(COLOURS)],
                    linestyle=LINE_STYLES[grids.index(grid) % len(LINE_STYLES)],
                    marker="o",
                    markersize=3.5,
                    linewidth=1.6,
                )
            _evaluations(ax, sorted({evaluations for *_, evaluations, _ in panel}))
        if to_reference:
            ax = axes[0][0]
            ax.set(yscale="log", ylabel="distance to the exact flow, rms per number", title="How exact")
            steps = [each[2:] for each in front]
            ax.step(*zip(*steps, strict=True), where="post", color=INK, linewidth=7, alpha=0.1, solid_capstyle="round")
            if chosen:
                place = chosen[2:]
                ax.plot(*place, "o", markersize=15, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.8)
                ax.annotate(
                    "near enough", place, xytext=(14, 14), textcoords="offset points", color=INK, fontweight="bold"
                )
        if to_data:
            axes[0][-1].set(ylabel=data_label, title="How like the data")
        handles = [
            Line2D([], [], color=COLOURS[k % len(COLOURS)], linewidth=2.4, label=name) for k, name in enumerate(solvers)
        ]
        styles = [
            Line2D([], [], color=MUTED, linestyle=LINE_STYLES[k % len(LINE_STYLES)], label=name)
            for k, name in enumerate(grids)
        ]
        axes[0][-1].legend(handles=[*handles, *styles], loc="upper right", fontsize=9)
        figure.suptitle(title, x=0.01, ha="left")
        save_figure(figure, path)


def _evaluations(ax: Axes, counts: Sequence[int]) -> None:
    ax.set_xscale("log")
    ticks = [count for k, count in enumerate(counts) if k == 0 or count / counts[k - 1] > 1.12]
    ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("evaluations of the network for each sample")
