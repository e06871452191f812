"""The probability-flow ODE by an adaptive Runge-Kutta method (Dormand & Prince 1980, from torchdiffeq).

It integrates process/flow.py's equation between the levels of the table, and from the last noisy one down to the
schedule's least noisy level, where a DDIM step ends.  A table of pure noise and the clean level is enough.  Step sizes
follow the error of the whole batch: an example is the same beside others only to within the tolerance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.process.probability_flow import angle_of, norm_of, times_as, velocity
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.solvers.base import NoiseSource, Solver, Step
from undiffuse.system import optional


@dataclass(frozen=True)
class Adaptive(Solver):
    """rtol, atol: of each of its own steps.   evaluations: as many as it takes, so 0 here."""

    schedule: Schedule
    rtol: float = 1e-4
    atol: float = 1e-4
    evaluations: int = 0
    without_jumps: ClassVar[str] = (
        "CFG++ and epsilon_from 'unclipped' are jumps between the steps of a solver, and 'adaptive' integrates a flow without any: "
        "take another solver, such as ddim, or leave them out."
    )

    def plan(self, levels: Level) -> Sequence[tuple[Level, Level]]:
        rows = levels.rows()
        return list(zip(rows, rows[1:], strict=False))

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: tuple[Level, Level], noise: NoiseSource, state: None) -> Step:
        here, there = row
        posterior = denoise(x_t, here)
        if posterior.kept_eps is not None:
            raise UsageError(self.without_jumps)
        stop = there if there.sigma > 0 else self.schedule(self.schedule.t_min)
        x = x_t
        if there.sigma > 0 or stop.logsnr > here.logsnr:  # up as well as down, but not up to where a DDIM step ends
            x = self._integrated(x_t, denoise, here, stop)
        if there.sigma > 0:
            return Step(x, posterior)
        last = posterior if x is x_t else denoise(x, stop)
        return Step(last.mean * float(there.alpha), last)

    def _integrated(self, x_t: Tensor, denoise: DenoiserFn, here: Level, stop: Level) -> Tensor:
        def field(phi: Tensor, y: Tensor) -> Tensor:
            return velocity(denoise, self.schedule, phi, y)[0]

        span = torch.stack([angle_of(here), angle_of(stop)]).to(x_t)
        y = x_t / broadcast_to(norm_of(here), x_t)
        y = optional("torchdiffeq").odeint(
            field, y, span, rtol=self.rtol, atol=self.atol, method="dopri5", options=times_as(x_t)
        )[-1]
        out: Tensor = y * broadcast_to(norm_of(stop), x_t)
        return out
