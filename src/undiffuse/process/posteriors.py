"""Posteriors and transitions: the distribution of x_0 given x_t, put into the bridge.

A denoiser returns, for a noisy x_t, a posterior of the clean x_0: a mean x̂ = E[x_0 | x_t] and a variance.  The
reverse transition has this posterior in place of x_0 in the bridge (Ho et al. 2020, eq. 6-7):

    p(x_s | x_t) = N( on_x · x̂ + on_xt · x_t,  variance ).

Four variances are the papers' and give the transition's variance directly; they differ only in where it lies between
the bridge's small and large variances:

    fixed_small    f = 0, beta-tilde           best for a point mass                    (Ho et al. 2020, section 3.2)
    fixed_large    f = 1, beta                 best for x_0 ~ N(0, I)                   (same)
    learned_range  f = (v + 1)/2 in log space, v from the network                       (Nichol & Dhariwal 2021, eq. 15)
    learned        the network's output is the log-variance itself                      (reference code's LEARNED)

The fifth, `ExactVariance`, is a variance of x_0 itself, as exact denoisers have.  Adding it through the bridge gives the
optimal variance small + on_x² Var[x_0 | x_t] (Bao et al. 2022, Analytic-DPM, Theorem 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from undiffuse.process.bridges import Bridge
from undiffuse.process.levels import Level, broadcast_to


class Variance(ABC):
    """The variance of the reverse transition, as the model has it."""

    @abstractmethod
    def log_variance(self, bridge: Bridge, x_t: Tensor) -> Tensor:
        """Log-variance of the transition, broadcastable to x_t."""


@dataclass(frozen=True)
class FixedVariance(Variance):
    """A constant fraction f of the way from small (0) to large (1), in log space.

    At the last transition both ends are the borrowed small variance, as in the reference code.
    """

    fraction: float

    def log_variance(self, bridge: Bridge, x_t: Tensor) -> Tensor:
        high = torch.where(bridge.into_clean, bridge.log_small, bridge.log_large)
        if self.fraction in (0.0, 1.0):  # exact at the ends, where 0 · inf would be nan
            return broadcast_to(high if self.fraction else bridge.log_small, x_t)
        return broadcast_to(bridge.log_small + self.fraction * (high - bridge.log_small), x_t)


@dataclass(frozen=True)
class LearnedRangeVariance(Variance):
    """A learned position v between log small (-1) and log large (+1), of the shape of x_t."""

    v: Tensor

    def log_variance(self, bridge: Bridge, x_t: Tensor) -> Tensor:
        low, high = broadcast_to(bridge.log_small, x_t), broadcast_to(bridge.log_large, x_t)
        return low + (self.v + 1) / 2 * (high - low)


@dataclass(frozen=True)
class LearnedVariance(Variance):
    """A learned log-variance of the transition, of the shape of x_t."""

    log_value: Tensor

    def log_variance(self, bridge: Bridge, x_t: Tensor) -> Tensor:
        return self.log_value


@dataclass(frozen=True)
class ExactVariance(Variance):
    """The variance of x_0 given x_t, of the shape of x_t or a scalar; gives the optimal transition variance."""

    variance: Tensor

    def log_variance(self, bridge: Bridge, x_t: Tensor) -> Tensor:
        return (broadcast_to(bridge.small, x_t) + broadcast_to(bridge.on_x, x_t) ** 2 * self.variance).log()


@dataclass(frozen=True)
class Posterior:
    """The distribution of the clean x_0 given x_t.

    mean: x̂, of the shape of x_t.
    variance: that of the reverse transition.
    kept_eps: the noise to continue with, of the shape of x_t, where it does not follow from the mean (see `eps`).
    log_p: of categories, the logarithms of their probabilities, see categories.py; None where x has none.
    """

    mean: Tensor
    variance: Variance = FixedVariance(0.0)
    kept_eps: Tensor | None = None
    log_p: Tensor | None = None

    def eps(self, x_t: Tensor, level: Level) -> Tensor:
        """The noise in x_t (B, ...): (x_t - alpha x̂)/sigma, which reproduces x_t, unless one is kept."""
        if self.kept_eps is not None:
            return self.kept_eps
        return (x_t - broadcast_to(level.alpha, x_t) * self.mean) / broadcast_to(level.sigma, x_t)

    def with_mean(self, mean: Tensor) -> Posterior:
        """The same with another x̂, of the shape of x_t; a kept noise stays."""
        return replace(self, mean=mean)

    def moved(self, shift: Tensor, level: Level) -> Posterior:
        """With x̂ + shift, both (B, ...), and a kept noise moved along, so that the two reproduce x_t as before."""
        kept = None if self.kept_eps is None else self.kept_eps - broadcast_to(level.alpha / level.sigma, shift) * shift
        return replace(self, mean=self.mean + shift, kept_eps=kept)

    def detached(self) -> Posterior:
        """Cut off from what it was computed from, its spread excepted."""
        return replace(
            self, mean=self.mean.detach(), kept_eps=None if self.kept_eps is None else self.kept_eps.detach()
        )


DenoiserFn = Callable[[Tensor, Level], Posterior]
"""(x_t, level) -> Posterior: what solvers, guidance, objectives and likelihood take. Networks and formulas alike.

The level is one for all examples, of shape (), or one for each, (B,); inverse problems (sampling/inverse.py) take one for all.
"""


@dataclass(frozen=True)
class Transition:
    """p(x_s | x_t), or q(x_s | x_t, x_0): a Gaussian with a mean (B, ...) and a log-variance broadcastable to it."""

    mean: Tensor
    log_variance: Tensor


def bridge_mean(x: Tensor, x_t: Tensor, bridge: Bridge) -> Tensor:
    """Mean of q(x_s | x_t, x_0 = x), of the shape of x and x_t, (B, ...)."""
    return broadcast_to(bridge.on_x, x_t) * x + broadcast_to(bridge.on_xt, x_t) * x_t


def transition(posterior: Posterior, x_t: Tensor, bridge: Bridge) -> Transition:
    """p(x_s | x_t): the posterior in place of x_0 in the bridge.   x_t: (B, ...)."""
    return Transition(bridge_mean(posterior.mean, x_t, bridge), posterior.variance.log_variance(bridge, x_t))
