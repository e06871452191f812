"""Edits of examples: before and after in labelled rows, and the trajectory as a strip and an animation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from undiffuse.data.codec import Codec
from undiffuse.pictures.images import INK_RGB, SIGNAL_SIZE, side_by_side, to_rgb
from undiffuse.pictures.sheets import animate, sheet
from undiffuse.pictures.views import level_label
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.probability_flow import angle_of, norm_of
from undiffuse.sampling.loop import SamplerStep

CELL, MOST_COLUMNS, FRAMES, ANIMATION_SECONDS = 96, 12, 48, 5.0
MOST_KEPT_NUMBERS = 2**25  # of a trajectory that is kept
TIMES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
STRIPES = ((84, 120, 190), (110, 144, 208))  # where nothing is known
ARROWS = {"up": "↑", "down": "↓"}
Way = Literal["up", "down"]
Row = tuple[str, Tensor | Sequence[np.ndarray]]
"""A label, and examples in the data's range or pictures."""


class TrajectoryRecorder:
    """Collects a trajectory for pictures; its `record` is what editing.py's functions call `watch`.

    At most FRAMES steps each way are kept, evenly spaced, of the first MOST_COLUMNS examples, fewer where these are so large that
    they hold more than MOST_NUMBERS, and on the CPU.   moments: these, in order.   examples: which are kept.
    """

    def __init__(
        self, shape: Sequence[int], focus: int = 0, alone: bool = False, ways: Sequence[Way] = ("up", "down")
    ) -> None:
        """shape: of one x.   focus: the example of the strip, kept beside the first ones.   alone: whether it alone is kept.   ways: those kept."""
        columns = max(1, min(MOST_COLUMNS, MOST_KEPT_NUMBERS // (2 * FRAMES * 3 * math.prod(shape))))
        self.examples = (focus,) if alone else tuple(dict.fromkeys([*range(columns), focus]))
        self.focus, self.ways = focus, tuple(ways)
        self._kept: dict[tuple[Way, int], SamplerStep] = {}

    def record(self, way: Way, moment: SamplerStep, rows: Tensor) -> None:
        """Keeps a step of the given way, of those `rows` (B,) of the examples that are shown."""
        here = [k for k, row in enumerate(rows.tolist()) if row in self.examples]
        if not here or way not in self.ways or moment.row not in _spread_rows(moment.total):
            return
        x_t, clean, x = (part[here].cpu() for part in (moment.x_t, moment.x0, moment.x))
        before = self._kept.get((way, moment.row))
        if before is not None:
            x_t, clean, x = (torch.cat(both) for both in ((before.x_t, x_t), (before.x0, clean), (before.x, x)))
        self._kept[way, moment.row] = replace(moment, x_t=x_t, x0=clean, x=x, state=None)

    @property
    def moments(self) -> list[tuple[Way, SamplerStep]]:
        """The steps that were kept, in order, each with its way."""
        return [(way, moment) for (way, _), moment in self._kept.items()]

    def spread(self, count: int) -> list[tuple[Way, SamplerStep]]:
        """At most `count` of them, evenly spaced in the angle, the first and the last included."""
        angle = torch.stack([angle_of(moment.level) for _, moment in self.moments])
        travelled = torch.cat([angle[:1] * 0, angle.diff().abs().cumsum(0)])
        targets = torch.linspace(0, float(travelled[-1]), count, dtype=travelled.dtype)
        return [self.moments[row] for row in sorted({int((travelled - w).abs().argmin()) for w in targets})]


@lru_cache
def _spread_rows(total: int) -> frozenset[int]:
    """At most FRAMES of so many steps, evenly spaced, the first and the last included."""
    count = min(FRAMES, total)
    return frozenset(round(k * (total - 1) / max(1, count - 1)) for k in range(count))


def pictures_of(values: Tensor, codec: Codec) -> list[np.ndarray]:
    """Examples in the data's range, the first MOST_COLUMNS that a page has columns for, as pictures of at least CELL pixels."""
    return [_larger(picture) for picture in to_rgb(values[:MOST_COLUMNS], codec.config)]


def at_level(x_t: Tensor, level: Level, codec: Codec) -> list[np.ndarray]:
    """x_t in the model's range, as a picture: divided by hypot(alpha, sigma), so that pure noise is as bright for any schedule."""
    x_t = x_t[:MOST_COLUMNS]
    return pictures_of(codec.decode(x_t / broadcast_to(norm_of(level), x_t)), codec)


def blend(x: Tensor, shares: Sequence[float], codec: Codec) -> Tensor:
    """Two examples x (2, …) in the model's range, blended value by value by shares of the second; the first MOST_COLUMNS, in the data's range."""
    plain = codec.in_plain(x)
    return codec.plain.decode(torch.cat([torch.lerp(plain[:1], plain[1:], t) for t in shares[:MOST_COLUMNS]]))


def difference(x: Tensor, y: Tensor, codec: Codec) -> tuple[list[np.ndarray], str]:
    """y - x, examples in the model's range, on grey, enlarged by a round number: pictures and their label."""
    x, y, codec = codec.in_plain(x[:MOST_COLUMNS]), codec.in_plain(y[:MOST_COLUMNS]), codec.plain
    low, high = codec.limits(x.device)
    if codec.config.encoder is not None:  # rows of a table, whose x has other channels
        x, y, low, high = codec.decode(x), codec.decode(y), codec.low, codec.high
    share = ((y - x) / (high - low).clamp(min=1e-30)).nan_to_num()
    largest = float(share.abs().max())
    times = max((t for t in TIMES if t * largest <= 0.5), default=1)
    label = f"difference × {times}" if largest > 1 / 2 / TIMES[-1] else "no difference"
    grey = (0.5 + times * share).clamp(0, 1) * (high - low) + low
    column = torch.tensor(codec.config.scale).reshape(-1, *[1] * (x.ndim - 2))
    offset = torch.tensor(codec.config.offset).reshape(column.shape)
    return [_larger(picture) for picture in to_rgb(grey.float().cpu() * column + offset, codec.config)], label


def masked(values: Tensor, hidden: Tensor, codec: Codec) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(masks, dark where all is known; the examples with stripes where something is hidden), for values and hidden (n, C, *size)."""
    values, hidden = values[:MOST_COLUMNS], hidden[:MOST_COLUMNS]
    pictures, where = to_rgb(values, codec.config), _where(hidden, codec)
    height, width = where.shape[1:]
    stripes = (np.add.outer(np.arange(height), np.arange(width)) * 2 // max(2, height // 8) % 2).astype(bool)
    striped = np.where(stripes[..., None], *np.array(STRIPES, np.uint8))
    observed = np.where(where[..., None], striped, pictures)
    masks = np.where(where[..., None], *np.array((STRIPES[0], INK_RGB), np.uint8))
    return [_larger(picture) for picture in masks], [_larger(picture) for picture in observed]


def _where(hidden: Tensor, codec: Codec) -> np.ndarray:
    """Of each pixel of what `to_rgb` draws, whether any of the numbers behind it is hidden: bool (n, H, W)."""
    if hidden.ndim == 3:
        height, width = SIGNAL_SIZE
        place = np.linspace(0, hidden.shape[-1] - 1, width).round().astype(int)
        return np.repeat(hidden.any(1).numpy()[:, None, place], height, 1)
    slices = hidden[:, :, hidden.shape[2] // 2] if hidden.ndim == 5 else hidden
    channels = codec.config.shape[0]
    if not side_by_side(channels, codec.config.mode):
        return slices.any(1).numpy()
    return slices.expand(-1, channels, -1, -1).permute(0, 2, 1, 3).flatten(2).numpy()


def _larger(picture: np.ndarray) -> np.ndarray:
    times = max(1, -(-CELL // picture.shape[0]))
    return picture.repeat(times, 0).repeat(times, 1)


def draw_rows(rows: Sequence[Row], title: str, columns: Sequence[str], codec: Codec) -> Image.Image:
    """Labelled rows of examples, (n, C, *size) in the data's range, or of pictures: a column for each label, at most MOST_COLUMNS of them."""
    shown = min(MOST_COLUMNS, len(columns))
    left_out = f" (the first {shown} of {len(columns)})" if shown < len(columns) else ""
    pictures = [pictures_of(row, codec) if isinstance(row, Tensor) else row for _, row in rows]
    return sheet(
        [list(row)[:shown] for row in pictures],
        title=title + left_out,
        row_labels=[label for label, _ in rows],
        column_labels=columns[:shown],
    )


def strip(recorder: TrajectoryRecorder, codec: Codec, title: str, count: int = 14) -> Image.Image:
    """The example in focus along the whole trajectory: x_t above, x̂ below, and the result."""
    k, moments = recorder.examples.index(recorder.focus), recorder.spread(count - 1)
    x_t = [at_level(m.x_t[k : k + 1], m.level, codec)[0] for _, m in moments]
    clean = [pictures_of(codec.decode(m.x0[k : k + 1]), codec)[0] for _, m in moments]
    end = pictures_of(codec.decode(moments[-1][1].x[k : k + 1]), codec)
    labels = [f"{ARROWS[way]} {level_label(m.level)}" for way, m in moments] + ["end"]
    return sheet([x_t + end, clean + end], title=title, row_labels=["x_t", "estimate x̂"], column_labels=labels)


def animation(recorder: TrajectoryRecorder, codec: Codec, path: Path, labels: Sequence[str]) -> None:
    """The trajectory of all examples that were kept, x_t above, x̂ below, as an animation.   labels: of each example, kept or not."""
    columns = [labels[k] for k in recorder.examples if k < len(labels)][:MOST_COLUMNS]
    n, frames = len(columns), list[Image.Image]()

    def add(x_t: Sequence[np.ndarray], clean: Sequence[np.ndarray], title: str) -> None:
        frames.append(sheet([x_t, clean], title=title, row_labels=["x_t", "estimate x̂"], column_labels=columns))

    for way, m in recorder.spread(FRAMES):
        clean = pictures_of(codec.decode(m.x0[:n]), codec)
        add(at_level(m.x_t[:n], m.level, codec), clean, f"{ARROWS[way]} {level_label(m.level)}")
    end = pictures_of(codec.decode(recorder.moments[-1][1].x[:n]), codec)
    add(end, end, "end")
    animate(frames, path, ANIMATION_SECONDS)
