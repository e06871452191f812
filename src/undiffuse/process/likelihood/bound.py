"""The variational bound over a chain, term by term.

    -log p(x_0) <= L_T + sum_{t>1} L_{t-1} + L_0                                     (Ho et al. 2020, eq. 5)
    L_T     = KL( q(x_T | x_0) || N(0, I) )                       the prior
    L_{t-1} = KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) )     the steps, between two Gaussians
    L_0     = -log p(x_0 | x_1)                                   the decoder

The decoder of quantised data is a Gaussian integrated over the bin of each value, the outermost bins reaching to
infinity (Ho et al. 2020, eq. 13).  Published numbers evaluate the normal integral by an approximation with tanh; both
that and the exact form exist here under their names.  Float data has no bins: its decoder is a density, and the bound
is in nats per dimension of that density.  Everything here is in nats per dimension, (B,); divide by log 2 for bits.

For schedules that scale x_t otherwise, the prior is N(0, alpha_T² + sigma_T²), which is N(0, I) for x_T/hypot(alpha_T, sigma_T).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from undiffuse.process.bridges import Bridge
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.posteriors import DenoiserFn, Transition, bridge_mean, transition
from undiffuse.process.probability_flow import norm_of

LOG_2 = math.log(2)
SMALLEST_PROBABILITY = 1e-12  # of one bin, as in the published code: a floor of -27.6 nats


def normal_kl(q: Transition, p: Transition) -> Tensor:
    """KL(q || p) of diagonal Gaussians, elementwise, in nats.

    expm1 keeps the digits of exp(d) - 1 - d where the two variances agree.
    """
    d = q.log_variance - p.log_variance
    return 0.5 * (torch.expm1(d) - d + (q.mean - p.mean) ** 2 * torch.exp(-p.log_variance))


def normal_cdf(z: Tensor) -> Tensor:
    """The normal integral, elementwise, of z of any shape."""
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))


def tanh_normal_cdf(z: Tensor) -> Tensor:
    """The published code's approximation of the normal integral by tanh, elementwise, of z of any shape."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))


class Decoder(ABC):
    """-log p(x_0 | x_1) under the last transition."""

    @abstractmethod
    def __call__(self, x: Tensor, p: Transition) -> Tensor:
        """Elementwise, in nats."""


@dataclass(frozen=True)
class Density(Decoder):
    """Continuous data: the Gaussian's density."""

    def __call__(self, x: Tensor, p: Transition) -> Tensor:
        return 0.5 * (math.log(2 * math.pi) + p.log_variance + (x - p.mean) ** 2 * torch.exp(-p.log_variance))


@dataclass(frozen=True)
class Bins(Decoder):
    """Quantised data: `count` values spaced evenly from low to high, in the model's range; (C, 1, …) where channels differ.

    form: "tanh" for comparison with published numbers, "exact" for the normal integral.
    """

    count: int | Tensor
    low: float = -1.0
    high: float = 1.0
    form: Literal["tanh", "exact"] = "tanh"

    def __call__(self, x: Tensor, p: Transition) -> Tensor:
        half = (self.high - self.low) / (self.count - 1) / 2
        half = half.to(x) if isinstance(half, Tensor) else half
        cdf = tanh_normal_cdf if self.form == "tanh" else normal_cdf
        per_sigma = torch.exp(-p.log_variance / 2)
        above = cdf((x + half - p.mean) * per_sigma)
        below = cdf((x - half - p.mean) * per_sigma)
        above = torch.where(x > self.high - half, 1.0, above)
        below = torch.where(x < self.low + half, 0.0, below)
        return -torch.log((above - below).clamp(min=SMALLEST_PROBABILITY))


def per_dimension(terms: Tensor) -> Tensor:
    """The mean over everything but the batch, (B,)."""
    return terms.flatten(1).mean(1)


def prior_term(x: Tensor, noisiest: Level) -> Tensor:
    """L_T in nats/dim, (B,)."""
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    norm = norm_of(noisiest)
    q = Transition(broadcast_to(noisiest.alpha / norm, x) * x, broadcast_to(2 * (noisiest.sigma / norm).log(), x))
    return per_dimension(normal_kl(q, Transition(zero, zero)))


def step_term(denoise: DenoiserFn, x: Tensor, x_t: Tensor, level: Level, bridge: Bridge, decoder: Decoder) -> Tensor:
    """L_{t-1} in nats/dim, (B,): the KL of a step, or the decoder's term where the bridge leads into the clean level.

    level, bridge: one for all examples, or one for each.
    """
    p = transition(denoise(x_t, level), x_t, bridge)
    q = Transition(bridge_mean(x, x_t, bridge), broadcast_to(bridge.log_small, x_t))
    return torch.where(bridge.into_clean.to(x.device), per_dimension(decoder(x, p)), per_dimension(normal_kl(q, p)))


@dataclass(frozen=True)
class Bound:
    """The bound's terms in nats/dim.   prior: (B,).   steps: (K, B), noisiest first, the last row the decoder's."""

    prior: Tensor
    steps: Tensor

    @property
    def total(self) -> Tensor:
        """(B,), nats per dimension."""
        return self.prior + self.steps.sum(0)

    @property
    def bits(self) -> Tensor:
        """(B,), bits per dimension; meaningful for quantised data alone."""
        return self.total / LOG_2


@torch.no_grad()
def chain_bound(denoise: DenoiserFn, x: Tensor, levels: Level, noises: Iterable[Tensor], decoder: Decoder) -> Bound:
    """The bound of x (B, ...) over a table of levels ending in the clean one, one noise draw per step."""
    bridges = Bridge.table(levels)
    terms = []
    for row, eps in zip(range(len(bridges)), noises, strict=False):
        level = levels[row]
        terms.append(step_term(denoise, x, add_noise(x, level, eps), level, bridges[row], decoder))
    return Bound(prior_term(x, levels[0]), torch.stack(terms))
