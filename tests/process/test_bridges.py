"""Bridges against the papers' posterior coefficients and the laws of probability."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process import betas as B
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.forward import add_noise, forward_step, forward_trajectory
from undiffuse.process.levels import Level
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import ExactVariance, FixedVariance, LearnedRangeVariance, LearnedVariance

EACH = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


def reference_tables(betas: np.ndarray, respaced: list[int] | None = None) -> dict[str, np.ndarray]:
    """The posterior's coefficients by the formulas of Ho et al. 2020 (eq. 7), index tables in float64 as in the code
    released with improved DDPM; respacing by recomputing betas from the kept alpha-bars."""
    if respaced is not None:
        kept = np.cumprod(1 - betas)[respaced]
        betas = 1 - kept / np.append(1.0, kept[:-1])
    alphas_bar = np.cumprod(1 - betas)
    before = np.append(1.0, alphas_bar[:-1])
    variance = betas * (1 - before) / (1 - alphas_bar)
    return {
        "variance": variance,
        "log_clipped": np.log(np.append(variance[1], variance[1:])),
        "coef1": betas * np.sqrt(before) / (1 - alphas_bar),
        "coef2": (1 - before) * np.sqrt(1 - betas) / (1 - alphas_bar),
        "betas": betas,
    }


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("rows", [None, 100, 37], ids=["every", "100", "37"])
def test_bridges_are_the_papers_posterior_also_respaced(name, rows):
    betas = B.BETAS[name](1000)
    chain = Chain(betas)
    indices = None if rows is None else np.linspace(0, 999, rows).round().astype(int).tolist()
    levels = chain.levels if indices is None else chain.levels[[999 - i for i in reversed(indices)]].and_clean()
    ours = Bridge.table(levels)
    theirs = reference_tables(betas.numpy(), indices)
    for mine, its in (
        ("on_x", "coef1"),
        ("on_xt", "coef2"),
        ("small", "variance"),
        ("large", "betas"),
        ("log_small", "log_clipped"),
    ):
        # cumprod of 1000 factors and 1 - alpha-bar_1 ~ 1e-4 cost the reference about 1e-11 relative
        np.testing.assert_allclose(getattr(ours, mine).numpy()[::-1], theirs[its], rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(
        LearnedRangeVariance(torch.tensor(0.3, dtype=torch.float64))
        .log_variance(ours, torch.zeros(len(ours), dtype=torch.float64))
        .numpy()[::-1],
        0.65 * np.log(theirs["betas"]) + 0.35 * theirs["log_clipped"],
        rtol=1e-10,
    )


def pairs(schedule):
    t = torch.linspace(schedule.t_min, schedule.t_max, 12, dtype=torch.float64)
    return schedule(t[1:]), schedule(t[:-1])


@EACH
def test_pushing_q_of_x_t_through_the_bridge_gives_q_of_x_s(schedule):
    if schedule.t_min == schedule.t_max:
        return
    here, there = pairs(schedule)
    b = Bridge.between(here, there)
    torch.testing.assert_close(b.on_x + b.on_xt * here.alpha, there.alpha, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(b.on_xt**2 * here.sigma**2 + b.small, there.sigma**2, rtol=1e-12, atol=1e-12)


@EACH
def test_bridges_compose(schedule):
    """Going u → t → s with x known is going u → s."""
    if schedule.t_min == schedule.t_max:
        return
    t = torch.linspace(schedule.t_min, schedule.t_max, 12, dtype=torch.float64)
    s, t_, u = schedule(t[:-2]), schedule(t[1:-1]), schedule(t[2:])
    first, second, whole = Bridge.between(u, t_), Bridge.between(t_, s), Bridge.between(u, s)
    torch.testing.assert_close(second.on_x + second.on_xt * first.on_x, whole.on_x, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(second.on_xt * first.on_xt, whole.on_xt, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(second.small + second.on_xt**2 * first.small, whole.small, rtol=1e-10, atol=1e-12)


@EACH
def test_both_ends_are_finite(schedule):
    levels = schedule([schedule.t_max, schedule.t_min]).and_clean()
    for row in (Bridge.between(levels[0], levels[2]), Bridge.between(levels[1], levels[2])):
        assert all(torch.isfinite(getattr(row, name)) for name in ("on_x", "on_xt", "small", "large", "log_large"))
        assert row.on_x == 1
        assert row.on_xt == row.small == 0
    if schedule.t_max > schedule.t_min:
        assert all(torch.isfinite(value).all() for value in vars(Bridge.table(levels)).values())


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_reverse_variances_are_the_geometric_interpolation(chain):
    bridge = Bridge.table(chain.levels)[:-1] if len(chain) > 1 else Bridge.table(chain.levels)
    x = torch.zeros(len(bridge), dtype=torch.float64)
    if not len(bridge) or len(chain) == 1:
        return
    here, there = chain.levels[:-2], chain.levels[1:-1]
    one_minus_r = -torch.expm1(here.logsnr - there.logsnr)
    for f in (0.0, 0.25, 1.0):
        expected = one_minus_r * there.sigma ** (2 * (1 - f)) * here.sigma ** (2 * f)
        for spread in (FixedVariance(f), LearnedRangeVariance(torch.full_like(x, 2 * f - 1))):
            torch.testing.assert_close(spread.log_variance(bridge, x).exp(), expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(LearnedVariance(x - 3).log_variance(bridge, x), x - 3)


def test_the_last_transition_borrows_the_variance_before_it():
    bridge = Bridge.table(CHAINS["linear-1000"].levels)
    assert bridge.small[-1] == 0
    assert bridge.log_small[-1] == bridge.log_small[-2]
    x = torch.zeros(1, dtype=torch.float64)
    last = bridge[len(bridge) - 1]
    for f in (0.0, 0.5, 1.0):
        assert FixedVariance(f).log_variance(last, x) == bridge.log_small[-2]


def test_optimal_variance_is_beta_for_standard_normal_data_and_beta_tilde_for_a_point():
    chain = CHAINS["linear-1000"]
    bridge = Bridge.table(chain.levels)[:-1]
    x = torch.zeros(len(bridge), dtype=torch.float64)
    known = chain.levels.sigma[:-2] ** 2  # Var[x_0|x_t] of x_0 ~ N(0, 1) under variance preservation
    torch.testing.assert_close(ExactVariance(known).log_variance(bridge, x).exp(), bridge.large, rtol=1e-10, atol=0)
    torch.testing.assert_close(ExactVariance(0 * known).log_variance(bridge, x).exp(), bridge.small, rtol=1e-12, atol=0)


def test_steps_of_the_forward_process_add_up_to_the_jump():
    """Mean and variance of x_T after T steps, by Monte Carlo and by the coefficients themselves."""
    chain = Chain(B.linear_betas(50))
    gain, variance = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for row in range(49, -1, -1):
        there, here = chain.levels[row + 1], chain.levels[row]
        factor, spread = forward_step(one, there, here, zero), forward_step(zero, there, here, one)
        gain, variance = factor * gain, factor**2 * variance + spread**2
    torch.testing.assert_close(gain.squeeze(), chain.levels.alpha[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(variance.squeeze(), chain.levels.sigma[0] ** 2, rtol=1e-12, atol=0)
    n = 20_000
    x = torch.full((n, 1), 0.7)
    noises = (standard_normal((1,), 0, torch.arange(n), step=k) for k in range(50))
    states = list(forward_trajectory(x, chain.levels, noises))
    assert len(states) == 51
    for row in (49, 25, 0):
        state, level = states[50 - row], chain.levels[row]
        assert abs(state.mean() - 0.7 * level.alpha) < 4 * level.sigma / n**0.5
        assert abs(state.var() - level.sigma**2) < 4 * level.sigma**2 * (2 / n) ** 0.5


def test_a_jump_mixes_signal_and_noise_per_example():
    level = Level(
        torch.tensor([1.0, 0.6]).double(), torch.tensor([0.0, 0.8]).double(), torch.tensor([-1.0, 3.0]).double()
    )
    x, eps = torch.ones(2, 1, 2, 2), torch.full((2, 1, 2, 2), 2.0)
    torch.testing.assert_close(add_noise(x, level, eps)[:, 0, 0, 0], torch.tensor([1.0, 2.2]))
    assert add_noise(x, level, eps).dtype == torch.float32
    assert add_noise(x.half(), level, eps.half()).dtype == torch.float32
