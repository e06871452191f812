"""Exact denoisers against quadrature, autograd (Tweedie's formula) and enumeration."""

from __future__ import annotations

import math

import numpy as np
import torch

from tests.process.instances import SCHEDULES
from undiffuse.process.oracles import FiniteSet, Mixture, fitted_gaussian

MIXTURE = Mixture(
    torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    torch.tensor([[-1.0, 0.5], [1.2, -0.3], [0.2, 1.5]], dtype=torch.float64),
    torch.tensor(
        [[[0.3, 0.1], [0.1, 0.2]], [[0.1, -0.05], [-0.05, 0.4]], [[0.2, 0.0], [0.0, 0.05]]], dtype=torch.float64
    ),
)
LEVELS = [SCHEDULES["vp"](0.4), SCHEDULES["edm"](0.7), SCHEDULES["flow"](0.3), SCHEDULES["linear-1000"](250.0)]


def test_the_mean_is_tweedies_formula():
    """E[x_0|x_t] = (x_t + sigma² score)/alpha, the score by automatic differentiation of the density."""
    x_t = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for level in LEVELS:
        (score,) = torch.autograd.grad(MIXTURE.log_density(x_t, level).sum(), x_t)
        torch.testing.assert_close(
            MIXTURE(x_t, level).mean, (x_t + level.sigma**2 * score) / level.alpha, rtol=1e-10, atol=1e-10
        )


def test_mean_and_variance_by_quadrature_in_one_dimension():
    d = torch.float64
    mixture = Mixture(
        torch.tensor([0.4, 0.6], dtype=d),
        torch.tensor([[-1.0], [0.8]], dtype=d),
        torch.tensor([[[0.09]], [[0.25]]], dtype=d),
    )
    x = np.linspace(-6, 6, 60_001)
    prior = sum(
        w / math.sqrt(2 * math.pi * v) * np.exp(-((x - m) ** 2) / (2 * v))
        for w, m, v in ((0.4, -1, 0.09), (0.6, 0.8, 0.25))
    )
    for level in LEVELS:
        a, s = level.alpha.item(), level.sigma.item()
        for x_t in (-1.5, 0.1, 2.0):
            weight = prior * np.exp(-((x_t - a * x) ** 2) / (2 * s**2))
            mean = (weight * x).sum() / weight.sum()
            variance = (weight * (x - mean) ** 2).sum() / weight.sum()
            posterior = mixture(torch.tensor([[x_t]], dtype=torch.float64), level)
            np.testing.assert_allclose(posterior.mean.item(), mean, atol=1e-9)
            np.testing.assert_allclose(posterior.variance.variance.item(), variance, atol=1e-9)


def test_density_integrates_to_one_and_responsibilities_sum_to_one():
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    density = MIXTURE.log_density(points, LEVELS[0]).exp()
    assert abs(density.sum() * (grid[1] - grid[0]) ** 2 - 1) < 1e-9
    torch.testing.assert_close(
        MIXTURE.responsibilities(points[:100], LEVELS[0]).sum(1), torch.ones(100, dtype=torch.float64)
    )


def test_a_finite_set_is_the_mixture_of_vanishing_components():
    points = torch.tensor([[0.0, 1.0], [1.0, -1.0], [-0.5, 0.2]], dtype=torch.float64)
    limit = Mixture(
        torch.ones(3, dtype=torch.float64), points, 1e-12 * torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    )
    x_t = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for level in LEVELS:
        ours, its = FiniteSet(points)(x_t, level), limit(x_t, level)
        torch.testing.assert_close(ours.mean, its.mean, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(ours.variance.variance, its.variance.variance, rtol=1e-8, atol=1e-8)


def test_no_denoiser_of_gaussian_data_beats_the_best_linear_one_and_the_copier_fails_on_held_out_data():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, dtype=torch.float64, generator=generator) / 2
    data = torch.randn(600, 6, dtype=torch.float64, generator=generator) @ root.T
    training, held_out = data[:300], data[300:]
    level = SCHEDULES["edm"](0.1)
    x_t = held_out + 0.1 * torch.randn(300, 6, dtype=torch.float64, generator=generator)
    linear = (fitted_gaussian(training)(x_t, level).mean - held_out).pow(2).mean()
    copier = (FiniteSet(training)(x_t, level).mean - held_out).pow(2).mean()
    assert copier > 3 * linear


def test_draws_have_the_mean_and_covariance_of_the_mixture():
    n = 40_000
    x = MIXTURE.sample(n, torch.Generator().manual_seed(0))
    mean = (MIXTURE.weights[:, None] * MIXTURE.means).sum(0)
    assert ((x.mean(0) - mean).abs() < 4 * x.std(0) / n**0.5).all()
