"""Exact denoisers: distributions whose posterior is known in closed form.

They are the truth that solvers, guidance and likelihood are tested against, the reference curves a training loss is
read by (the best linear denoiser, the denoiser that copies its training set), and good first toys.

Gaussian      x ~ N(m, S):  x_t ~ N(alpha m, alpha² S + sigma² I), and with G = alpha S (alpha² S + sigma² I)^-1
              E[x|x_t] = m + G (x_t - alpha m),     Cov[x|x_t] = S - alpha G S.            (conditioning a Gaussian)
Mixture       the components' posteriors, weighted by their responsibilities p(k | x_t).
Finite set    a mixture of point masses: softmax over -|x_t - alpha x_i|²/(2 sigma²), the denoiser that copies.

All work on x_t of shape (B, d), in the dtype of x_t.  Their spread is the variance per coordinate (`Known`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.posteriors import ExactVariance, Posterior


@dataclass(frozen=True)
class Mixture:
    """sum_k w_k N(m_k, S_k).  weights (K,), means (K, d), covariances (K, d, d); float64.

    One component is a Gaussian. Weights are normalised.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @staticmethod
    def gaussian(mean: Tensor, covariance: Tensor) -> Mixture:
        """One Gaussian. mean (d,), covariance (d, d)."""
        return Mixture(torch.ones(1, dtype=mean.dtype), mean[None], covariance[None])

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor]:
        """In the eigenbasis of each S_k everything is diagonal: S_k = V diag(s) V'. It is the same at every level."""
        s, V = torch.linalg.eigh(self.covariances)
        return s, V

    def _components(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor, Tensor]:
        """Per component: log-joint (B, K), posterior mean (B, K, d), posterior variance (B or 1, K, d)."""
        x_t = x_t[:, None]
        alpha, sigma = (broadcast_to(c, x_t).reshape(-1, 1, 1) for c in (level.alpha, level.sigma))
        s, V = (factor.to(x_t) for factor in self._factors)
        means = self.means.to(x_t)
        marginal = alpha**2 * s + sigma**2
        offset = torch.einsum("bkd,kde->bke", x_t - alpha * means, V)
        log_density = -0.5 * (offset**2 / marginal + marginal.log() + math.log(2 * math.pi)).sum(-1)
        log_joint = log_density + (self.weights / self.weights.sum()).log().to(x_t)
        posterior_mean = means + torch.einsum("bke,kde->bkd", alpha * s / marginal * offset, V)
        variance = torch.einsum("bke,kde->bkd", s * sigma**2 / marginal, V**2)
        return log_joint, posterior_mean, variance

    def log_density(self, x_t: Tensor, level: Level) -> Tensor:
        """log p(x_t) of the noised distribution, (B,)."""
        return self._components(x_t, level)[0].logsumexp(1)

    def responsibilities(self, x_t: Tensor, level: Level) -> Tensor:
        """p(k | x_t), (B, K): the exact noisy classifier of the components."""
        return self._components(x_t, level)[0].softmax(1)

    def __call__(self, x_t: Tensor, level: Level) -> Posterior:
        log_joint, means, variances = self._components(x_t, level)
        weight = log_joint.softmax(1)[..., None]
        mean = (weight * means).sum(1)
        variance = (weight * (variances + (means - mean[:, None]) ** 2)).sum(1)
        return Posterior(mean, ExactVariance(variance))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws (n, d) of the clean distribution."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], dtype=self.means.dtype, generator=generator)
        return self.means[which] + torch.einsum("nde,ne->nd", torch.linalg.cholesky(self.covariances)[which], z)


@dataclass(frozen=True)
class FiniteSet:
    """Equal point masses at `points` (N, d): the exact denoiser of a training set."""

    points: Tensor

    def __call__(self, x_t: Tensor, level: Level) -> Posterior:
        points = self.points.to(x_t)
        alpha, sigma = (broadcast_to(c, x_t).reshape(-1, 1) for c in (level.alpha, level.sigma))
        # |x_t - alpha x_i|² without its first term, which is the same for every i and drops out of the softmax.
        distance2 = alpha**2 * (points**2).sum(1) - 2 * alpha * (x_t @ points.T)
        weight = (-distance2 / (2 * sigma**2)).softmax(1)
        mean = weight @ points
        return Posterior(mean, ExactVariance((weight @ points**2 - mean**2).clamp(min=0)))


def fitted_gaussian(x: Tensor) -> Mixture:
    """The Gaussian with the mean and covariance of x (N, d): its posterior mean is the best linear denoiser."""
    x = x.double()
    return Mixture.gaussian(x.mean(0), torch.cov(x.T).reshape(x.shape[1], x.shape[1]))
