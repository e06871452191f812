"""Solvers on distributions whose answers are known."""

from __future__ import annotations

import math

import pytest
import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.betas import linear_betas
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.exact import FiniteSet, Mixture
from undiffuse.process.levels import Level
from undiffuse.process.noise import standard_normal
from undiffuse.process.posteriors import Fixed, Known, Learned, LearnedRange, Posterior, bridge_mean, transition
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.solvers import DDIM, Ancestral, Heun, Move, make_solver
from undiffuse.sampling.trajectory import final, trajectory

d = torch.float64
MEAN, DEVIATION = 0.3, 0.5
GAUSSIAN = Mixture.gaussian(torch.tensor([MEAN], dtype=d), torch.tensor([[DEVIATION**2]], dtype=d))
SOLVERS = {
    "ddim": DDIM(), "ddim-half": DDIM(0.5), "ddim-one": DDIM(1.0), "heun": Heun(), "heun-ratio": Heun("ratio"), "ddpm": Ancestral(),
    "ddpm-large": Ancestral(1.0),
}  # fmt: skip


def moves(levels: Level):
    bridges = Bridge.table(levels)
    return [Move(levels[k], levels[k + 1], bridges[k]) for k in range(len(bridges))]


def affine_of(solver, denoise, move):
    """A step on Gaussian data is x_s = A x_t + B + S z: read off by evaluating it, not from its formula."""
    values = []
    for x_t, z in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)):
        values.append(solver.step(torch.tensor([[x_t]], dtype=d), denoise, move, lambda z=z: torch.tensor([[z]], dtype=d), None).x.item())
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
    "fixed_small": (lambda x: Fixed(0.0), lambda beta, tilde, c1, v: tilde),
    "fixed_large": (lambda x: Fixed(1.0), lambda beta, tilde, c1, v: beta),
    "learned_range": (lambda x: LearnedRange(torch.full_like(x, 0.2)), lambda beta, tilde, c1, v: beta**0.6 * tilde**0.4),
    "learned": (lambda x: Learned(torch.full_like(x, -5.0)), lambda beta, tilde, c1, v: math.exp(-5.0)),
    "optimal": (None, lambda beta, tilde, c1, v: tilde + c1**2 * v),
}


@pytest.mark.parametrize("kind", VARIANCES)
@pytest.mark.parametrize(("name", "grid"), [("linear-1000", "every"), ("linear-1000", "50"), ("cosine-100", "every"), ("cosine-1000", "10,15,20")])
def test_the_reverse_chain_on_gaussian_data_is_the_exact_recursion(kind, name, grid):
    chain = CHAINS[name]
    levels = make_grid(chain, grid, 1)
    spread, variance_of = VARIANCES[kind]

    def denoise(x_t, level):
        exact = GAUSSIAN(x_t, level)
        return exact if spread is None else Posterior(exact.mean, spread(x_t))

    mean, variance = 0.0, levels.sigma[0].item() ** 2
    for move in moves(levels):
        A, offset, S = affine_of(Ancestral(), denoise, move)
        mean, variance = A * mean + offset, A**2 * variance + S**2
    expected = exact_recursion(levels, variance_of)
    assert (mean, variance) == pytest.approx(expected, rel=1e-9)


def test_published_values_of_the_recursion():
    """T = 50 linear, N(0.3, 0.5²): 0.19656 small and 0.26619 large; DDIM eta 0 / 0.5: 0.22314 / 0.21758 (references)."""
    levels = Chain(linear_betas(50)).levels
    for solver, expected in ((Ancestral(0.0), 0.19656), (Ancestral(1.0), 0.26619), (DDIM(0.0), 0.22314), (DDIM(0.5), 0.21758), (DDIM(1.0), 0.19656)):
        variance = 1.0
        for move in moves(levels):
            A, _, S = affine_of(solver, GAUSSIAN, move)
            variance = A**2 * variance + S**2
        assert variance == pytest.approx(expected, abs=6e-6)


def test_stochastic_samples_have_the_recursions_moments():
    n = 20_000
    levels = make_grid(CHAINS["cosine-1000"], "20", 1)
    index = torch.arange(n)
    x = standard_normal((1,), 3, index).double() * levels.sigma[0]
    end = final(trajectory(x, lambda x_t, level: Posterior(GAUSSIAN(x_t, level).mean), levels, Ancestral(0.0), seed=3, index=index))
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


def ode_error(schedule, solver, steps):
    """RMS error at the end against the flow's closed form on Gaussian data."""
    times = torch.linspace(1, 0, steps + 1, dtype=d)
    # evenly spaced in log-SNR between two interior levels, so that only the solver's own order shows
    logsnr = -4 * times + 4 * (1 - times)
    levels = schedule(schedule.at(logsnr))
    x = torch.tensor([[-1.5], [-0.3], [0.4], [2.0]], dtype=d)
    end = final(trajectory(x, GAUSSIAN, levels, solver, seed=0, index=torch.arange(4)))
    a, s, b, r = levels.alpha[0], levels.sigma[0], levels.alpha[-1], levels.sigma[-1]
    exact = b * MEAN + (x - a * MEAN) * ((b**2 * DEVIATION**2 + r**2) / (a**2 * DEVIATION**2 + s**2)).sqrt()
    return (end - exact).pow(2).mean().sqrt().item()


@pytest.mark.parametrize("name", ["vp", "edm", "flow", "cosine_continuous", "sub_vp", "linear-1000"])
@pytest.mark.parametrize(("solver", "order"), [(DDIM(), 1), (Heun(), 2), (Heun("ratio"), 2)])
def test_measured_order_of_convergence_on_a_gaussian(name, solver, order):
    errors = [ode_error(SCHEDULES[name], solver, steps) for steps in (64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    # the next term of the error is smaller by the step, 8/128 in log-SNR: a tenth of an order at most
    assert slopes == pytest.approx([order, order], abs=0.1)


@pytest.mark.parametrize("solver", [DDIM(), Heun(), Heun("ratio")])
def test_rescaling_x_t_changes_nothing(solver):
    """Schedules with equal SNRs are one path seen at different scales: x_t/alpha agree, and so do the ends."""
    logsnr = torch.linspace(-5, 6, 12, dtype=d)
    ends = []
    for name in ("vp", "edm", "flow", "cosine_continuous", "sub_vp"):
        levels = SCHEDULES[name](SCHEDULES[name].at(logsnr)).and_clean()
        x = torch.tensor([[-2.0], [0.5], [1.0]], dtype=d) * levels.sigma[0]
        ends.append(final(trajectory(x, GAUSSIAN, levels, solver, seed=0, index=torch.arange(3))))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-9, atol=1e-9)


def test_heun_in_the_ratio_is_edms_algorithm_1():
    levels = make_grid(SCHEDULES["edm"], "karras", 8)
    x = torch.tensor([[12.0], [-70.0]], dtype=d)
    ours = final(trajectory(x, GAUSSIAN, levels, Heun("ratio"), seed=0, index=torch.arange(2)))
    sigma, y = levels.sigma.tolist(), x.clone()
    for here, there in zip(sigma, sigma[1:], strict=False):  # Karras et al. 2022, Algorithm 1 with S_churn = 0
        slope = (y - GAUSSIAN(y, SCHEDULES["edm"](here)).mean) / here
        step = y + (there - here) * slope
        if there > 0:
            slope = (slope + (step - GAUSSIAN(step, SCHEDULES["edm"](there)).mean) / there) / 2
            step = y + (there - here) * slope
        y = step
    torch.testing.assert_close(ours, y, rtol=1e-10, atol=1e-12)


def test_ddim_with_eta_one_is_the_ancestral_chain():
    for levels in (make_grid(CHAINS["linear-1000"], "50", 1), make_grid(SCHEDULES["vp"], "uniform", 20)):
        x = standard_normal((3,), 0, torch.arange(4)).double()
        a, b = (
            final(trajectory(x, lambda x_t, level: Posterior(x_t.tanh(), Known(x_t**2)), levels, s, seed=9, index=torch.arange(4)))
            for s in (DDIM(1.0), Ancestral(0.0))
        )
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_ancestral_steps_are_the_transition_and_the_last_adds_no_noise():
    levels = CHAINS["linear-100"].levels
    every = moves(levels)
    x = torch.full((1, 1), 0.4, dtype=d)
    posterior = Posterior(x * 0.9, Fixed(1.0))
    p = transition(posterior, x, every[10].bridge)
    step = Ancestral().step(x, lambda *_: posterior, every[10], lambda: torch.ones(1, 1, dtype=d), None)
    torch.testing.assert_close(step.x, p.mean + (p.log_variance / 2).exp())
    torch.testing.assert_close(p.mean, bridge_mean(posterior.mean, x, every[10].bridge))

    def refuse():
        raise AssertionError("noise was drawn into the clean level")

    for solver in SOLVERS.values():
        last = solver.step(x, lambda *_: posterior, every[-1], refuse, None)
        torch.testing.assert_close(last.x, posterior.mean)


def test_one_step_grids_work():
    for solver in SOLVERS.values():
        levels = make_grid(CHAINS["cosine-1000"], "uniform", 1)
        end = final(trajectory(torch.ones(2, 1, dtype=d), GAUSSIAN, levels, solver, seed=0, index=torch.arange(2)))
        assert torch.isfinite(end).all()


def test_wrong_settings_are_refused():
    for arguments, words in ((("ddim", 1.5), "eta"), (("heun", 0.5), "eta"), (("heun", 0.0, 1.0), "ddpm"), (("rk", 0.0), "choose one")):
        with pytest.raises(ValueError, match=words):
            make_solver(*arguments)
