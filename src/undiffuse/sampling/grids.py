"""Grids: at which levels to stop on the way from noise to data.

A grid is a table of levels, noisiest first, ending in the clean level.  Solvers read the next level from the table and
never compute it, so every grid works with every solver.  On a discrete chain a grid is a choice of rows, and each level
keeps the training index it was trained with as its label.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.schedules import Schedule


def _at_times(schedule: Schedule, times: torch.Tensor) -> Level:
    return schedule(times).and_clean()


def _checked(schedule: Schedule, steps: int) -> None:
    if steps < 1:
        raise ValueError(f"sampling needs at least one step, but steps = {steps}.")
    if isinstance(schedule, Chain) and steps > len(schedule):
        raise ValueError(f"the model's chain has {len(schedule)} levels, so at most that many steps, not {steps}.")


def every(schedule: Schedule, steps: int | None = None) -> Level:
    """All levels of a chain."""
    if not isinstance(schedule, Chain):
        raise ValueError("only a discrete chain has a finite number of levels: give a number of steps instead.")
    return schedule.levels


def uniform(schedule: Schedule, steps: int) -> Level:
    """Times evenly spaced from t_max to t_min, both included; on a chain rounded to its indices."""
    _checked(schedule, steps)
    times = torch.linspace(schedule.t_max, schedule.t_min, steps, dtype=torch.float64)
    return _at_times(schedule, schedule.nearest(times))


def trailing(schedule: Schedule, steps: int) -> Level:
    """Evenly spaced times counted from the noisy end (Lin et al. 2024, section 3.3): t_max is in, t_min is not.

    On a chain of T: round(T, T - T/n, …) - 1.
    """
    _checked(schedule, steps)
    end = -1.0 if isinstance(schedule, Chain) else 0.0
    times = torch.linspace(schedule.t_max, end, steps + 1, dtype=torch.float64)[:-1]
    return _at_times(schedule, schedule.nearest(times))


def karras(schedule: Schedule, steps: int, rho: float = 7.0, ratio_max: float = 80.0, ratio_min: float = 0.002) -> Level:
    """sigma/alpha spaced evenly in its rho-th root (Karras et al. 2022, eq. 5), within the schedule's own range.

    On a chain the levels lie between its indices, so their labels are fractions.
    """
    _checked(schedule, steps)
    ends = schedule([schedule.t_max, schedule.t_min]).ratio
    start = min(ratio_max, ends[0].item()) ** (1 / rho)
    end = max(ratio_min, ends[1].item()) ** (1 / rho)
    ratios = torch.linspace(start, end, steps, dtype=torch.float64) ** rho
    times = schedule.at(-2 * ratios.log())
    return _at_times(schedule, times.clamp(schedule.t_min, schedule.t_max))


def respaced_indices(T: int, sections: str) -> list[int]:
    """The training indices that a spacing of the papers names, ascending.

    "250"       one section: fractional stride from index 0 to T - 1.
    "10,15,20"  equal sections of the chain, each with so many steps (Nichol & Dhariwal 2021, released code).
    "ddim50"    the integer stride T/50 of DDIM, from index 0 (Song et al. 2021, appendix D).

    Raises ValueError for anything else and for counts that do not fit.
    """
    if match := re.fullmatch(r"ddim(\d+)", sections):
        count = int(match[1])
        for stride in range(1, T + 1):
            if len(range(0, T, stride)) == count:
                return list(range(0, T, stride))
        raise ValueError(f"no integer stride visits exactly {count} of {T} levels: use {count!r} without 'ddim'.")
    if not re.fullmatch(r"\d+(,\d+)*", sections):
        raise ValueError(f"{sections!r} is no spacing: write a number (250), numbers for equal sections (10,15,20), or ddim50.")
    counts = [int(count) for count in sections.split(",")]
    indices: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = T // len(counts) + (1 if section < T % len(counts) else 0)
        if not 1 <= count <= size:
            raise ValueError(f"section {section + 1} of the chain has {size} levels, so 1 to {size} steps, not {count}.")
        fraction = 1.0 if count == 1 else (size - 1) / (count - 1)
        # The reference code adds up the fractional strides one by one, in floating point, and rounds half to even.
        offset = 0.0
        for _ in range(count):
            indices.append(start + round(offset))
            offset += fraction
        start += size
    return indices


def respaced(schedule: Schedule, sections: str) -> Level:
    """The papers' respacing of a chain, see `respaced_indices`."""
    if not isinstance(schedule, Chain):
        raise ValueError("respacing counts the levels of a discrete chain: use the grid 'uniform' on this schedule.")
    indices = respaced_indices(len(schedule), sections)
    rows = [len(schedule) - 1 - index for index in reversed(indices)]
    return schedule.levels[rows].and_clean()


GRIDS: dict[str, Callable[[Schedule, int], Level]] = {
    "every": every,
    "uniform": uniform,
    "trailing": trailing,
    "karras": karras,
}


def make_grid(schedule: Schedule, grid: str, steps: int) -> Level:
    """The grid called `grid`: one of GRIDS, or a spacing of the papers such as "250", "10,15,20" or "ddim50"."""
    if grid in GRIDS:
        return GRIDS[grid](schedule, steps)
    if re.fullmatch(r"(ddim)?\d+(,\d+)*", grid):
        return respaced(schedule, grid)
    raise ValueError(f"there is no grid {grid!r}: choose one of {', '.join(GRIDS)}, or a spacing like 250, 10,15,20 or ddim50.")

