"""Grids: at which levels to stop on the way from noise to data.

A grid is a table of levels, noisiest first, ending in the clean level.  Solvers read the next level from the table and
never compute it, so every grid works with every solver.  On a discrete chain a grid is a choice of rows, and each level
keeps the training index it was trained with as its label.
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

RATIO_MAX, RATIO_MIN = 80.0, 0.002  # of sigma/alpha
BETA_POINTS = 4097


def _at_times(schedule: Schedule, times: torch.Tensor) -> Level:
    return schedule(times).and_clean()


def _checked(schedule: Schedule, steps: int) -> None:
    if steps < 1:
        raise UsageError(f"sampling needs at least one step, but steps = {steps}.")
    if isinstance(schedule, Chain) and steps > len(schedule):
        raise UsageError(f"the model's chain has {len(schedule)} levels, so at most that many steps, not {steps}.")


def every(schedule: Schedule, steps: int | None = None) -> Level:
    """All levels of a chain."""
    if not isinstance(schedule, Chain):
        raise UsageError("only a discrete chain has a finite number of levels: give a number of steps instead.")
    return schedule.levels


def uniform(schedule: Schedule, steps: int) -> Level:
    """Evenly spaced times from t_max to t_min, both included (diffusers: linspace); on a chain whole indices."""
    _checked(schedule, steps)
    times = torch.linspace(schedule.t_max, schedule.t_min, steps, dtype=torch.float64)
    return _at_times(schedule, schedule.nearest(times))


def trailing(schedule: Schedule, steps: int) -> Level:
    """Evenly spaced times counted from the noisy end: t_max is in, t_min is not (Lin et al. 2024, section 3.3).

    On a chain of T: round(T, T - T/n, …) - 1.
    """
    _checked(schedule, steps)
    end = -1.0 if isinstance(schedule, Chain) else 0.0
    times = torch.linspace(schedule.t_max, end, steps + 1, dtype=torch.float64)[:-1]
    return _at_times(schedule, schedule.nearest(times))


def leading(schedule: Schedule, steps: int) -> Level:
    """Evenly spaced times counted from the clean end: t_min is in, t_max is not (diffusers' leading; DDIM's own).

    On a chain of T: 0, T//n, 2 T//n, …  The first level is less noisy than what the model was trained on at most, so
    pure noise is not quite what belongs there.
    """
    _checked(schedule, steps)
    if isinstance(schedule, Chain):
        times = torch.arange(steps, dtype=torch.float64).flip(0) * (len(schedule) // steps)
    else:
        times = torch.linspace(schedule.t_max, schedule.t_min, steps + 1, dtype=torch.float64)[1:]
    return _at_times(schedule, times)


def _ratio_ends(schedule: Schedule) -> tuple[float, float]:
    """The largest and smallest sigma/alpha of a schedule, cut to 80 and 0.002 as in Karras et al. 2022."""
    ends = schedule([schedule.t_max, schedule.t_min]).ratio
    return min(RATIO_MAX, ends[0].item()), max(RATIO_MIN, ends[1].item())


def _at_ratios(schedule: Schedule, ratios: torch.Tensor) -> Level:
    """On a chain these levels lie between its indices, so their labels are fractions."""
    return _at_times(schedule, schedule.at(-2 * ratios.log()).clamp(schedule.t_min, schedule.t_max))


def karras(schedule: Schedule, steps: int, rho: float = 7.0) -> Level:
    """sigma/alpha spaced evenly in its rho-th root (Karras et al. 2022, eq. 5), within the schedule's own range."""
    _checked(schedule, steps)
    high, low = _ratio_ends(schedule)
    return _at_ratios(schedule, torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=torch.float64) ** rho)


def logsnr(schedule: Schedule, steps: int) -> Level:
    """Log-SNR spaced evenly, sigma/alpha geometrically (DPM-Solver's; k-diffusion: exponential)."""
    _checked(schedule, steps)
    high, low = _ratio_ends(schedule)
    return _at_ratios(schedule, torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64).exp())


def _angle_ends(schedule: Schedule) -> tuple[float, float]:
    """The largest and smallest atan2(sigma, alpha) of a schedule; nothing is cut at the noisy end, where angles are finite."""
    ends = schedule([schedule.t_max, schedule.t_min])
    top, bottom = torch.atan2(ends.sigma, ends.alpha).tolist()
    return top, max(math.atan(RATIO_MIN), bottom)


def _at_angles(schedule: Schedule, angles: torch.Tensor) -> Level:
    """On a chain these levels lie between its indices, so their labels are fractions."""
    times = schedule.at(-2 * torch.tan(angles.clamp(max=math.pi / 2)).log())
    return _at_times(schedule, times.clamp(schedule.t_min, schedule.t_max))


def angle(schedule: Schedule, steps: int) -> Level:
    """atan2(sigma, alpha) spaced evenly down to the clean level, or to the schedule's end where that comes before."""
    _checked(schedule, steps)
    top, bottom = _angle_ends(schedule)
    angles = torch.linspace(top, 0, steps + 1, dtype=torch.float64)[:-1]
    if angles[-1] < bottom:
        angles = torch.linspace(top, bottom, steps, dtype=torch.float64)
    return _at_angles(schedule, angles)


def _beta_quantiles(steps: int, a: float, b: float) -> torch.Tensor:
    """The quantiles 1, 1 - 1/n, … 1/n of a Beta(a, b) distribution, float64.

    With x = sin²(theta) the density is smooth in theta, so its integral is a plain sum; the inverse is interpolated.
    """
    theta = torch.linspace(0, math.pi / 2, BETA_POINTS, dtype=torch.float64)
    middle = (theta[1:] + theta[:-1]) / 2
    mass = torch.cat([torch.zeros(1), (middle.sin() ** (2 * a - 1) * middle.cos() ** (2 * b - 1)).cumsum(0)])
    wanted = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1] * mass[-1]
    above = torch.searchsorted(mass, wanted).clamp(min=1)
    fraction = (wanted - mass[above - 1]) / (mass[above] - mass[above - 1])
    return (theta[above - 1] + fraction * (theta[above] - theta[above - 1])).sin() ** 2


def beta(schedule: Schedule, steps: int) -> Level:
    """Times at the quantiles of Beta(0.6, 0.6): dense at both ends (Lee et al. 2024, section 4)."""
    _checked(schedule, steps)
    return _at_times(schedule, schedule.t_min + _beta_quantiles(steps, 0.6, 0.6) * (schedule.t_max - schedule.t_min))


def angle_beta(schedule: Schedule, steps: int) -> Level:
    """Angles atan2(sigma, alpha) at the quantiles of Beta(0.5, 0.7): dense at both ends, more so at the clean one.

    The same levels for every schedule of the same range.  The two numbers were chosen by measurement, see docs/solvers.md.
    """
    _checked(schedule, steps)
    top, bottom = _angle_ends(schedule)
    return _at_angles(schedule, bottom + _beta_quantiles(steps, 0.5, 0.7) * (top - bottom))


def at_logsnrs(schedule: Schedule, logsnrs: Sequence[float]) -> Level:
    """The levels of given log-SNRs, ascending, such as `aligned.py` finds for a model."""
    times = schedule.at(torch.tensor(logsnrs, dtype=torch.float64)).clamp(schedule.t_min, schedule.t_max)
    return _at_times(schedule, torch.unique(times).flip(0))


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
        raise UsageError(f"{sections!r} is no spacing: write a number (250), numbers for equal sections (10,15,20), or ddim50.")
    counts = [int(count) for count in sections.split(",")]
    indices: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = T // len(counts) + (1 if section < T % len(counts) else 0)
        if not 1 <= count <= size:
            raise UsageError(f"section {section + 1} of the chain has {size} levels, so 1 to {size} steps, not {count}.")
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
    ratio = levels[:-1].ratio
    gamma = min(churn / len(ratio), math.sqrt(2) - 1) * ((ratio >= low) & (ratio <= high)).double()
    raised = schedule(schedule.at(-2 * (ratio * (1 + gamma)).log()).clamp(schedule.t_min, schedule.t_max))
    rows: list[Level] = []
    for level, up in zip(levels[:-1].rows(), raised.rows(), strict=True):
        rows += [level, up] if up.ratio > level.ratio * (1 + 1e-9) else [level]  # the noisiest level cannot be raised
    return Level.of_rows([*rows, levels.rows()[-1]])


def restarted(levels: Level, low: float, high: float, times: int) -> Level:
    """The stretch with sigma/alpha in [low, high] walked `times` more times, jumping back up in between (Xu et al. 2023).

    Raises UsageError where the stretch holds fewer than two levels of the table.
    """
    ratio = levels.ratio
    inside = ((ratio >= low) & (ratio <= high)).nonzero()[:, 0]
    if len(inside) < 2:
        raise UsageError(f"there are {len(inside)} levels with sigma/alpha between {low:g} and {high:g}, nothing to walk again: widen the stretch.")
    rows, first, last = levels.rows(), int(inside[0]), int(inside[-1])
    return Level.of_rows([*rows[: last + 1], *rows[first : last + 1] * times, *rows[last + 1 :]])


def resampled(levels: Level, length: int, times: int) -> Level:
    """Every stretch of `length` steps walked `times` times, jumping back up in between (Lugmayr et al. 2022, appendix B).

    The jumps start at the last noisy level and at every `length` levels above it, but not where there is no room to jump.
    """
    if length < 1 or times < 1:
        raise UsageError(f"jumps of {length} steps and stretches walked {times} times are none: give 1 or more of each.")
    rows, last = levels.rows(), len(levels) - 2
    walked = list[Level]()
    for row in range(last + 1):
        walked.append(rows[row])
        if (last - row) % length == 0 and row >= length:
            walked += rows[row - length : row + 1] * (times - 1)
    return Level.of_rows([*walked, rows[-1]])


GRIDS: dict[str, Callable[[Schedule, int], Level]] = {
    "every": every,
    "uniform": uniform,
    "linspace": uniform,
    "trailing": trailing,
    "leading": leading,
    "karras": karras,
    "logsnr": logsnr,
    "exponential": logsnr,
    "angle": angle,
    "beta": beta,
    "angle_beta": angle_beta,
}


def make_grid(schedule: Schedule, grid: str, steps: int) -> Level:
    """The grid called `grid`: one of GRIDS, or a spacing of the papers such as "250", "10,15,20" or "ddim50"."""
    if grid in GRIDS:
        return GRIDS[grid](schedule, steps)
    if re.fullmatch(r"(ddim)?\d+(,\d+)*", grid):
        return respaced(schedule, grid)
    raise UsageError(f"there is no grid {grid!r}: choose one of {', '.join(GRIDS)}, or a spacing like 250, 10,15,20 or ddim50.")
