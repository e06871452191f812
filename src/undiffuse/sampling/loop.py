"""The one sampling loop: from noise, along a grid of levels, to data.

A generator, so that progress bars, previews, servers and tests watch the same loop.  Noise is a function of the seed,
the example and the place alone (noises.py): an example is the same whatever is drawn beside it, and a trajectory taken
up at row r from its x and its solver's state is the rest of the same trajectory.

A grid may also step back up to a noisier level, as stochastic samplers do (grids.py: churned, restarted).  Such a step
is one of the forward process and needs no network; the solver then starts afresh, without a history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from undiffuse.errors import Failure, UsageError
from undiffuse.process.forward import forward_step as forward_step
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.rng import NoiseStream
from undiffuse.sampling.noise import Brownian, Independent, NoiseSequence
from undiffuse.sampling.solvers.base import Solver, Step

NoiseKind = Literal["independent", "brownian"]


@dataclass(frozen=True)
class SamplerStep:
    """One step of a reverse trajectory.

    row: of the grid, that x_t was at; total: number of steps.   level: of x_t.
    x_t: before the step.   x0: x̂, the estimate of x_0 there.   x: after the step; (B, ...) each.   state: the solver's.
    """

    row: int
    total: int
    level: Level
    x_t: Tensor
    x0: Tensor
    x: Tensor
    state: Any


def initial(levels: Level, shape: Sequence[int], seed: int, index: Tensor) -> Tensor:
    """x at the first level of a grid: sigma · noise, (len(index), *shape).

    The data's share, alpha · x_0, is left out, as every sampler of the papers does; where alpha is not small the
    grid should start noisier.
    """
    noise = standard_normal(shape, seed, index, step=0, stream=NoiseStream.INITIAL)
    return broadcast_to(levels.sigma[0], noise) * noise


def segments(levels: Level) -> list[tuple[int, int]]:
    """The stretches of a table (first row, last row) along which it gets ever cleaner."""
    logsnr = levels.logsnr.tolist()
    breaks = [row + 1 for row in range(len(levels) - 1) if logsnr[row + 1] <= logsnr[row]]
    return list(zip([0, *breaks], [b - 1 for b in breaks] + [len(levels) - 1], strict=True))


def trajectory(
    x: Tensor,
    denoise: DenoiserFn,
    levels: Level,
    solver: Solver,
    *,
    seed: int,
    index: Tensor,
    noise: NoiseKind | NoiseSequence = "independent",
    s_noise: float = 1.0,
    start: int = 0,
    state: Any = None,
) -> Iterator[SamplerStep]:
    """Solves x (B, ...) from row `start` of `levels` to its last row.

    index: int64 (B,) on the device of x: which example of the seed each row of x is.
    noise: a kind of the seed's, or draws made elsewhere (recording.py).   s_noise: what multiplies the noise of going back up, EDM's
    S_noise (Karras et al. 2022, Algorithm 2), a little above 1 against the detail that networks lose.
    Gradients are not recorded.
    """
    steps, rows = len(levels) - 1, levels.rows()
    plan: dict[int, Any] = {}
    for first, last in segments(levels):
        plan |= _planned(solver, levels, first, last) if last > first else {}
    draws = noise if isinstance(noise, NoiseSequence) else _made(noise, x, seed, index, levels)
    clean = x
    for row in range(start, steps):
        x_t = x
        with torch.no_grad():
            if row in plan:
                step = _checked(solver, solver.step(x_t, denoise, plan[row], partial(draws.at, row), state), x_t)
                x, clean, state = step.x, step.posterior.mean, step.state
            else:
                fresh = standard_normal(x.shape[1:], seed, index, row, NoiseStream.RAISE).to(x) * s_noise
                x, state = forward_step(x_t, rows[row], rows[row + 1], fresh), None
        yield SamplerStep(row, steps, rows[row], x_t, clean, x, state)


def _planned(solver: Solver, levels: Level, first: int, last: int) -> dict[int, Any]:
    """The solver's rows for the steps from level `first` to `last`. Raises UsageError for another number of them."""
    plan = solver.plan(levels[first : last + 1])
    try:
        found = len(plan)
    except TypeError:
        found = -1
    if found != last - first:
        raise UsageError(
            f"the plan of the solver {type(solver).__name__} is {plan!r:.60}, and has to be a sequence of {last - first} rows, one for each step."
        )
    return dict(enumerate(plan, start=first))


def _checked(solver: Solver, step: Any, x_t: Tensor) -> Step:
    """What a solver returned. Raises UsageError for anything but a Step whose x and x̂ are like x_t."""
    name = f"the solver {type(solver).__name__}"
    if not isinstance(step, Step):
        raise UsageError(f"{name} returned a {type(step).__name__}: `step` returns a Step(x, posterior, state).")
    for what, value in (("x", step.x), ("posterior.mean", getattr(step.posterior, "mean", None))):
        if not isinstance(value, Tensor) or value.shape != x_t.shape or value.dtype != x_t.dtype:
            found = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(f"{name} returned {what} as {found}, and x_t is {tuple(x_t.shape)} of {x_t.dtype}.")
    return step


def _made(kind: NoiseKind, x: Tensor, seed: int, index: Tensor, levels: Level) -> NoiseSequence:
    return Independent(x, seed, index, len(levels) - 1) if kind == "independent" else Brownian(x, seed, index, levels)


class Counter:
    """Counts the steps of several trajectories.   progress: called with (done, total) after each."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None = None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def counted(self, steps: Iterator[SamplerStep]) -> Iterator[SamplerStep]:
        """The same steps, each counted and reported."""
        for step in steps:
            self.done += 1
            if self.progress:
                self.progress(self.done, self.total)
            yield step


def final(steps: Iterator[SamplerStep]) -> Tensor:
    """The end of a trajectory. Raises Failure where it holds numbers that are not finite: no picture can be made of these."""
    for step in steps:
        last = step.x
    return require_finite(last)


def require_finite(x: Tensor) -> Tensor:
    """x (B, ...) as it is. Raises Failure where it holds numbers that are NaN or infinite."""
    good = x.isfinite().flatten(1).all(1)
    if not good.all():
        raise Failure(
            f"{int((~good).sum())} of {len(x)} examples ended in numbers that are NaN or infinite: guide less, clip the clean "
            "estimate to its range, take more steps, or use another model."
        )
    return x
