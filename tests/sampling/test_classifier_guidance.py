"""Guidance by gradients on mixtures, where classifier, score and guided distribution are known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad

from undiffuse.process.betas import BETAS
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.oracles import Mixture
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import FixedVariance, Posterior
from undiffuse.process.schedules import CONTINUOUS
from undiffuse.sampling.classifier_guidance import Guide, MeanGuided, by_score
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.guidance import classifier_free, clipped, composed, separate_pair
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.solvers.ancestral import Ancestral
from undiffuse.sampling.solvers.exponential import Heun

d = torch.float64
WEIGHTS = torch.tensor([0.5, 0.3, 0.2], dtype=d)
MEANS = torch.tensor([[-1.0, 0.3], [1.0, 0.5], [0.4, -1.0]], dtype=d)
COVARIANCES = torch.tensor([[[0.2, 0.05], [0.05, 0.1]], [[0.15, 0.0], [0.0, 0.15]], [[0.05, 0.0], [0.0, 0.3]]], dtype=d)
ALL = Mixture(WEIGHTS, MEANS, COVARIANCES)
SCHEDULE = CONTINUOUS["vp"]()


def of_component(k):
    return Mixture.gaussian(MEANS[k], COVARIANCES[k])


def towards(k, mixture=ALL):
    return lambda x_t, level, index: mixture.responsibilities(x_t, level)[:, k].log()


def guided(k, scale):
    return by_score(ALL, [Guide(towards(k), scale)], torch.arange(64))


@pytest.mark.parametrize("t", [0.05, 0.4, 0.95])
def test_bayes_rule_scale_one_is_the_conditional_model(t):
    level, x_t = SCHEDULE(t), torch.randn(64, 2, dtype=d, generator=torch.Generator().manual_seed(0))
    for k in range(3):
        torch.testing.assert_close(
            guided(k, 1.0)(x_t, level).mean, of_component(k)(x_t, level).mean, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0])
def test_a_classifier_and_classifier_free_guidance_say_the_same_where_both_are_exact(scale):
    level, x_t = SCHEDULE(0.4), torch.randn(64, 2, dtype=d, generator=torch.Generator().manual_seed(0))
    free = classifier_free(separate_pair(of_component(1), ALL), scale)
    torch.testing.assert_close(guided(1, scale)(x_t, level).mean, free(x_t, level).mean, rtol=1e-9, atol=1e-9)


def test_sampling_at_scale_one_is_the_conditional_distribution():
    """Mean and covariance of the component asked for, within Monte-Carlo error of n draws: 4 standard errors."""
    n, k = 4000, 1
    index = torch.arange(n)
    levels = make_grid(CONTINUOUS["vp"](), "logsnr", 60)
    denoise = by_score(ALL, [Guide(towards(k))], index)
    x = standard_normal((2,), 0, index).double() * levels.sigma[0]
    end = final(trajectory(x, denoise, levels, Heun(), seed=0, index=index))
    S = COVARIANCES[k]
    assert ((end.mean(0) - MEANS[k]).abs() < 4 * (S.diagonal() / n).sqrt() + 1e-3).all()
    # a sample covariance has the variance (S_ij² + S_ii S_jj)/n
    error = ((S**2 + S.diagonal()[:, None] * S.diagonal()) / n).sqrt()
    assert ((torch.cov(end.T) - S).abs() < 4 * error + 1e-3).all()


@pytest.mark.parametrize("scale", [2.0, 4.0])
def test_other_scales_land_where_the_closed_form_says(scale):
    """The guided score is the derivative of log p_t(x) + s log p_t(y | x) (Dhariwal & Nichol 2021, section 4.1)."""
    level = SCHEDULE(0.3)
    x_t = torch.randn(64, 2, dtype=d, generator=torch.Generator().manual_seed(1)).requires_grad_()
    tilted = ALL.log_density(x_t, level) + scale * ALL.responsibilities(x_t, level)[:, 2].log()
    (score,) = torch.autograd.grad(tilted.sum(), x_t)
    found = guided(2, scale)(x_t.detach(), level).mean
    torch.testing.assert_close((level.alpha * found - x_t.detach()) / level.sigma**2, score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5, 5.0])
def test_the_guided_flow_of_two_gaussians_lands_where_its_closed_form_says(scale):
    """p(x) = N(0, S_0), p(x | y) = N(m, S_1): the guided flow dx/dsigma = (x - x̂)/sigma is linear,

        dx/dsigma = sigma ((1 - s) x/(S_0 + sigma²) + s (x - m)/(S_1 + sigma²)),

    so with h(sigma) = (S_0 + sigma²)^((1-s)/2) (S_1 + sigma²)^(s/2) it ends in
    x_0 = h(0)/h(T) x_T + h(0) s m times the integral of sigma/((S_1 + sigma²) h(sigma)) from 0 to T.
    """
    S0, S1, m = 1.0, 0.09, 0.8
    schedule = CONTINUOUS["edm"]()
    levels = make_grid(schedule, "karras", 400)
    prior, told = (
        Mixture.gaussian(torch.tensor([a], dtype=d), torch.tensor([[b]], dtype=d)) for a, b in ((0.0, S0), (m, S1))
    )
    ratio = Guide(lambda x, level, index: told.log_density(x, level) - prior.log_density(x, level), scale)
    x_T = torch.tensor([[-60.0], [0.0], [35.0]], dtype=d)
    index = torch.arange(3)
    end = final(trajectory(x_T, by_score(prior, [ratio], index), levels, Heun(), seed=0, index=index))

    def h(sigma):
        return (S0 + sigma**2) ** ((1 - scale) / 2) * (S1 + sigma**2) ** (scale / 2)

    low, high = schedule.t_min, schedule.t_max
    integral, _ = quad(lambda v: v / ((S1 + v**2) * h(v)), low, high, limit=400, points=[0.1, 1.0, 10.0])
    at_low = h(low) / h(high) * x_T + h(low) * scale * m * integral
    level = schedule(low)
    expected = by_score(prior, [ratio], index)(at_low, level).mean  # the last step answers x̂
    torch.testing.assert_close(end, expected, rtol=0, atol=2e-3)


def test_several_guides_add_up_and_pure_noise_is_left_alone():
    level, x_t = SCHEDULE(0.3), torch.randn(64, 2, dtype=d, generator=torch.Generator().manual_seed(1))
    index = torch.arange(64)
    both = by_score(ALL, [Guide(towards(0), 0.7), Guide(towards(2), 1.3)], index)(x_t, level).mean
    one, other = (by_score(ALL, [Guide(towards(k), s)], index)(x_t, level).mean for k, s in ((0, 0.7), (2, 1.3)))
    plain = ALL(x_t, level).mean
    torch.testing.assert_close(both - plain, (one - plain) + (other - plain), rtol=1e-9, atol=1e-9)
    noise = Level(*(torch.tensor(v, dtype=d) for v in (0.0, 1.0, 999.0)))
    torch.testing.assert_close(by_score(ALL, [Guide(towards(0))], index)(x_t, noise).mean, ALL(x_t, noise).mean)


def test_each_example_is_pulled_towards_what_is_asked_of_it():
    level, x_t = SCHEDULE(0.3), torch.randn(6, 2, dtype=d, generator=torch.Generator().manual_seed(1))
    wanted = torch.tensor([0, 1, 2, 2, 1, 0])

    def function(x, level, index):
        return ALL.responsibilities(x, level).log().gather(1, wanted[index][:, None])[:, 0]

    index = torch.tensor([5, 0, 3, 2, 4, 1])  # any order
    found = by_score(ALL, [Guide(function)], index)(x_t, level).mean
    for row, k in enumerate(wanted[index].tolist()):
        torch.testing.assert_close(
            found[row : row + 1], of_component(k)(x_t[row : row + 1], level).mean, rtol=1e-8, atol=1e-8
        )


def test_a_function_of_the_clean_example_is_differentiated_through_the_denoiser():
    """For a Gaussian x̂ is affine in x_t with the matrix alpha S (alpha² S + sigma² I)^-1, so the pull of a linear function
    c·x̂ is that matrix applied to c (symmetric, as it is a function of S)."""
    S = COVARIANCES[0]
    gaussian, level, c = of_component(0), SCHEDULE(0.4), torch.tensor([0.7, -1.1], dtype=d)
    x_t = torch.randn(5, 2, dtype=d, generator=torch.Generator().manual_seed(1))
    found = by_score(gaussian, [Guide(lambda x, level, index: x @ c, 2.0, "clean")], torch.arange(5))(x_t, level).mean
    matrix = level.alpha * S @ torch.linalg.inv(level.alpha**2 * S + level.sigma**2 * torch.eye(2, dtype=d))
    expected = gaussian(x_t, level).mean + level.sigma**2 / level.alpha * 2.0 * (matrix @ c)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_mean_form_moves_the_mean_by_variance_times_gradient():
    """ADM's Algorithm 1 (eq. 10), step by step, with the posterior's mean and variance written out by hand; no noise."""
    chain = Chain(BETAS["linear"](50))
    levels = chain.levels[torch.tensor([5, 20, 40, 50])]
    index = torch.arange(7)
    g = torch.tensor([0.3, -0.2], dtype=d)
    guide = Guide(lambda x, level, index: x @ g, 1.7, form="mean")
    x_t = torch.randn(7, 2, dtype=d, generator=torch.Generator().manual_seed(1))

    def denoise(x, level):
        return Posterior(torch.tanh(x), FixedVariance(1.0))

    solver = MeanGuided(Ancestral(), (guide,), index)
    for row, (plan, bridge) in enumerate(zip(solver.plan(levels), Bridge.table(levels).rows(), strict=True)):
        here, there = levels[row], levels[row + 1]
        found = solver.step(x_t, denoise, plan, lambda draw: torch.zeros_like(x_t), None).x
        beta = 1 - (here.alpha / there.alpha) ** 2
        if there.sigma:
            mean = (
                there.alpha * beta * torch.tanh(x_t) + here.alpha / there.alpha * there.sigma**2 * x_t
            ) / here.sigma**2
            variance = beta  # fixed_large
        else:
            mean, variance = torch.tanh(x_t), bridge.log_small.exp()  # the borrowed one, as in the released code
        torch.testing.assert_close(found, mean + 1.7 * variance * g, rtol=1e-9, atol=1e-9)


def test_kept_noise_is_moved_as_in_the_released_code():
    """Algorithm 2: eps - s sigma g, whatever clipping has done to x̂."""
    level, x_t = SCHEDULE(0.4), torch.randn(7, 2, dtype=d, generator=torch.Generator().manual_seed(1))
    g = torch.tensor([0.3, -0.2], dtype=d)

    def kept(x, at):
        return clipped(ALL, -0.2, 0.2, keep_eps=True)(x, at)

    found = by_score(kept, [Guide(lambda x, at, index: x @ g, 1.7)], torch.arange(7))(x_t, level)
    torch.testing.assert_close(found.eps(x_t, level), ALL(x_t, level).eps(x_t, level) - 1.7 * level.sigma * g)
    torch.testing.assert_close(found.mean, kept(x_t, level).mean + 1.7 * level.sigma**2 / level.alpha * g)


def test_a_function_of_the_clean_example_has_no_mean_form():
    with pytest.raises(ValueError, match="score"):
        Guide(lambda x, level, index: x.sum(1), of="clean", form="mean")


def test_nested_scales_of_equal_size_are_plain_guidance_and_one_each_is_fully_told():
    """Three beliefs: nothing said, the first condition, both."""
    level, x_t = SCHEDULE(0.4), torch.randn(64, 2, dtype=d, generator=torch.Generator().manual_seed(0))
    sets = [ALL, Mixture(WEIGHTS[:2], MEANS[:2], COVARIANCES[:2]), of_component(1)]

    def several(x, at):
        return [belief(x, at) for belief in sets]

    for s in (0.0, 1.0, 2.5):
        torch.testing.assert_close(
            composed(several, [s, s])(x_t, level).mean, classifier_free(separate_pair(sets[2], ALL), s)(x_t, level).mean
        )
    # the closed form: grad of log p(x) + s1 log p(c1 | x) + s2 log p(c2 | x, c1)
    x = x_t.clone().requires_grad_()
    first = ALL.responsibilities(x, level)[:, :2].sum(1).log()
    second = sets[1].responsibilities(x, level)[:, 1].log()
    (score,) = torch.autograd.grad((ALL.log_density(x, level) + 1.5 * first + 3.0 * second).sum(), x)
    found = composed(several, [1.5, 3.0])(x_t, level).mean
    torch.testing.assert_close((level.alpha * found - x_t) / level.sigma**2, score, rtol=1e-9, atol=1e-9)
    assert math.isfinite(found.sum().item())
