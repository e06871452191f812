"""Momentum of guidance: what adaptive projected guidance remembers of the steps before (Sadat et al. 2025, APG, Algorithm 1).

Guidance moves along Δ = x̂_c - x̂_u.  With momentum it moves along a running difference instead,

    Δ_t ← Δ_t + beta · Δ of the step before,        beta < 0: what earlier steps have pushed already is pushed less.

A Denoise has no memory, but a solver has its state.  So the running difference travels in the solver's state: each step
lays it where guidance finds it and takes the new one from there, and a trajectory taken up in the middle from its state is
the rest of the same one.  Of several evaluations in one step the first, at x_t, makes the difference that is handed on.
Where a step is not guided, outside an interval or back up to a noisier level, the memory ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from undiffuse.process.levels import Level
from undiffuse.process.posteriors import Denoise
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
            self.after = total
        return total


@dataclass(frozen=True)
class WithMomentum(Solver):
    """A solver whose state carries the running difference of the guidance that shares `running` with it."""

    inner: Solver
    running: Running

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.inner.evaluations

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.inner.stochastic

    def plan(self, levels: Level) -> Sequence[Any]:
        return self.inner.plan(levels)

    def step(self, x_t: Tensor, denoise: Denoise, row: Any, noise: NoiseSource, state: Any) -> Step:
        inner, self.running.before = (None, None) if state is None else state
        self.running.after = None
        step = self.inner.step(x_t, denoise, row, noise, inner)
        return replace(step, state=(step.state, self.running.after))
