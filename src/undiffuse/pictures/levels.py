"""What is known at which noise level: how well a classifier reads noisy examples, and how much each condition changes x̂."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from undiffuse.pictures.plots import COLOURS, FAINT, INK, MUTED, STYLE, save_figure


def readings(
    path: Path,
    rows: Sequence[tuple[float, float, float, float, bool]],
    what: str,
    title: str,
) -> None:
    """A classifier's score on held-out examples against sigma/alpha, the chance line, and the levels where it can guide shaded.

    rows: one or more levels, each (sigma/alpha, score, its standard error, chance, whether it can guide).
    """
    ratio, score, error, chance, guides = zip(*rows, strict=True)
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(8.2, 4.8), layout="constrained")
        useful = [r for r, can in zip(ratio, guides, strict=True) if can]
        if useful:
            ax.axvspan(min(useful), max(useful), color=COLOURS[2], alpha=0.08, label="can guide")
        ax.errorbar(
            ratio,
            score,
            [2 * e for e in error],
            color=COLOURS[0],
            linewidth=2.4,
            marker="o",
            markersize=5,
            capsize=3,
            label=what,
        )
        ax.plot(ratio, chance, "--", color=MUTED, label="chance")
        ax.set(
            xscale="log", xlabel="noise level σ/α", ylabel=f"{what}, held-out (bars: two standard errors)", title=title
        )
        ax.set_ylim(min(-0.05, *score), 1.03)
        ax.legend(loc="center left")
        save_figure(figure, path)


def effects(path: Path, ratio: Sequence[float], changes: Mapping[str, Sequence[float]], title: str) -> None:
    """How much x̂ changes when a condition is shuffled among examples, by noise level."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(8.2, 4.8), layout="constrained")
        for k, (name, values) in enumerate(changes.items()):
            ax.plot(
                ratio, values, color=COLOURS[k % len(COLOURS)], marker="o", markersize=4.5, linewidth=2.2, label=name
            )
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set(
            xscale="log",
            xlabel="noise level σ/α",
            title=title,
            ylabel="change of x̂ when shuffled,\nin standard deviations of the data",
        )
        ax.grid(color=FAINT)
        ax.legend(title="condition")
        save_figure(figure, path)
