"""The one sampling loop: from noise, along a grid of levels, to data.

A generator, so that progress bars, previews, servers and tests watch the same loop.  The noise of example k at row r of
the grid is a function of (seed, k, r) alone (process/noise.py): an example is the same whatever is drawn beside it,
and a trajectory taken up at row r from its x is the rest of the same trajectory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from undiffuse.process.bridges import Bridge
from undiffuse.process.levels import Level, meet
from undiffuse.process.noise import standard_normal
from undiffuse.process.posteriors import Denoise
from undiffuse.sampling.solvers import Move, Solver

INITIAL_STREAM, STEP_STREAM = 0, 1


@dataclass(frozen=True)
class Moment:
    """One step of a reverse trajectory.

    row: of the grid, that x_t was at; total: number of steps.   level: of x_t.
    x_t: before the step.    clean: x̂, the belief about x_0 there.    x: after the step.   state: the solver's.
    """

    row: int
    total: int
    level: Level
    x_t: Tensor
    clean: Tensor
    x: Tensor
    state: Any


def initial(levels: Level, shape: Sequence[int], seed: int, index: Tensor) -> Tensor:
    """x at the first level of a grid: sigma · noise, (len(index), *shape).

    The data's share, alpha · x_0, is left out, as every sampler of the papers does; where alpha is not small the
    grid should start noisier.
    """
    noise = standard_normal(shape, seed, index, step=0, stream=INITIAL_STREAM)
    return meet(levels.sigma[0], noise) * noise


def trajectory(
    x: Tensor, denoise: Denoise, levels: Level, solver: Solver, *, seed: int, index: Tensor,
    start: int = 0, state: Any = None,
) -> Iterator[Moment]:  # fmt: skip
    """Walks x (B, ...) from row `start` of `levels` to its last row, the clean level.

    index: int64 (B,) on the device of x: which example of the seed each row of x is.
    Gradients are not recorded.
    """
    steps, rows, bridges = len(levels) - 1, levels.rows(), Bridge.table(levels).rows()
    noise = _StepNoise(x, seed, index, steps)
    for row in range(start, steps):
        move = Move(rows[row], rows[row + 1], bridges[row])
        with torch.no_grad():
            step = solver.step(x, denoise, move, partial(noise.at, row), state)
        yield Moment(row, steps, move.here, x, step.posterior.mean, step.x, step.state)
        x, state = step.x, step.state


class _StepNoise:
    """The noise of each row of a grid, made for several rows at once: a small tensor costs as much as a larger one."""

    AT_ONCE = 2**16  # numbers

    def __init__(self, x: Tensor, seed: int, index: Tensor, steps: int) -> None:
        self.shape, self.dtype, self.seed, self.index, self.steps = x.shape, x.dtype, seed, index, steps
        self.count = max(1, self.AT_ONCE // max(1, x.numel()))
        self.first, self.made = 0, x.new_empty(0)

    def at(self, row: int) -> Tensor:
        if not self.first <= row < self.first + len(self.made):
            self.first = row
            rows = torch.arange(row, min(row + self.count, self.steps), device=self.index.device)
            index, step = self.index.repeat(len(rows)), rows.repeat_interleave(len(self.index))
            normal = standard_normal(self.shape[1:], self.seed, index, step, STEP_STREAM)
            self.made = normal.to(self.dtype).reshape(len(rows), *self.shape)
        return self.made[row - self.first]


def final(moments: Iterator[Moment]) -> Tensor:
    """The end of a trajectory."""
    for moment in moments:
        last = moment.x
    return last
