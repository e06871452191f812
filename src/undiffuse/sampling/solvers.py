"""Solvers: x_t, Denoise, here, there -> x_s.  What walks from one level to the next cleaner one.

Ancestral   a draw from p(x_s | x_t), the belief about x_0 pushed through the bridge (Ho et al. 2020, Algorithm 2),
            with whichever variance the model has or the user asks for.  Exact for respaced chains, because the
            bridge is that of the two levels given.
DDIM        x_s = alpha_s x̂ + sqrt(sigma_s² - eta² small) eps + eta sqrt(small) z        (Song et al. 2021, eq. 12)
            eta = 0 is the probability-flow ODE, eta = 1 equals Ancestral with fixed_small.
Heun        the same ODE, second order: the slope is averaged over both ends of the step (Karras et al. 2022, Alg. 1).
            The ODE is one curve, but the average depends on the coordinate it is written in:

            ratio   u = sigma/alpha, y = x_t/alpha:                          dy/du = eps         (EDM's; infinite at noise)
            angle   phi = atan2(sigma, alpha), y = x_t/hypot(alpha, sigma):  dy/dphi = cos(phi) eps - sin(phi) x̂

            The angle stays finite at pure noise, so any grid works with it.  Into the clean level, where the slope at
            the far end is not defined, and in the ratio at pure noise, it takes the DDIM step.

No noise is added into the clean level.  A solver's memory is its `state`, passed in and returned, None to start with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from undiffuse.process.bridges import Bridge
from undiffuse.process.levels import Level, meet
from undiffuse.process.posteriors import Denoise, Fixed, Posterior, transition

NoiseSource = Callable[[], Tensor]
"""Gives this step's standard normal, of the shape of x_t; called only by steps that use it."""


@dataclass(frozen=True)
class Move:
    """One step's levels and bridge. here, there: Level of shape (); bridge: the one between them."""

    here: Level
    there: Level
    bridge: Bridge


@dataclass(frozen=True)
class Step:
    """What a solver did: the new x_s, the belief at x_t it started from, and its state for the next step."""

    x: Tensor
    posterior: Posterior
    state: Any = None


class Solver(ABC):
    """Walks one step. `evaluations` is the number of network evaluations it needs per step."""

    evaluations: int = 1

    @abstractmethod
    def step(self, x_t: Tensor, denoise: Denoise, move: Move, noise: NoiseSource, state: Any) -> Step: ...


@dataclass(frozen=True)
class Ancestral(Solver):
    """variance: None for the model's own, else the fraction f between fixed_small (0) and fixed_large (1)."""

    variance: float | None = None

    def step(self, x_t: Tensor, denoise: Denoise, move: Move, noise: NoiseSource, state: Any) -> Step:
        posterior = denoise(x_t, move.here)
        if self.variance is not None:
            posterior = Posterior(posterior.mean, Fixed(self.variance), posterior.kept_eps)
        p = transition(posterior, x_t, move.bridge)
        if move.bridge.into_clean:
            return Step(p.mean, posterior)
        return Step(p.mean + (p.log_variance / 2).exp() * noise(), posterior)


@dataclass(frozen=True)
class DDIM(Solver):
    """eta: 0 deterministic … 1 as noisy as the ancestral chain with fixed_small."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie between 0 (deterministic) and 1 (ancestral), but is {self.eta}.")

    def step(self, x_t: Tensor, denoise: Denoise, move: Move, noise: NoiseSource, state: Any) -> Step:
        posterior = denoise(x_t, move.here)
        signal = meet(move.there.alpha, x_t) * posterior.mean
        if move.bridge.into_clean:
            return Step(signal, posterior)
        eps = posterior.eps(x_t, move.here)
        if not self.eta:
            return Step(signal + meet(move.there.sigma, x_t) * eps, posterior)
        small = self.eta**2 * move.bridge.small
        on_eps = (move.there.sigma**2 - small).clamp(min=0).sqrt()
        return Step(signal + meet(on_eps, x_t) * eps + meet(small.sqrt(), x_t) * noise(), posterior)


@dataclass(frozen=True)
class Heun(Solver):
    """coordinate: see the top of this file."""

    coordinate: Literal["angle", "ratio"] = "angle"
    evaluations: int = 2

    def step(self, x_t: Tensor, denoise: Denoise, move: Move, noise: NoiseSource, state: Any) -> Step:
        here, there = move.here, move.there
        first = DDIM().step(x_t, denoise, move, noise, None)
        if move.bridge.into_clean or (self.coordinate == "ratio" and here.alpha == 0):
            return first
        end = denoise(first.x, there)
        slope = (self._slope(first.posterior, x_t, here) + self._slope(end, first.x, there)) / 2
        length = meet(self._time(there) - self._time(here), x_t)
        y = x_t / meet(self._scale(here), x_t) + length * slope
        return Step(meet(self._scale(there), x_t) * y, first.posterior)

    def _time(self, level: Level) -> Tensor:
        return level.ratio if self.coordinate == "ratio" else torch.atan2(level.sigma, level.alpha)

    def _scale(self, level: Level) -> Tensor:
        return level.alpha if self.coordinate == "ratio" else torch.hypot(level.alpha, level.sigma)

    def _slope(self, posterior: Posterior, x_t: Tensor, level: Level) -> Tensor:
        eps = posterior.eps(x_t, level)
        if self.coordinate == "ratio":
            return eps
        norm = torch.hypot(level.alpha, level.sigma)
        return meet(level.alpha / norm, x_t) * eps - meet(level.sigma / norm, x_t) * posterior.mean


SOLVERS = ("ddpm", "ddim", "heun")


def make_solver(name: str, eta: float = 0.0, variance: float | None = None) -> Solver:
    """The solver called `name`. eta is DDIM's, variance the ancestral one's; another solver given one refuses it."""
    if variance is not None and name != "ddpm":
        raise ValueError(f"variance = {variance} is a setting of the solver 'ddpm', and {name!r} has none: leave it out.")
    if name == "ddim":
        return DDIM(eta)
    if eta:
        raise ValueError(f"eta = {eta} is a setting of the solver 'ddim', and {name!r} has none: leave it out.")
    if name == "ddpm":
        return Ancestral(variance)
    if name == "heun":
        return Heun()
    raise ValueError(f"there is no solver {name!r}: choose one of {', '.join(SOLVERS)}.")

