"""What people look at: samples by class, a forward strip, a reverse strip, the reverse trajectory as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from undiffuse.data.codec import Codec
from undiffuse.pictures.images import to_rgb
from undiffuse.pictures.sheets import animate, captioned, sheet
from undiffuse.pictures.tables import is_table, scatter
from undiffuse.process.forward import forward_trajectory as forward_trajectory
from undiffuse.process.levels import Level
from undiffuse.process.philox import standard_normal
from undiffuse.rng import NoiseStream
from undiffuse.sampling.loop import SamplerStep


def label_of(values: Sequence[object]) -> str:
    """The conditions of an example, short enough to be read under it."""
    parts = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in values if value is not None]
    return " · ".join(parts)


def samples_grid(
    values: Tensor, codec: Codec, labels: Sequence[str], title: str, columns: int = 10, captions: bool = False
) -> Image.Image:
    """Samples (N, C, *size) in the data's range; rows by label where there are several, each named where it begins.

    captions: write every label under its sample instead.   Rows of tables are dots, a colour for each label.
    """
    if is_table(codec.config):
        return scatter(values, codec.config, labels, title)
    pictures = to_rgb(values, codec.config)
    distinct = list(dict.fromkeys(labels))
    if captions and any(labels):
        return captioned(pictures, labels, title)
    if len(distinct) > 1:
        grouped = {name: [pictures[i] for i, label in enumerate(labels) if label == name] for name in distinct}
        most = max(len(group) for group in grouped.values())
        wide = most if most <= 2 * columns else columns
        named = [
            (name if start == 0 else "", group[start : start + wide])
            for name, group in grouped.items()
            for start in range(0, len(group), wide)
        ]
        return sheet([row for _, row in named], title=title, row_labels=[name for name, _ in named])
    rows = [list(pictures[start : start + columns]) for start in range(0, len(pictures), columns)]
    return sheet(rows, title=title)


def compared_grid(values: Tensor, codec: Codec, rows: Sequence[str], title: str) -> Image.Image:
    """Samples (rows · columns, C, *size), row after row: what changes when only the conditions do."""
    if is_table(codec.config):
        return scatter(values, codec.config, [label for label in rows for _ in range(len(values) // len(rows))], title)
    pictures = to_rgb(values, codec.config)
    columns = len(pictures) // len(rows)
    return sheet(
        [list(pictures[k * columns : (k + 1) * columns]) for k in range(len(rows))],
        title=title,
        row_labels=rows if len(rows) > 1 else (),
        column_labels=[str(k) for k in range(columns)],
    )


def level_label(level: Level) -> str:
    """The noise-to-signal ratio of one level, for people."""
    if level.sigma == 0:
        return "clean"
    return "noise" if level.alpha < 1e-3 * level.sigma else f"σ/α {level.sigma_edm.item():.2g}"


def spread_rows(levels: Level, count: int) -> list[int]:
    """Rows of a table that look evenly spaced: by the angle atan2(sigma, alpha), both ends included."""
    angle = torch.atan2(levels.sigma, levels.alpha)
    targets = torch.linspace(float(angle[0]), float(angle[-1]), min(count, len(levels)), dtype=angle.dtype)
    return sorted({int((angle - w).abs().argmin()) for w in targets})


def forward_pictures(
    x: Tensor, levels: Level, codec: Codec, seed: int, count: int = 9
) -> tuple[list[np.ndarray], list[str]]:
    """One example x (C, *size), in the model's range, along the forward trajectory, clean first: pictures and labels.

    Every step of the chain, each with noise of its own.
    """
    steps = len(levels) - 1
    index = torch.zeros(steps, dtype=torch.int64)
    noise = standard_normal(x.shape, seed, index, step=torch.arange(steps), stream=NoiseStream.FORWARD)
    states = list(forward_trajectory(x[None], levels, iter(noise[:, None])))
    rows = spread_rows(levels, count)[::-1]
    shown = torch.cat([states[len(levels) - 1 - row] for row in rows])
    return list(to_rgb(codec.decode(shown), codec.config)), [level_label(levels[row]) for row in rows]


def reverse_pictures(
    moments: Sequence[SamplerStep], codec: Codec, example: int = 0, count: int = 9
) -> tuple[list[np.ndarray], list[np.ndarray], list[str]]:
    """One example of a reverse trajectory: pictures (H, W, 3) of x_t, of x̂ at the same time, and labels; at most `count` of each."""
    ratio = torch.stack([torch.atan2(m.level.sigma, m.level.alpha) for m in moments])
    targets = torch.linspace(float(ratio[0]), float(ratio[-1]), min(count - 1, len(moments)), dtype=ratio.dtype)
    rows = sorted({int((ratio - w).abs().argmin()) for w in targets})
    x_t = torch.stack([moments[row].x_t[example] for row in rows] + [moments[-1].x[example]])
    clean = torch.stack([moments[row].x0[example] for row in rows] + [moments[-1].x[example]])
    labels = [level_label(moments[row].level) for row in rows] + ["sample"]
    return list(to_rgb(codec.decode(x_t), codec.config)), list(to_rgb(codec.decode(clean), codec.config)), labels


def forward_strip(x: Tensor, levels: Level, codec: Codec, seed: int) -> Image.Image:
    """The forward process of an example x (1, *shape) along the levels, as one picture with labels."""
    pictures, labels = forward_pictures(x, levels, codec, seed)
    return sheet(
        [pictures], title="Forward: noise is added until nothing is left", column_labels=labels, row_labels=["x_t"]
    )


def reverse_strip(moments: Sequence[SamplerStep], codec: Codec, example: int = 0) -> Image.Image:
    """Example number `example` of a reverse trajectory as one picture: x_t, and x̂ below."""
    x_t, clean, labels = reverse_pictures(moments, codec, example)
    return sheet(
        [x_t, clean],
        title="Reverse: the network removes it again",
        column_labels=labels,
        row_labels=["x_t", "estimate of x_0"],
    )


def animate_reverse(moments: Sequence[SamplerStep], codec: Codec, path: Path, columns: int = 10) -> None:
    """All examples of a trajectory: x_t above, x̂ below, one frame per step."""
    frames = []
    n = min(columns, len(moments[0].x_t))
    for moment in moments:
        x_t = to_rgb(codec.decode(moment.x_t[:n]), codec.config)
        clean = to_rgb(codec.decode(moment.x0[:n]), codec.config)
        frames.append((x_t, clean, f"step {moment.row} of {moment.total}"))
    last = to_rgb(codec.decode(moments[-1].x[:n]), codec.config)
    frames.append((last, last, f"step {moments[-1].total} of {moments[-1].total}"))
    animate(
        [sheet([list(a), list(b)], title=title, row_labels=["x_t", "estimate of x_0"]) for a, b, title in frames], path
    )


def draw_trajectory(moments: Sequence[SamplerStep], levels: Level, codec: Codec, seed: int, folder: Path) -> list[str]:
    """Strips of the first example, forward along the levels and in reverse, and an animation of all; returns the names of the files."""
    forward_strip(moments[-1].x[0], levels, codec, seed).save(folder / "forward.png")
    reverse_strip(moments, codec).save(folder / "reverse.png")
    animate_reverse(moments, codec, folder / "reverse.gif")
    return ["forward.png", "reverse.png", "reverse.gif"]
