"""Solvers that put the posterior into the bridge, and those that keep part of the noise.

Ancestral   a draw from p(x_s | x_t), the posterior of x_0 put into the bridge (Ho et al. 2020, Algorithm 2),
            with the model's variance or the one the user sets.  Exact for respaced chains, because the
            bridge is that of the two levels given.
DDIM        x_s = alpha_s x̂ + sqrt(sigma_s² - eta² small) eps + eta sqrt(small) z        (Song et al. 2021, eq. 12)
            eta = 0 is the probability-flow ODE, eta = 1 equals Ancestral with fixed_small.  In sigma/alpha these are
            the steps called Euler and Euler-ancestral (Karras et al. 2022, k-diffusion).
LCM         x_s = alpha_s x̂ + sigma_s z, all noise anew: for models that need few steps, whose x̂ is as good as a sample
            (Song et al. 2023, consistency models, Algorithm 1; Luo et al. 2023).  On one level's x̂ it is DDIM with the
            whole of sigma_s fresh, which is more than eta = 1 draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.bridges import Bridge
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import DenoiserFn, FixedVariance, Posterior, Variance
from undiffuse.sampling.solvers.base import Move, NoiseSource, Solver, Step, combination, jump, moves


@dataclass(frozen=True)
class _Push:
    """A transition's coefficients.   small, large: of its log-variance."""

    move: Move
    level: tuple[float, float]
    on_x: float
    on_xt: float
    small: float
    large: float
    last: bool


@dataclass(frozen=True)
class Ancestral(Solver):
    """variance: None for the model's own, else the fraction f between fixed_small (0) and fixed_large (1)."""

    variance: float | None = None
    stochastic: bool = True

    def plan(self, levels: Level) -> Sequence[_Push]:
        columns = (
            getattr(Bridge.table(levels), name).tolist()
            for name in ("on_x", "on_xt", "log_small", "log_large", "into_clean")
        )
        pairs = zip(levels.alpha[:-1].tolist(), levels.sigma[:-1].tolist(), strict=True)
        return [
            _Push(move, pair, *row)
            for move, pair, row in zip(moves(levels), pairs, zip(*columns, strict=True), strict=True)
        ]

    def log_variance(self, posterior: Posterior, row: _Push, x_t: Tensor) -> Tensor:
        """Of the step that `row` describes, broadcastable to x_t."""
        spread: Variance = posterior.variance if self.variance is None else FixedVariance(self.variance)
        return spread.log_variance(row.move.bridge, x_t)

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: _Push, noise: NoiseSource, state: Any) -> Step:
        posterior = denoise(x_t, row.move.here)
        x = (jump(posterior, x_t, row.level) * row.on_xt).add_(posterior.mean, alpha=row.on_x)
        if row.last:
            return Step(x, posterior)
        spread: Variance = posterior.variance if self.variance is None else FixedVariance(self.variance)
        if isinstance(spread, FixedVariance):  # a number, and no tensor of the size of x
            return Step(
                x.add_(noise(0), alpha=math.exp((row.small + spread.fraction * (row.large - row.small)) / 2)), posterior
            )
        return Step(x.addcmul_((spread.log_variance(row.move.bridge, x_t) / 2).exp(), noise(0)), posterior)


@dataclass(frozen=True)
class _Split:
    here: Level
    level: tuple[float, float]
    on_clean: float
    on_eps: float
    on_noise: float


@dataclass(frozen=True)
class DDIM(Solver):
    """eta: 0 deterministic … 1 as noisy as the ancestral chain with fixed_small."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UsageError(f"eta must lie between 0 (deterministic) and 1 (ancestral), but is {self.eta}.")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        return self.eta > 0

    def plan(self, levels: Level) -> Sequence[_Split]:
        # without noise a table may also ascend, to pure noise, where the bridge has no variance
        small = (
            self.eta**2 * Bridge.table(levels).small if self.eta else torch.zeros(len(levels) - 1, dtype=torch.float64)
        )
        on_eps, on_noise = (levels.sigma[1:] ** 2 - small).clamp(min=0).sqrt().tolist(), small.sqrt().tolist()
        pairs = list(zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True))
        return [
            _Split(here, pairs[k], pairs[k + 1][0], on_eps[k], on_noise[k]) for k, here in enumerate(levels.rows()[:-1])
        ]

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: _Split, noise: NoiseSource, state: Any) -> Step:
        posterior = denoise(x_t, row.here)
        if not row.on_eps and not row.on_noise:
            return Step(posterior.mean * row.on_clean, posterior)
        x = combination(posterior, x_t, row.level, row.on_clean, row.on_eps)
        return Step(x.add_(noise(0), alpha=row.on_noise) if row.on_noise else x, posterior)


@dataclass(frozen=True)
class LCM(Solver):
    """Each step noises x̂ anew."""

    stochastic: bool = True
    without_jumps: ClassVar[str] = (
        "CFG++ and epsilon_from 'unclipped' choose the noise that sampling continues with, and 'lcm' keeps none: "
        "take another solver, such as ddim, or leave them out."
    )

    def plan(self, levels: Level) -> Sequence[tuple[Level, float, float]]:
        return list(zip(levels.rows(), levels.alpha[1:].tolist(), levels.sigma[1:].tolist(), strict=False))

    def step(
        self, x_t: Tensor, denoise: DenoiserFn, row: tuple[Level, float, float], noise: NoiseSource, state: Any
    ) -> Step:
        here, alpha, sigma = row
        posterior = denoise(x_t, here)
        if posterior.kept_eps is not None:
            raise UsageError(self.without_jumps)
        x = posterior.mean * alpha
        return Step(x.add_(noise(0), alpha=sigma) if sigma else x, posterior)
