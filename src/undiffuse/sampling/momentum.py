"""Momentum of guidance: what adaptive projected guidance remembers of the steps before (Sadat et al. 2025, APG, Algorithm 1).

Guidance moves along Δ = x̂_c - x̂_u.  With momentum it moves along a running difference instead,

    Δ_t ← Δ_t + beta · Δ of the step before,        beta < 0: what earlier steps have pushed already is pushed less.

A Denoise has no memory, but a solver has its state.  So the running difference travels in the solver's state: each step
makes the Denoise anew around what the state holds and takes the new difference from it, and a trajectory taken up in the
middle from its state is the rest of the same one.  Nothing is kept between steps but the state, so any number of
trajectories may use one Denoise and one solver, at once or in turn.  Of several evaluations in one step the first, at x_t,
makes the difference that is handed on.  Where a step is not guided, outside an interval or back up to a noisier level, the
memory ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import DenoiserFn, Posterior
from undiffuse.sampling.solvers.base import NoiseSource, Solver, Step


@dataclass
class Running:
    """The running difference during one step.   share: beta.   before: of the step before; after: of this one."""

    share: float
    before: Tensor | None = None
    after: Tensor | None = None

    def added(self, difference: Tensor) -> Tensor:
        """The difference with the share of what came before."""
        total = difference if self.before is None else difference.add(self.before, alpha=self.share)
        if self.after is None:
            self.after = total.detach()
        return total


@dataclass(frozen=True)
class Remembering:
    """A Denoise with guidance by momentum.   build: it, around the running difference of a step.   share: beta.

    Called by itself it remembers no step before.
    """

    build: Callable[[Running], DenoiserFn]
    share: float

    def __call__(self, x_t: Tensor, level: Level) -> Posterior:
        return self.build(Running(self.share))(x_t, level)


@dataclass(frozen=True)
class WithMomentum(Solver):
    """A solver whose state carries the running difference of a `Remembering`."""

    inner: Solver

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.inner.evaluations

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.inner.stochastic

    def plan(self, levels: Level) -> Sequence[Any]:
        return self.inner.plan(levels)

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: Any, noise: NoiseSource, state: Any) -> Step:
        """Raises UsageError for a Denoise that is no Remembering."""
        if not isinstance(denoise, Remembering):
            raise UsageError(
                "this solver carries the momentum of guidance, and there is none in this Denoise: take its inner solver."
            )
        inner, before = (None, None) if state is None else state
        running = Running(denoise.share, before)
        step = self.inner.step(x_t, denoise.build(running), row, noise, inner)
        return replace(step, state=(step.state, running.after))
