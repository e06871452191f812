"""A noise estimate that is kept beside x̂: CFG++ (Chung et al. 2025, Algorithm 2) and clipping as diffusers does it, with every solver.

x_s = alpha_s x̂ + sigma_s eps        at every step, x̂ guided or clipped, eps unguided or unclipped                     (1)
"""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDIMScheduler

from tests.process.instances import CHAINS, SCHEDULES
from tests.sampling.test_guidance import BOTH, RIGHT, d
from undiffuse.process.bridges import Bridge
from undiffuse.process.levels import Level
from undiffuse.process.oracles import Mixture
from undiffuse.process.posteriors import Posterior
from undiffuse.sampling.classifier_guidance import Guide, MeanGuided
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.guidance import cfg_plus_plus, classifier_free, clipped, separate_pair
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.sampling.solvers.ancestral import DDIM, Ancestral
from undiffuse.sampling.solvers.base import moves
from undiffuse.sampling.solvers.registry import SOLVERS, Settings, make_solver

SCHEDULE = SCHEDULES["cosine_continuous"]
WALKING = [name for name in SOLVERS if name not in ("adaptive", "lcm")]
IN_THE_ANGLE = ("adams", "heun")
KINDS = [(name, order) for name in WALKING for order in SOLVERS[name].orders]
PAIR = separate_pair(RIGHT, BOTH)
SHARE = 0.6
X_HAT, EPS = torch.tensor([[0.7, -0.3]], dtype=d), torch.tensor([[-0.4, 1.1]], dtype=d)


def solver_of(name, order=None):
    return make_solver(name, Settings(order), SCHEDULE)


def quiet(draw):
    return torch.zeros(1, 2, dtype=d)


def constant(x_t, level):
    return Posterior(X_HAT, kept_eps=EPS)


def walked(denoise, name, levels, x, order=None):
    return final(trajectory(x, denoise, levels, solver_of(name, order), seed=0, index=torch.arange(len(x))))


def noise_kept(name, here: Level, there: Level) -> float:
    """The share of sigma_s that is old noise: all of it, or what the fresh noise of a stochastic solver leaves (Song et al. 2021, eq. 12)."""
    small = Bridge.between(here, there).small
    return math.sqrt(float(there.sigma**2 - small)) if solver_of(name).stochastic else float(there.sigma)


@pytest.mark.parametrize(("name", "order"), [kind for kind in KINDS if kind[0] not in IN_THE_ANGLE])
def test_every_step_is_the_published_one(name, order):
    """With a pair that is the same at every x, all orders have the same values to go through, and (1) holds at every row."""
    levels, solver = make_grid(SCHEDULE, "logsnr", 9), solver_of(name, order)
    x, state = torch.tensor([[5.0, -7.0]], dtype=d), None  # nothing of it may be left after a step
    block = order if "single" in name or name == "dpm2" else 1
    base = 0
    for k, (row, move) in enumerate(zip(solver.plan(levels), moves(levels), strict=True)):
        base = k if k % block == 0 else base
        step = solver.step(x, constant, row, quiet, state)
        x, state = step.x, step.state
        kept = noise_kept(name, levels[base], move.there) if move.there.sigma else 0.0
        torch.testing.assert_close(x, move.there.alpha * X_HAT + kept * EPS, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "order"), [("adams", 1), ("adams", 2), ("adams", 3), ("heun", 2)])
def test_solvers_in_the_angle_reach_it_by_their_order(name, order):
    """There (1) is cos(phi) x̂ + sin(phi) eps, which polynomials of the velocity follow at the solver's order and no worse."""
    errors = []
    for steps in (20, 40):
        angle = torch.linspace(1.3, 0.2, steps + 1, dtype=d)
        levels = Level(angle.cos(), angle.sin(), angle)
        x = walked(constant, name, levels, torch.tensor([[5.0, -7.0]], dtype=d), order)
        errors.append((x - levels.alpha[-1] * X_HAT - levels.sigma[-1] * EPS).norm().item())
    assert errors[1] < errors[0] / 2 ** (order - 0.2)


@pytest.mark.parametrize(("name", "order"), KINDS)
def test_the_first_step_is_an_ordinary_one_from_where_the_pair_belongs(name, order):
    """For pairs that depend on x, of known mixtures; noise included."""
    levels = make_grid(SCHEDULE, "logsnr", 6)
    x_t = torch.linspace(-2, 2, 9, dtype=d)[:, None]
    with_, without = PAIR(x_t, levels[0])
    a, s = levels.alpha[0], levels.sigma[0]
    x_hat = torch.lerp(without.mean, with_.mean, SHARE)
    eps = (x_t - a * without.mean) / s
    solver = solver_of(name, order)
    solver = solver.inner if name == "pc" else solver  # its Langevin steps come first; they follow the kept noise
    index = torch.arange(9)

    def known(y, level):
        """The pair at the first level, whatever x; elsewhere CFG++ again, which Heun asks for."""
        return with_.with_mean(x_hat) if torch.equal(level.sigma, s) else cfg_plus_plus(PAIR, SHARE)(y, level)

    ours = next(trajectory(x_t, cfg_plus_plus(PAIR, SHARE), levels, solver, seed=0, index=index)).x
    torch.testing.assert_close(
        ours, next(trajectory(a * x_hat + s * eps, known, levels, solver, seed=0, index=index)).x
    )


def test_dpm_solver_plus_plus_2m_by_hand():
    """Lu et al. 2022b, Algorithm 2, from x' = alpha x̂ + sigma eps at every step."""
    levels = make_grid(SCHEDULE, "logsnr", 8)
    x = torch.linspace(-2, 2, 9, dtype=d)[:, None]
    ours, old, h_old = walked(cfg_plus_plus(PAIR, SHARE), "dpm++", levels, x), None, None
    lam = (levels.alpha / levels.sigma).log()
    for k in range(8):
        with_, without = PAIR(x, levels[k])
        eps, x_hat = without.eps(x, levels[k]), torch.lerp(without.mean, with_.mean, SHARE)
        x, h = levels.alpha[k] * x_hat + levels.sigma[k] * eps, lam[k + 1] - lam[k]
        if k == 7:
            x = x_hat
            break
        D = x_hat if old is None else x_hat + h / (2 * h_old) * (x_hat - old)
        x = levels.sigma[k + 1] / levels.sigma[k] * x - levels.alpha[k + 1] * torch.expm1(-h) * D
        old, h_old = x_hat, h
    torch.testing.assert_close(ours, x)


def test_blocks_of_two_by_hand():
    """DPM-Solver++(2S) as k-diffusion writes it, in x/alpha, where a jump is x̂ - x̂_unguided: one at each of the two levels."""
    levels = make_grid(SCHEDULES["edm"], "logsnr", 7)  # alpha = 1
    x = levels.sigma[0] * torch.linspace(-2, 2, 9, dtype=d)[:, None]
    ours = walked(cfg_plus_plus(PAIR, SHARE), "dpm++_single", levels, x, 2)
    sigma = levels.sigma
    for k in range(0, 6, 2):
        with_, without = PAIR(x, levels[k])
        guided = torch.lerp(without.mean, with_.mean, SHARE)
        x = x + guided - without.mean
        half = sigma[k + 1] / sigma[k] * x + (1 - sigma[k + 1] / sigma[k]) * guided
        with_, without = PAIR(half, levels[k + 1])
        second = torch.lerp(without.mean, with_.mean, SHARE)
        h, r = (sigma[k] / sigma[k + 2]).log(), (sigma[k] / sigma[k + 1]).log() / (sigma[k] / sigma[k + 2]).log()
        mixed = (1 - 1 / (2 * r)) * guided + 1 / (2 * r) * second
        x = (
            sigma[k + 2] / sigma[k] * x
            + sigma[k + 2] / sigma[k + 1] * (second - without.mean)
            - torch.expm1(-h) * mixed
        )
    with_, without = PAIR(x, levels[6])
    torch.testing.assert_close(ours, torch.lerp(without.mean, with_.mean, SHARE))


@pytest.mark.parametrize("name", WALKING)
def test_samples_are_neither_unguided_nor_plainly_guided(name):
    """And they go where DDIM's go: what twenty steps of two solvers differ by is less than what guidance does."""
    levels = make_grid(SCHEDULE, "karras", 20)
    x = torch.linspace(-2, 2, 41, dtype=d)[:, None] * levels.sigma[0]
    ours, unguided, plain = (
        walked(denoise, name, levels, x) for denoise in (cfg_plus_plus(PAIR, SHARE), BOTH, classifier_free(PAIR, SHARE))
    )
    assert (ours - unguided).abs().mean() > 0.9
    assert (ours - plain).abs().mean() > 0.1
    assert (ours > 0).double().mean() > max(
        0.95, (plain > 0).double().mean()
    )  # all that started on the left were taken over
    if not solver_of(name).stochastic:
        assert (ours - walked(cfg_plus_plus(PAIR, SHARE), "ddim", levels, x)).abs().mean() < 0.1


@pytest.mark.parametrize("name", WALKING)
def test_clipping_that_keeps_the_noise_is_neither_none_nor_the_other_clipping(name):
    wide = Mixture(
        torch.tensor([0.5, 0.5], dtype=d), torch.tensor([[-1.0], [1.0]], dtype=d), torch.full((2, 1, 1), 0.25, dtype=d)
    )
    levels = make_grid(SCHEDULE, "logsnr", 10)[:-1]  # a clean end is clipped by all three
    x = torch.linspace(-2, 2, 41, dtype=d)[:, None] * levels.sigma[0]
    none, again, kept = (
        walked(f, name, levels, x) for f in (wide, clipped(wide, -1, 1), clipped(wide, -1, 1, keep_eps=True))
    )
    assert (kept - none).abs().max() > 0.1
    assert (kept - again).abs().max() > 1e-3


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_clipping_that_keeps_the_noise_is_diffusers(spacing, prediction):
    theirs = DDIMScheduler(1000, clip_sample=True, prediction_type=prediction, timestep_spacing=spacing)
    theirs.set_timesteps(10)  # DDIMScheduler steps to t - T//n, which is the next level where n divides T
    chain = CHAINS["linear-1000"]
    levels = make_grid(chain, spacing, 10)
    x = torch.randn(7, 3, dtype=d, generator=torch.Generator().manual_seed(3))

    def output(x_t, t):
        return torch.sin(3 * x_t) + 0.001 * t

    def denoise(x_t, level):
        a, s, F = level.alpha, level.sigma, output(x_t, float(level.timestep))
        return Posterior((x_t - s * F) / a if prediction == "epsilon" else a * x_t - s * F)

    ours = final(trajectory(x, clipped(denoise, -1, 1, keep_eps=True), levels, DDIM(), seed=0, index=torch.arange(7)))
    for t in theirs.timesteps:
        x = theirs.step(output(x, float(t)), t, x, use_clipped_model_output=False).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)  # its alpha-bar are float32 products


def test_a_gradient_in_the_mean_moves_the_mean_by_variance_times_gradient_whatever_noise_is_kept():
    levels = CHAINS["linear-1000"].levels[[300, 500, 1000]]
    x, index = torch.tensor([[0.3, -0.8]], dtype=d), torch.arange(1)
    guide = Guide(lambda x, level, index: (2.0 * x).sum(1), form="mean")
    solvers = MeanGuided(Ancestral(0.0), (guide,), index), Ancestral(0.0)
    one, other = (next(trajectory(x, constant, levels, solver, seed=0, index=index)).x for solver in solvers)
    torch.testing.assert_close(one - other, 2.0 * Bridge.table(levels).small[0].expand_as(x))


@pytest.mark.parametrize(("name", "why"), [("adaptive", "without any"), ("lcm", "keeps none")])
def test_an_integrator_of_the_flow_and_one_that_keeps_no_noise_refuse_it(name, why):
    for settings in ({"guidance_method": "cfg++", "guidance": 0.6}, {"epsilon_from": "unclipped"}):
        with pytest.raises(ValueError, match=why):
            SamplingConfig(solver=name, **settings).build_solver(SCHEDULE)
    SamplingConfig(solver=name, clip="none", epsilon_from="unclipped").build_solver(SCHEDULE)
    with pytest.raises(ValueError, match=why):
        walked(cfg_plus_plus(PAIR, SHARE), name, make_grid(SCHEDULE, "logsnr", 3), torch.ones(2, 1, dtype=d))
