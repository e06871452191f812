"""Plots: noise schedules compared, error by noise level, likelihood by noise level.  matplotlib, without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1f2937", "#6b7280", "#e5e7eb"
COLOURS = ("#2563eb", "#d97706", "#059669", "#be185d", "#7c3aed", "#0891b2", "#65a30d", "#b91c1c")
STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Writes a figure to a PNG file, makes the folder if needed, and closes the figure.   dpi: dots per inch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=dpi)
    plt.close(figure)


def error_by_level(
    axes: Axes,
    ratio: Sequence[float],
    errors: Mapping[str, Sequence[float]],
    held_out: int,
    title: str = "Error by noise level",
) -> None:
    """E |x̂ - x_0|² against sigma/alpha. errors: by name, "model" drawn boldest, references dashed."""
    styles = {
        "trivial": ("knows nothing: answers the mean", MUTED, ":"),
        "linear": ("best linear denoiser", COLOURS[1], "--"),
        "copying": ("a copy of the training set", COLOURS[3], "--"),
        "model": ("this model", COLOURS[0], "-"),
    }
    for name, values in errors.items():
        label, colour, line = styles[name]
        axes.loglog(
            ratio,
            values,
            line,
            color=colour,
            label=label,
            linewidth=2.6 if name == "model" else 1.5,
            marker="o" if name == "model" else None,
            markersize=4,
        )
    axes.set_xlabel("noise level σ/α")
    axes.set_ylabel(f"E |x̂ − x₀|² per pixel, {held_out} held-out")
    axes.set_title(title)
    axes.legend(loc="lower right", fontsize=9)


DECADES = 6  # shown below the largest step of a likelihood


def plot_likelihood(path: Path, terms: Sequence[tuple[str, float, float]], total: str, unit: str, title: str) -> None:
    """Where the bits of a likelihood come from, noise level by noise level; both axes from noise to data.

    terms: (kind, sigma/alpha, amount in `unit`), noisiest first; kind is prior, step or path, decoder, or units.
    total: the sum in words.    unit: bits/dim or nats/dim.    title: of the steps.
    """
    ratio = np.array([ratio for kind, ratio, _ in terms if kind in ("step", "path")])
    amount = np.array([amount for kind, _, amount in terms if kind in ("step", "path")])
    positive = ratio[(ratio > 0) & np.isfinite(ratio)]
    ratio = np.clip(ratio, positive.min(), positive.max())
    sums = {name: sum(amount for kind, _, amount in terms if kind == name) for name in ("prior", "decoder", "units")}
    marks = {"prior": (ratio[0], COLOURS[1]), "decoder": (ratio[-1], COLOURS[2])}
    bound = any(kind == "decoder" for kind, _, _ in terms)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
        floor = amount.max() * 10.0**-DECADES if bound and (amount > 0).any() else -np.inf
        left.plot(
            ratio,
            np.maximum(amount, floor),
            color=COLOURS[0],
            linewidth=2,
            marker="o" if len(ratio) < 80 else None,
            markersize=4,
        )
        if np.isfinite(floor):
            left.set_yscale("log")
            for name, (place, colour) in marks.items():
                below = " or less" if sums[name] < floor else ""
                label = f"{name}: {max(sums[name], floor):.2g}{below}"
                left.plot(
                    [place],
                    [max(sums[name], floor)],
                    "D",
                    color=colour,
                    markersize=8,
                    label=label,
                    clip_on=False,
                    zorder=5,
                )
            left.legend(frameon=True, framealpha=1, edgecolor="none")
        left.set(title=title, xlabel="noise level σ/α, cleaner to the right", ylabel=f"{unit}, {len(ratio)} steps")
        running = np.cumsum([sums["units"] + sums["prior"], *amount, sums["decoder"]])
        right.plot(ratio, running[1:-1], color=COLOURS[0], linewidth=2.6, label=f"steps: {amount.sum():.3f}")
        stretches = {"prior": [sums["units"], running[0]], "decoder": [running[-2], running[-1]]}
        for name, (place, colour) in marks.items():
            if bound or name == "prior":
                right.plot(
                    [place] * 2,
                    stretches[name],
                    "D-",
                    color=colour,
                    linewidth=2.6,
                    markersize=6,
                    label=f"{name}: {sums[name]:.3f}",
                    zorder=5,
                )
        if sums["units"]:
            right.axhline(sums["units"], color=MUTED, linestyle=":", label=f"the values' unit: {sums['units']:.3f}")
        right.axhline(running[-1], color=INK, linestyle="--", linewidth=1.2)
        right.set(title=f"The sum: {total}", xlabel="noise level σ/α, cleaner to the right", ylabel=f"{unit} so far")
        right.legend(frameon=True, framealpha=1, edgecolor="none")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.invert_xaxis()
        save_figure(figure, path)
