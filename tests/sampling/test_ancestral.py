"""Ancestral sampling and DDIM on Gaussian data: the exact recursions of mean and variance, for every variance."""

from __future__ import annotations

import math

import pytest
import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.betas import linear_betas
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.oracles import FiniteSet, Mixture
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import (
    ExactVariance,
    FixedVariance,
    LearnedRangeVariance,
    LearnedVariance,
    Posterior,
    bridge_mean,
    transition,
)
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.solvers.ancestral import DDIM, Ancestral

d = torch.float64
MEAN, DEVIATION = 0.3, 0.5
GAUSSIAN = Mixture.gaussian(torch.tensor([MEAN], dtype=d), torch.tensor([[DEVIATION**2]], dtype=d))
SOLVERS = {
    "ddim": DDIM(),
    "ddim-half": DDIM(0.5),
    "ddim-one": DDIM(1.0),
    "ddpm": Ancestral(),
    "ddpm-large": Ancestral(1.0),
}


def affine_of(solver, denoise, row):
    """A step on Gaussian data is x_s = A x_t + B + S z: read off by evaluating it, not from its formula."""
    values = []
    for x_t, z in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        values.append(
            solver.step(
                torch.tensor([[x_t]], dtype=d), denoise, row, lambda k, z=z: torch.tensor([[z]], dtype=d), None
            ).x.item()
        )
    return values[1] - values[0], values[0], values[2] - values[0]


def exact_recursion(levels, variance_of):
    """Mean and variance of the ancestral chain with the exact mean predictor, by the papers' formulas alone."""
    mean, variance = 0.0, levels.sigma[0].item() ** 2
    for k in range(len(levels) - 1):
        a, s2 = levels.alpha[k].item(), levels.sigma[k].item() ** 2
        b, r2 = levels.alpha[k + 1].item(), levels.sigma[k + 1].item() ** 2
        beta = 1 - (a / b) ** 2  # variance preserving: alpha-bar ratios
        c1, c2 = b * beta / s2, (a / b) * r2 / s2
        gain = a * DEVIATION**2 / (a**2 * DEVIATION**2 + s2)
        posterior_variance = DEVIATION**2 * s2 / (a**2 * DEVIATION**2 + s2)
        A, offset = c1 * gain + c2, c1 * (MEAN - gain * a * MEAN)
        noise = 0.0 if r2 == 0 else variance_of(beta, beta * r2 / s2, c1, posterior_variance)
        mean, variance = A * mean + offset, A**2 * variance + noise
    return mean, variance


VARIANCES = {
    "fixed_small": (lambda x: FixedVariance(0.0), lambda beta, tilde, c1, v: tilde),
    "fixed_large": (lambda x: FixedVariance(1.0), lambda beta, tilde, c1, v: beta),
    "learned_range": (
        lambda x: LearnedRangeVariance(torch.full_like(x, 0.2)),
        lambda beta, tilde, c1, v: beta**0.6 * tilde**0.4,
    ),
    "learned": (lambda x: LearnedVariance(torch.full_like(x, -5.0)), lambda beta, tilde, c1, v: math.exp(-5.0)),
    "optimal": (None, lambda beta, tilde, c1, v: tilde + c1**2 * v),
}


@pytest.mark.parametrize("kind", VARIANCES)
@pytest.mark.parametrize(
    ("name", "grid"),
    [("linear-1000", "every"), ("linear-1000", "50"), ("cosine-100", "every"), ("cosine-1000", "10,15,20")],
)
def test_the_reverse_chain_on_gaussian_data_is_the_exact_recursion(kind, name, grid):
    chain = CHAINS[name]
    levels = make_grid(chain, grid, 1)
    spread, variance_of = VARIANCES[kind]

    def denoise(x_t, level):
        exact = GAUSSIAN(x_t, level)
        return exact if spread is None else Posterior(exact.mean, spread(x_t))

    mean, variance = 0.0, levels.sigma[0].item() ** 2
    for row in Ancestral().plan(levels):
        A, offset, S = affine_of(Ancestral(), denoise, row)
        mean, variance = A * mean + offset, A**2 * variance + S**2
    expected = exact_recursion(levels, variance_of)
    assert (mean, variance) == pytest.approx(expected, rel=1e-9)


def test_published_values_of_the_recursion():
    """T = 50 linear, N(0.3, 0.5²): 0.19656 small and 0.26619 large; DDIM eta 0 / 0.5: 0.22314 / 0.21758 (references)."""
    levels = Chain(linear_betas(50)).levels
    for solver, expected in (
        (Ancestral(0.0), 0.19656),
        (Ancestral(1.0), 0.26619),
        (DDIM(0.0), 0.22314),
        (DDIM(0.5), 0.21758),
        (DDIM(1.0), 0.19656),
    ):
        variance = 1.0
        for row in solver.plan(levels):
            A, _, S = affine_of(solver, GAUSSIAN, row)
            variance = A**2 * variance + S**2
        assert variance == pytest.approx(expected, abs=6e-6)


def test_stochastic_samples_have_the_recursions_moments():
    n = 20_000
    levels = make_grid(CHAINS["cosine-1000"], "20", 1)
    index = torch.arange(n)
    x = standard_normal((1,), 3, index).double() * levels.sigma[0]
    end = final(
        trajectory(
            x, lambda x_t, level: Posterior(GAUSSIAN(x_t, level).mean), levels, Ancestral(0.0), seed=3, index=index
        )
    )
    mean, variance = exact_recursion(levels, VARIANCES["fixed_small"][1])
    assert abs(end.mean() - mean) < 4 * (variance / n) ** 0.5
    assert abs(end.var() - variance) < 4 * variance * (2 / n) ** 0.5


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "one-step"])
def test_a_point_mass_is_reached_exactly_from_anywhere(solver, name):
    schedule = SCHEDULES[name]
    point = torch.tensor([[0.7, -0.2]], dtype=d)
    steps = min(6, len(schedule)) if isinstance(schedule, Chain) else 6
    levels = make_grid(schedule, "uniform", steps)
    x = standard_normal((2,), 0, torch.arange(5)).double() * levels.sigma[0]
    end = final(trajectory(x, FiniteSet(point), levels, solver, seed=0, index=torch.arange(5)))
    torch.testing.assert_close(end, point.expand(5, 2), rtol=0, atol=1e-12)


def test_ddim_with_eta_one_is_the_ancestral_chain():
    for levels in (make_grid(CHAINS["linear-1000"], "50", 1), make_grid(SCHEDULES["vp"], "uniform", 20)):
        x = standard_normal((3,), 0, torch.arange(4)).double()
        a, b = (
            final(
                trajectory(
                    x,
                    lambda x_t, level: Posterior(x_t.tanh(), ExactVariance(x_t**2)),
                    levels,
                    s,
                    seed=9,
                    index=torch.arange(4),
                )
            )
            for s in (DDIM(1.0), Ancestral(0.0))
        )
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_ancestral_steps_are_the_transition_and_the_last_adds_no_noise():
    levels = CHAINS["linear-100"].levels
    bridges, plan = Bridge.table(levels), Ancestral().plan(levels)
    x = torch.full((1, 1), 0.4, dtype=d)
    posterior = Posterior(x * 0.9, FixedVariance(1.0))
    p = transition(posterior, x, bridges[10])
    step = Ancestral().step(x, lambda *_: posterior, plan[10], lambda k: torch.ones(1, 1, dtype=d), None)
    torch.testing.assert_close(step.x, p.mean + (p.log_variance / 2).exp())
    torch.testing.assert_close(p.mean, bridge_mean(posterior.mean, x, bridges[10]))

    def refuse(k):
        raise AssertionError("noise was drawn into the clean level")

    for solver in SOLVERS.values():
        last = solver.step(x, lambda *_: posterior, solver.plan(levels)[-1], refuse, None)
        torch.testing.assert_close(last.x, posterior.mean)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_kept_noise_is_walked_with(solver):
    """The noise of the unclipped belief beside the clipped mean; the ancestral split is DDIM's at eta 1, where the variance is small."""
    row = solver.plan(CHAINS["linear-100"].levels)[30]
    x, z = torch.full((1, 2), 0.4, dtype=d), torch.tensor([[1.0, -1.0]], dtype=d)
    plain, kept = Posterior(x * 0.5), Posterior(x * 0.5, kept_eps=torch.full((1, 2), 2.0, dtype=d))
    a, b = (solver.step(x, lambda *_, p=p: p, row, lambda k: z, None).x for p in (plain, kept))
    if isinstance(solver, Ancestral):
        same, noisy = DDIM(1.0), torch.zeros_like(z)
        expected = same.step(x, lambda *_: kept, same.plan(CHAINS["linear-100"].levels)[30], lambda k: noisy, None).x
        torch.testing.assert_close(solver.step(x, lambda *_: kept, row, lambda k: noisy, None).x, expected)
        return
    level = CHAINS["linear-100"].levels
    eps = (x - level.alpha[30] * x * 0.5) / level.sigma[30]
    small = solver.eta**2 * Bridge.table(level).small[30]
    torch.testing.assert_close(b - a, (level.sigma[31] ** 2 - small).sqrt() * (2.0 - eps))
