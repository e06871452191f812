"""Predictor and corrector: Langevin steps at a level before a solver leaves it.

A Langevin step leaves the distribution at a level as it is and pulls a sample that has strayed back towards it
(Song et al. 2021, Algorithm 4-5):

    x <- x + delta score + sqrt(2 delta) z,     score = -eps/sigma,     delta = 2 (r |z| / |score|)²

r is the signal-to-noise ratio of the step.  The reference code takes both norms as means over a batch, which makes a
sample depend on its neighbours; each example's own norms would correlate the step with its direction, which moves the
distribution.  Here they are their values for a level, |z|² = d and |score|² = |eps|²/sigma² = d/sigma², so that

    delta = 2 (r sigma)².
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.sampling.solvers.base import NoiseSource, Solver, Step, combination


@dataclass(frozen=True)
class _Row:
    here: Level
    level: tuple[float, float]
    inner: Any


@dataclass(frozen=True)
class Langevin(Solver):
    """inner: the predictor, one without a history.   steps: of Langevin at each level.   ratio: r."""

    inner: Solver
    steps: int = 1
    ratio: float = 0.16
    stochastic: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UsageError(f"a corrector takes at least 1 step at each level, not {self.steps}.")

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        return self.inner.evaluations + self.steps

    def plan(self, levels: Level) -> Sequence[_Row]:
        pairs = zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True)
        return [_Row(*row) for row in zip(levels.rows(), pairs, self.inner.plan(levels), strict=False)]

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: _Row, noise: NoiseSource, state: Any) -> Step:
        sigma = row.level[1]
        for k in range(self.steps):
            drift = combination(denoise(x_t, row.here), x_t, row.level, 0.0, -2 * self.ratio**2 * sigma)
            x_t = (x_t + drift).add_(noise(1 + k), alpha=2 * self.ratio * sigma)
        return self.inner.step(x_t, denoise, row.inner, noise, state)
