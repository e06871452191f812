"""Noise schedules compared: how much signal is left, the log-SNR, and the same image noised along each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.dataset import Dataset
from undiffuse.pictures.images import to_rgb
from undiffuse.pictures.plots import COLOURS, STYLE, save_figure
from undiffuse.process.forward import add_noise
from undiffuse.process.philox import standard_normal
from undiffuse.process.schedules import Schedule
from undiffuse.rng import NoiseStream

CURVE_POINTS, STRIP_POINTS = 200, 13


def times_along(schedule: Schedule, share: Tensor) -> Tensor:
    """Shares, from 0 to 1, of the way from t_min to t_max → times, of the same shape."""
    return schedule.t_min + share.double() * (schedule.t_max - schedule.t_min)


def signal_left(schedule: Schedule, t: Tensor) -> Tensor:
    """α² / (α² + σ²) at times, in [0, 1], of the same shape; alpha-bar of a chain."""
    level = schedule(t)
    return level.alpha**2 / (level.alpha**2 + level.sigma**2)


def compare_schedules(path: Path, schedules: Mapping[str, Schedule], image: Dataset) -> None:
    """Draws schedules by name.   image: data of one example, which is noised along each by the same noise."""
    codec = Codec(fitted_codec(image))
    x = codec.encode(image.values)
    eps = standard_normal(x.shape[1:], 0, torch.zeros(1, dtype=torch.int64), stream=NoiseStream.FORWARD)
    share, places = torch.linspace(0, 1, CURVE_POINTS, dtype=torch.float64), torch.linspace(0, 1, STRIP_POINTS)
    with plt.rc_context(STYLE):
        rows = len(schedules)
        figure = plt.figure(figsize=(12, 4.2 + 0.85 * rows), layout="constrained")
        parts: Any = figure.subfigures(2, 1, height_ratios=(4.2, 0.4 + 0.85 * rows))
        top, bottom = parts
        left, right = top.subplots(1, 2)
        grid = bottom.subplots(rows, STRIP_POINTS, squeeze=False)
        for i, (name, schedule) in enumerate(schedules.items()):
            t, colour = times_along(schedule, share), COLOURS[i % len(COLOURS)]
            left.plot(share, signal_left(schedule, t), color=colour, label=name, linewidth=2)
            right.plot(share, schedule(t).logsnr.clamp(-30, 30), color=colour, label=name, linewidth=2)
            level = schedule(times_along(schedule, places))
            scale = torch.hypot(level.alpha, level.sigma).float().reshape(-1, 1, 1, 1)
            noised = add_noise(x.expand(STRIP_POINTS, *x.shape[1:]), level, eps) / scale
            for axes, picture in zip(grid[i], to_rgb(codec.decode(noised), codec.config), strict=True):
                axes.imshow(picture, interpolation="nearest")
                axes.set_axis_off()
            grid[i][0].set_title(name, loc="left", fontsize=9, color=colour, pad=2)
        along = "share of the forward trajectory"
        left.set(title="Signal left: α² / (α² + σ²), alpha-bar of a chain", xlabel=along, xlim=(0, 1), ylim=(0, 1.02))
        right.set(title="log-SNR: log α²/σ²", xlabel=along, xlim=(0, 1))
        left.legend()
        bottom.suptitle("The same image noised along each, evenly spaced in time", x=0.01, ha="left", fontweight="bold")
        save_figure(figure, path)
