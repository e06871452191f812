"""Grids: at which levels to stop on the way from noise to data.

A grid is a table of levels, noisiest first, ending in the clean level.  Solvers read the next level from the table and
never compute it, so every grid works with every solver.  On a discrete chain a grid is a choice of rows, and each level
keeps the training index it was trained with as its label.  Those that place their own levels are in spacings.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import torch

from undiffuse.errors import UsageError
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.schedules import Schedule
from undiffuse.registry import Registry, no_such
from undiffuse.sampling.spacings import OWN, OWNERS, SPACINGS, GridSettings, checked


def every(schedule: Schedule) -> Level:
    """All levels of a chain."""
    if not isinstance(schedule, Chain):
        raise UsageError("only a discrete chain has a finite number of levels: give a number of steps instead.")
    return schedule.levels


def at_logsnrs(schedule: Schedule, logsnrs: Sequence[float]) -> Level:
    """The levels of given log-SNRs, ascending, such as fitted_grids.py finds for a model."""
    times = schedule.at(torch.tensor(logsnrs, dtype=torch.float64)).clamp(schedule.t_min, schedule.t_max)
    return schedule(torch.unique(times).flip(0)).and_clean()


def respaced_indices(T: int, sections: str) -> list[int]:
    """The training indices that a spacing of the papers names, ascending.

    "250"       one section: fractional stride from index 0 to T - 1.
    "10,15,20"  equal sections of the chain, each with so many steps (Nichol & Dhariwal 2021, released code).
    "ddim50"    the integer stride T/50 of DDIM, from index 0 (Song et al. 2021, appendix D).

    Raises UsageError for anything else and for counts that do not fit.
    """
    if match := re.fullmatch(r"ddim(\d+)", sections):
        count = int(match[1])
        for stride in range(1, T + 1):
            if len(range(0, T, stride)) == count:
                return list(range(0, T, stride))
        raise UsageError(f"no integer stride visits exactly {count} of {T} levels: use {count!r} without 'ddim'.")
    if not re.fullmatch(r"\d+(,\d+)*", sections):
        raise UsageError(
            f"{sections!r} is no spacing: write a number (250), numbers for equal sections (10,15,20), or ddim50."
        )
    counts = [int(count) for count in sections.split(",")]
    indices: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = T // len(counts) + (1 if section < T % len(counts) else 0)
        if not 1 <= count <= size:
            raise UsageError(
                f"section {section + 1} of the chain has {size} levels, so 1 to {size} steps, not {count}."
            )
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
        raise UsageError("respacing counts the levels of a discrete chain: use the grid 'uniform' on this schedule.")
    indices = respaced_indices(len(schedule), sections)
    rows = [len(schedule) - 1 - index for index in reversed(indices)]
    return schedule.levels[rows].and_clean()


def churned(schedule: Schedule, levels: Level, churn: float, low: float = 0.0, high: float = math.inf) -> Level:
    """Before every step, back up by gamma: EDM's stochastic sampler (Karras et al. 2022, Algorithm 2) as a table.

    sigma/alpha is raised to (1 + gamma) times itself where it lies in [low, high], gamma = min(churn/steps, sqrt(2) - 1),
    and never beyond the schedule's noisiest level.
    """
    ratio = levels[:-1].sigma_edm
    gamma = min(churn / len(ratio), math.sqrt(2) - 1) * ((ratio >= low) & (ratio <= high)).double()
    raised = schedule(schedule.at(-2 * (ratio * (1 + gamma)).log()).clamp(schedule.t_min, schedule.t_max))
    rows: list[Level] = []
    for level, up in zip(levels[:-1].rows(), raised.rows(), strict=True):
        rows += (
            [level, up] if up.sigma_edm > level.sigma_edm * (1 + 1e-9) else [level]
        )  # the noisiest level cannot be raised
    return Level.of_rows([*rows, levels.rows()[-1]])


def restarted(levels: Level, low: float, high: float, times: int) -> Level:
    """The stretch with sigma/alpha in [low, high] sampled `times` more times, jumping back up in between (Xu et al. 2023).

    Raises UsageError where the stretch holds fewer than two levels of the table.
    """
    ratio = levels.sigma_edm
    inside = ((ratio >= low) & (ratio <= high)).nonzero()[:, 0]
    if len(inside) < 2:
        raise UsageError(
            f"there are {len(inside)} levels with sigma/alpha between {low:g} and {high:g}, nothing to sample again: widen the stretch."
        )
    rows, first, last = levels.rows(), int(inside[0]), int(inside[-1])
    return Level.of_rows([*rows[: last + 1], *rows[first : last + 1] * times, *rows[last + 1 :]])


def resampled(levels: Level, length: int, times: int) -> Level:
    """Every stretch of `length` steps sampled `times` times, jumping back up in between (Lugmayr et al. 2022, appendix B).

    The jumps start at the last noisy level and at every `length` levels above it, but not where there is no room to jump.
    """
    if length < 1 or times < 1:
        raise UsageError(
            f"jumps of {length} steps and {times} repeats of a stretch are not possible: give 1 or more of each."
        )
    rows, last = levels.rows(), len(levels) - 2
    path = list[Level]()
    for row in range(last + 1):
        path.append(rows[row])
        if (last - row) % length == 0 and row >= length:
            path += rows[row - length : row + 1] * (times - 1)
    return Level.of_rows([*path, rows[-1]])


GRIDS: Registry[Callable[..., Level]] = Registry("grid", "undiffuse.grids", {"every": every, **SPACINGS})
PAPERS = re.compile(r"(ddim)?\d+(,\d+)*")


def register_grid(name: str, place: Callable[[Schedule, int], Level]) -> None:
    """Makes a grid of one's own known as `name`, to `model.sample(grid=name)`.

    place: (schedule, steps) → the table of levels, noisiest first and the clean level last, such as `schedule(times).and_clean()` with
    `steps` falling times.  The first line of its docstring is shown in the list of grids.
    Raises UsageError for a name that is taken.
    """
    if name == "aligned" or PAPERS.fullmatch(name):
        raise UsageError(
            f"the name {name!r} is taken: it is that of levels that are given, or a spacing of the papers. Choose another name."
        )
    GRIDS.register(name, place)


def make_grid(schedule: Schedule, grid: str, steps: int, settings: GridSettings = OWN) -> Level:
    """The grid called `grid`: one of GRIDS, or a spacing of the papers such as "250", "10,15,20" or "ddim50".

    Raises UsageError for an unknown one, settings that it does not have, or more steps than it has levels.
    """
    if grid in SPACINGS:
        for name, owners in OWNERS.items():
            if getattr(settings, name) is not None and grid not in owners:
                raise UsageError(
                    f"{name} is a setting of the grid {' and '.join(owners)}, and {grid!r} has none: leave it out."
                )
        return SPACINGS[grid](schedule, steps, settings)
    own = grid == "every" or PAPERS.fullmatch(grid)
    if not own and grid not in GRIDS:
        raise UsageError(no_such("grid", grid, [*GRIDS.names(), "a spacing like 250 or 10,15,20 or ddim50"]))
    refuse_settings(grid, settings)
    if not own:
        checked(schedule, steps)
        return _of_user(grid, GRIDS[grid](schedule, steps))
    return every(schedule) if grid == "every" else respaced(schedule, grid)


def _of_user(name: str, levels: Level) -> Level:
    """The table of a registered grid. Raises UsageError where a solver cannot follow it."""
    if not isinstance(levels, Level) or levels.alpha.ndim != 1 or len(levels) < 2 or levels.sigma[-1] != 0:
        raise UsageError(
            f"the grid {name!r} returns no table of levels that ends in the clean one: return schedule(times).and_clean()."
        )
    if not (levels.sigma_edm.diff() < 0).all():
        raise UsageError(
            f"the levels of the grid {name!r} do not fall from noise to data: return them with the noisiest first."
        )
    return levels


def ending_noisy(schedule: Schedule, levels: Level) -> Level:
    """The table with the schedule's least noisy level in place of the clean one, where its sampler then stops without a jump to x̂.

    (diffusers: final_sigmas_type "sigma_min", set_alpha_to_one False.)  A table whose last noisy level is that one is a step shorter.
    """
    end = schedule([schedule.t_min])
    if torch.isclose(levels.sigma_edm[-2], end.sigma_edm[0], rtol=1e-9, atol=0):
        if len(levels) < 3:
            raise UsageError(
                "the grid has no level but the one that it would end at: take more steps, or final_sigma 'zero'."
            )
        return levels[:-1]
    return Level.of_rows([*levels[:-1].rows(), *end.rows()])


def refuse_settings(grid: str, settings: GridSettings) -> None:
    """Raises UsageError for any setting of a grid that does not place its own levels."""
    chosen = [name for name, value in vars(settings).items() if value is not None]
    if chosen:
        raise UsageError(
            f"the grid {grid!r} takes levels that are given, so it has no {chosen[0]}: leave that out, or take another grid."
        )
