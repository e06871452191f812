"""Spacings: grids that place their own levels, each evenly in some coordinate of the noise.

    spacing                             coordinate
    uniform, time_uniform, trailing     time
    karras                              the rho-th root of sigma/alpha
    logsnr, polyexponential             log sigma/alpha
    angle, angle_beta                   atan2(sigma, alpha)

Each has two ends of its own.  Others can be given, as `sigma_max` and `sigma_min`, where the first and the last noisy level
lie: the levels are then moved along their coordinate by the one line that brings the ends there,

    c -> c_min + (c - c_last)/(c_first - c_last) · (c_max - c_min).

For karras that is Karras et al. 2022, eq. 5, with other ends.  Which last noisy level is best is a question of the network:
from there the sampler jumps to x̂, and leaves out whatever the network does not know of less noise.

A chain has levels between its indices as well.  This library interpolates the angle atan2(sigma, alpha) there (chains.py); other
programs interpolate sigma/alpha (diffusers' EulerDiscreteScheduler, "linear") or its logarithm (k-diffusion, "log_linear"), at
times that are not rounded to whole indices, and the network receives the fraction.  `interpolation` does as they do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.schedules import Schedule

RATIO_MAX, RATIO_MIN = 80.0, 0.002  # of sigma/alpha
BETA_POINTS = 4097


GridInterpolation = Literal["linear", "log_linear"]


@dataclass(frozen=True)
class GridSettings:
    """The settings of spacings; None for a spacing's own.

    sigma_max, sigma_min: sigma/alpha (EDM's sigma) of the first and of the last noisy level, cut to the schedule's own
    range.  On a chain, grids of whole indices take the nearest.  Of a single step, sigma_max alone counts.
    rho: of karras (7) and polyexponential (1).   steps_offset: of leading on a chain, added to every index (0; 1 in Stable Diffusion).
    interpolation: of a chain between its indices, see above; None for the angle, and whole indices where a grid has them.
    """

    sigma_max: float | None = None
    sigma_min: float | None = None
    rho: float | None = None
    steps_offset: int | None = None
    interpolation: GridInterpolation | None = None


OWN = GridSettings()
OWNERS = {"rho": ("karras", "polyexponential"), "steps_offset": ("leading",)}
"""The settings that only some spacings have."""
Spacing = Callable[[Schedule, int, GridSettings], Level]


def checked(schedule: Schedule, steps: int) -> None:
    """Raises UsageError for no steps, or more than a chain has levels."""
    if steps < 1:
        raise UsageError(f"sampling needs at least one step, but steps = {steps}.")
    if isinstance(schedule, Chain) and steps > len(schedule):
        raise UsageError(f"the model's chain has {len(schedule)} levels, so at most that many steps, not {steps}.")


def _moved(own: Tensor, schedule: Schedule, s: GridSettings, of: Callable[[Tensor], Tensor]) -> Tensor:
    """A spacing's own places, moved to the ends that are set.   own: (n,), noisiest first.   of: the coordinate of a sigma/alpha."""
    if s.sigma_max is None and s.sigma_min is None:
        return own
    most, least = schedule([schedule.t_max, schedule.t_min]).sigma_edm
    first = own[0] if s.sigma_max is None else of(most.clamp(max=s.sigma_max))
    last = own[-1] if s.sigma_min is None else of(least.clamp(min=s.sigma_min))
    if len(own) == 1:
        return first[None]
    if first <= last:
        ends = {"sigma_max": s.sigma_max, "sigma_min": s.sigma_min}
        chosen = " and ".join(f"{name} = {value:g}" for name, value in ends.items() if value is not None)
        raise UsageError(
            f"with {chosen} the grid would not end below the level that it starts at: give a larger sigma_max, or a smaller sigma_min."
        )
    return torch.lerp(last.expand(len(own)), first.expand(len(own)), (own - own[-1]) / (own[0] - own[-1]))


def _known(schedule: Schedule, s: GridSettings) -> Tensor:
    """What is interpolated between the indices of a chain, ascending (T,)."""
    if not isinstance(schedule, Chain):
        raise UsageError(
            f"interpolation {s.interpolation!r} is between the levels of a discrete chain, and this schedule is none: leave it out."
        )
    ratio = schedule.levels.sigma_edm[:-1].flip(0)
    if ratio[-1].isinf():
        raise UsageError(
            "sigma/alpha of a chain that ends in pure noise cannot be interpolated up to there: leave interpolation out."
        )
    return ratio if s.interpolation == "linear" else ratio.log()


def _time_of(schedule: Schedule, s: GridSettings) -> Callable[[Tensor], Tensor]:
    """sigma/alpha → times, those of a chain between its indices."""
    if s.interpolation is None:
        return lambda ratio: schedule.at(-2 * ratio.log()).clamp(schedule.t_min, schedule.t_max)
    known = _known(schedule, s)

    def time_of(ratio: Tensor) -> Tensor:
        value = (ratio if s.interpolation == "linear" else ratio.log()).clamp(known[0], known[-1])
        above = torch.searchsorted(known, value).clamp(1, len(known) - 1)
        return above - 1 + (value - known[above - 1]) / (known[above] - known[above - 1])

    return time_of


def _at_times(schedule: Schedule, times: Tensor, s: GridSettings) -> Level:
    if s.interpolation is None:
        return schedule(times).and_clean()
    known = _known(schedule, s)
    below = times.floor().long().clamp(0, len(known) - 2)
    value = torch.lerp(known[below], known[below + 1], times - below)
    ratio = value if s.interpolation == "linear" else value.exp()
    return Level(*schedule.family(-2 * ratio.log()), schedule.timestep(times)).and_clean()


def _at_whole(schedule: Schedule, times: Tensor, s: GridSettings) -> Level:
    """On a chain the indices nearest to these times. Raises UsageError where two of them are the same."""
    if s.interpolation is not None:
        return _at_times(schedule, times.clamp(schedule.t_min, schedule.t_max), s)
    nearest = schedule.nearest(times)
    if (nearest.diff() >= 0).any():
        count = int(nearest[0] - nearest[-1]) + 1
        raise UsageError(
            f"the chain has {count} levels between the first and the last one requested, so at most that many steps, not {len(times)}."
        )
    return schedule(nearest).and_clean()


def uniform(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """Evenly spaced times from t_max to t_min, both included (diffusers: linspace); on a chain whole indices."""
    checked(schedule, steps)
    times = torch.linspace(schedule.t_max, schedule.t_min, steps, dtype=torch.float64)
    return _at_whole(schedule, _moved(times, schedule, s, _time_of(schedule, s)), s)


def time_uniform(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """Evenly spaced times from t_max towards t_min, which is left out (DPM-Solver's time_uniform; diffusers' linspace of its DPM-Solver).

    With final_sigma "schedule" t_min is where it ends, as in DPM-Solver's code.
    """
    checked(schedule, steps)
    times = torch.linspace(schedule.t_max, schedule.t_min, steps + 1, dtype=torch.float64)[:-1]
    return _at_whole(schedule, _moved(times, schedule, s, _time_of(schedule, s)), s)


def trailing(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """Evenly spaced times counted from the noisy end: t_max is in, t_min is not (Lin et al. 2024, section 3.3).

    On a chain of T: round(T, T - T/n, …) - 1, halves to the even number, as NumPy rounds in the released code.
    """
    checked(schedule, steps)
    left = torch.arange(steps, 0, -1, dtype=torch.float64)  # of n parts of the way
    if not isinstance(schedule, Chain):
        times = torch.linspace(schedule.t_max, 0.0, steps + 1, dtype=torch.float64)[:-1]
        return _at_whole(schedule, _moved(times, schedule, s, _time_of(schedule, s)), s)
    counted = len(schedule) * left / steps  # one division of whole numbers, so that halves are exact
    counted = _moved(counted, schedule, s, lambda ratio: _time_of(schedule, s)(ratio) + 1)
    return _at_whole(schedule, (counted.round() if s.interpolation is None else counted) - 1, s)


def leading(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """Evenly spaced times counted from the clean end: t_min is in, t_max is not (diffusers' leading; DDIM's own).

    On a chain of T: 0, T//n, 2 T//n, …  The first level is less noisy than what the model was trained on at most, so
    pure noise is not quite what belongs there.
    """
    checked(schedule, steps)
    offset = s.steps_offset or 0
    if isinstance(schedule, Chain):
        times = torch.arange(steps, dtype=torch.float64).flip(0) * (len(schedule) // steps) + offset
        if times[0] > schedule.t_max:
            raise UsageError(
                f"steps_offset = {offset} lifts the first level above the chain's last index {schedule.t_max:g}: give a smaller one."
            )
    elif offset:
        raise UsageError(
            "steps_offset counts the indices of a discrete chain, and this schedule has none: leave it out."
        )
    else:
        times = torch.linspace(schedule.t_max, schedule.t_min, steps + 1, dtype=torch.float64)[1:]
    return _at_whole(schedule, _moved(times, schedule, s, _time_of(schedule, s)), s)


def _ratio_ends(schedule: Schedule) -> tuple[float, float]:
    """The largest and smallest sigma/alpha of a schedule, cut to 80 and 0.002 as in Karras et al. 2022."""
    ends = schedule([schedule.t_max, schedule.t_min]).sigma_edm
    return min(RATIO_MAX, ends[0].item()), max(RATIO_MIN, ends[1].item())


def _at_ratios(schedule: Schedule, ratios: Tensor, s: GridSettings) -> Level:
    """On a chain these levels lie between its indices, so their labels are fractions."""
    return _at_times(schedule, _time_of(schedule, s)(ratios), s)


def karras(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """sigma/alpha spaced evenly in its rho-th root (Karras et al. 2022, eq. 5), from 80 to 0.002 at most; rho 7."""
    checked(schedule, steps)
    high, low = _ratio_ends(schedule)
    rho = 7.0 if s.rho is None else s.rho
    roots = torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=torch.float64)
    return _at_ratios(schedule, _moved(roots, schedule, s, lambda ratio: ratio ** (1 / rho)) ** rho, s)


def logsnr(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """Log-SNR spaced evenly, sigma/alpha geometrically (DPM-Solver's; k-diffusion: exponential)."""
    checked(schedule, steps)
    high, low = _ratio_ends(schedule)
    logs = torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64)
    return _at_ratios(schedule, _moved(logs, schedule, s, torch.log).exp(), s)


def polyexponential(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """log sigma/alpha as a power of the steps left, more of them at the clean end with a larger one (k-diffusion); rho 1."""
    checked(schedule, steps)
    high, low = _ratio_ends(schedule)
    ramp = torch.linspace(1, 0, steps, dtype=torch.float64) ** (1.0 if s.rho is None else s.rho)
    logs = math.log(low) + ramp * (math.log(high) - math.log(low))
    return _at_ratios(schedule, _moved(logs, schedule, s, torch.log).exp(), s)


def _angle_ends(schedule: Schedule) -> tuple[float, float]:
    """The largest and smallest atan2(sigma, alpha) of a schedule; nothing is cut at the noisy end, where angles are finite."""
    ends = schedule([schedule.t_max, schedule.t_min])
    top, bottom = torch.atan2(ends.sigma, ends.alpha).tolist()
    return top, max(math.atan(RATIO_MIN), bottom)


def _at_angles(schedule: Schedule, angles: Tensor, s: GridSettings) -> Level:
    return _at_ratios(schedule, torch.tan(angles.clamp(max=math.pi / 2)), s)


def angle_spacing(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """atan2(sigma, alpha) spaced evenly down to the clean level, or to the schedule's end where that comes before."""
    checked(schedule, steps)
    top, bottom = _angle_ends(schedule)
    angles = torch.linspace(top, 0, steps + 1, dtype=torch.float64)[:-1]
    if angles[-1] < bottom:
        angles = torch.linspace(top, bottom, steps, dtype=torch.float64)
    return _at_angles(schedule, _moved(angles, schedule, s, torch.atan), s)


def _beta_quantiles(steps: int, a: float, b: float) -> Tensor:
    """The quantiles 1, 1 - 1/n, … 1/n of a Beta(a, b) distribution, float64.

    With x = sin²(theta) the density is smooth in theta, so its integral is a plain sum; the inverse is interpolated.
    """
    theta = torch.linspace(0, math.pi / 2, BETA_POINTS, dtype=torch.float64)
    middle = (theta[1:] + theta[:-1]) / 2
    mass = torch.cat([torch.zeros(1), (middle.sin() ** (2 * a - 1) * middle.cos() ** (2 * b - 1)).cumsum(0)])
    targets = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1] * mass[-1]
    above = torch.searchsorted(mass, targets).clamp(min=1)
    fraction = (targets - mass[above - 1]) / (mass[above] - mass[above - 1])
    return (theta[above - 1] + fraction * (theta[above] - theta[above - 1])).sin() ** 2


def beta(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """Times at the quantiles of Beta(0.6, 0.6): dense at both ends (Lee et al. 2024, section 4)."""
    checked(schedule, steps)
    times = schedule.t_min + _beta_quantiles(steps, 0.6, 0.6) * (schedule.t_max - schedule.t_min)
    return _at_times(schedule, _moved(times, schedule, s, _time_of(schedule, s)), s)


def angle_beta(schedule: Schedule, steps: int, s: GridSettings = OWN) -> Level:
    """Angles atan2(sigma, alpha) at the quantiles of Beta(0.5, 0.7): dense at both ends, more so at the clean one.

    The same levels for every schedule of the same range.  The two numbers were chosen by measurement, see docs/measurements/solvers.md.
    """
    checked(schedule, steps)
    top, bottom = _angle_ends(schedule)
    return _at_angles(
        schedule, _moved(bottom + _beta_quantiles(steps, 0.5, 0.7) * (top - bottom), schedule, s, torch.atan), s
    )


SPACINGS: dict[str, Spacing] = {
    "uniform": uniform,
    "linspace": uniform,
    "time_uniform": time_uniform,
    "trailing": trailing,
    "leading": leading,
    "karras": karras,
    "logsnr": logsnr,
    "exponential": logsnr,
    "polyexponential": polyexponential,
    "angle": angle_spacing,
    "beta": beta,
    "angle_beta": angle_beta,
}
