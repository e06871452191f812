"""Guidance on mixtures, where the answer is known, and the two conventions of clipping."""

from __future__ import annotations

import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.oracles import Mixture
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import Posterior
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.guidance import (
    cfg_plus_plus,
    classifier_free,
    clipped,
    dynamically_thresholded,
    in_interval,
    projected,
    rescaled,
    separate_pair,
)
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.solvers.ancestral import DDIM
from undiffuse.sampling.solvers.exponential import Heun

d = torch.float64
MEANS = torch.tensor([[-1.0], [1.0]], dtype=d)
COVARIANCES = torch.full((2, 1, 1), 0.09, dtype=d)
BOTH = Mixture(torch.tensor([0.5, 0.5], dtype=d), MEANS, COVARIANCES)
RIGHT = Mixture.gaussian(MEANS[1], COVARIANCES[1])


def test_scale_one_is_the_conditional_and_zero_the_unconditional():
    x_t, level = torch.linspace(-2, 2, 9, dtype=d)[:, None], SCHEDULES["vp"](0.5)
    pair = separate_pair(RIGHT, BOTH)
    torch.testing.assert_close(classifier_free(pair, 1.0)(x_t, level).mean, RIGHT(x_t, level).mean, rtol=0, atol=1e-15)
    torch.testing.assert_close(classifier_free(pair, 0.0)(x_t, level).mean, BOTH(x_t, level).mean, rtol=0, atol=1e-15)


def test_guidance_in_the_mean_is_guidance_in_the_noise():
    """The papers extrapolate eps = (1 + w) eps_c - w eps_u; s = 1 + w (Ho & Salimans 2022, eq. 6)."""
    x_t, level = torch.linspace(-2, 2, 9, dtype=d)[:, None], SCHEDULES["vp"](0.5)
    w = 1.5
    eps = (1 + w) * RIGHT(x_t, level).eps(x_t, level) - w * BOTH(x_t, level).eps(x_t, level)
    torch.testing.assert_close(classifier_free(separate_pair(RIGHT, BOTH), 1 + w)(x_t, level).eps(x_t, level), eps)


def test_guidance_equals_the_tilted_score_of_the_closed_form():
    """score_u + s grad log p(y | x_t), the classifier's gradient by automatic differentiation of the exact responsibility."""
    x_t, level, s = torch.linspace(-2, 2, 9, dtype=d)[:, None].requires_grad_(), SCHEDULES["vp"](0.5), 3.0
    (gradient,) = torch.autograd.grad(BOTH.responsibilities(x_t, level)[:, 1].log().sum(), x_t)
    (score,) = torch.autograd.grad(BOTH.log_density(x_t, level).sum(), x_t)
    expected = (x_t + level.sigma**2 * (score + s * gradient)) / level.alpha
    torch.testing.assert_close(classifier_free(separate_pair(RIGHT, BOTH), s)(x_t, level).mean, expected)


def test_guided_samples_of_two_point_masses_land_on_the_one_asked_for():
    tight = Mixture(torch.tensor([0.5, 0.5], dtype=d), MEANS, 1e-4 * torch.ones(2, 1, 1, dtype=d))
    one = Mixture.gaussian(MEANS[1], 1e-4 * torch.ones(1, 1, dtype=d))
    levels = make_grid(SCHEDULES["cosine_continuous"], "uniform", 40)
    index = torch.arange(200)
    x = standard_normal((1,), 0, index).double() * levels.sigma[0]
    end = final(trajectory(x, classifier_free(separate_pair(one, tight), 1.0), levels, Heun(), seed=0, index=index))
    assert (end - 1).abs().max() < 0.1


def examples(seed):
    return torch.randn(5, 3, 4, dtype=d, generator=torch.Generator().manual_seed(seed))


def fixed_pair(x_t, level):
    return Posterior(examples(1)), Posterior(examples(2))


def test_rescaling_brings_back_the_conditional_deviation():
    x_t, level, s = examples(0), SCHEDULES["vp"](0.5), 4.0
    plain, half, whole = (rescaled(fixed_pair, s, share)(x_t, level).mean for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(plain, classifier_free(fixed_pair, s)(x_t, level).mean)
    torch.testing.assert_close(whole.flatten(1).std(1), examples(1).flatten(1).std(1))
    torch.testing.assert_close(half, (plain + whole) / 2)
    torch.testing.assert_close(rescaled(fixed_pair, 1.0, 0.7)(x_t, level).mean, examples(1))


def test_projection_takes_away_the_part_along_the_conditional_belief():
    x_t, level, s = examples(0), SCHEDULES["vp"](0.5), 4.0
    with_, plain = examples(1), classifier_free(fixed_pair, s)(x_t, level).mean
    torch.testing.assert_close(projected(fixed_pair, s, along=1.0)(x_t, level).mean, plain)
    moved = projected(fixed_pair, s)(x_t, level).mean - with_
    torch.testing.assert_close((moved * with_).flatten(1).sum(1), torch.zeros(5, dtype=d), rtol=0, atol=1e-12)
    # what is left out is a multiple of the conditional belief, and nothing else
    left_out = (plain - with_ - moved).flatten(1) / with_.flatten(1)
    torch.testing.assert_close(left_out, left_out[:, :1].expand_as(left_out))
    short = projected(fixed_pair, s, along=1.0, norm_threshold=0.5)(x_t, level).mean - with_
    torch.testing.assert_close(short.flatten(1).norm(dim=1), torch.full((5,), 1.5, dtype=d))
    torch.testing.assert_close(projected(fixed_pair, 1.0)(x_t, level).mean, with_)


def test_plus_takes_the_published_step():
    """Chung et al. 2025, Algorithm 2: x_s = alpha_s x̂(eps_guided) + sigma_s eps_unconditional."""
    levels = make_grid(SCHEDULES["vp"], "uniform", 6)[:2]
    x_t, share = torch.linspace(-2, 2, 9, dtype=d)[:, None], 0.6
    a, b = (m(x_t, levels[0]).eps(x_t, levels[0]) for m in (BOTH, RIGHT))
    guided = (x_t - levels.sigma[0] * (a + share * (b - a))) / levels.alpha[0]
    ours = final(
        trajectory(x_t, cfg_plus_plus(separate_pair(RIGHT, BOTH), share), levels, DDIM(), seed=0, index=torch.arange(9))
    )
    torch.testing.assert_close(ours, levels.alpha[1] * guided + levels.sigma[1] * a)


def test_an_interval_guides_inside_and_costs_nothing_outside():
    calls = []

    def counted(name, denoise):
        return lambda x_t, level: (calls.append(name), denoise(x_t, level))[1]

    guided = classifier_free(separate_pair(counted("with", RIGHT), counted("without", BOTH)), 3.0)
    levels = make_grid(SCHEDULES["edm"], "karras", 10)
    denoise = in_interval(guided, counted("with", RIGHT), 0.3, 5.0)
    inside = int(((levels.sigma_edm >= 0.3) & (levels.sigma_edm <= 5.0)).sum())
    final(trajectory(torch.ones(3, 1, dtype=d), denoise, levels, DDIM(), seed=0, index=torch.arange(3)))
    assert 0 < inside < 10
    assert (calls.count("with"), calls.count("without")) == (10, inside)


def test_clipping_re_derives_or_keeps_the_noise():
    level = CHAINS["linear-1000"](300.0)
    x_t = torch.tensor([[0.5, -0.5]], dtype=d)

    def denoise(x_t, level):
        return Posterior(torch.tensor([[3.0, 0.2]], dtype=d))

    rederived, kept = clipped(denoise, -1, 1)(x_t, level), clipped(denoise, -1, 1, keep_eps=True)(x_t, level)
    expected = torch.tensor([[1.0, 0.2]], dtype=d)
    torch.testing.assert_close(rederived.mean, expected)
    torch.testing.assert_close(kept.mean, expected)
    torch.testing.assert_close(level.alpha * rederived.mean + level.sigma * rederived.eps(x_t, level), x_t)
    torch.testing.assert_close(kept.eps(x_t, level), denoise(x_t, level).eps(x_t, level))
    assert not torch.allclose(kept.eps(x_t, level), rederived.eps(x_t, level))


def test_the_two_conventions_give_the_two_published_steps():
    """One DDIM step with clipping by each code's formulas (openai: eps from clipped x̂; diffusers: the network's)."""
    chain = CHAINS["linear-1000"]
    levels = chain.levels[[100, 400, 1000]]
    a, s, b, r = levels.alpha[0], levels.sigma[0], levels.alpha[1], levels.sigma[1]
    x_t, eps = torch.tensor([[1.3]], dtype=d), torch.tensor([[-0.8]], dtype=d)

    def denoise(x_t, level):
        return Posterior((x_t - level.sigma * eps) / level.alpha)

    x_hat = ((x_t - s * eps) / a).clamp(-1, 1)
    for keep, expected in ((False, b * x_hat + r * (x_t - a * x_hat) / s), (True, b * x_hat + r * eps)):
        moment = next(
            trajectory(x_t, clipped(denoise, -1, 1, keep_eps=keep), levels, DDIM(), seed=0, index=torch.arange(1))
        )
        torch.testing.assert_close(moment.x, expected)


def test_dynamic_thresholding_is_the_papers_per_example_quantile():
    x = torch.tensor([[0.1, -0.2, 0.3, 0.4], [1.0, -4.0, 2.0, 3.0]], dtype=d)
    result = dynamically_thresholded(lambda *_: Posterior(x), 0.5)(x, SCHEDULES["vp"](0.5)).mean
    torch.testing.assert_close(result[0], x[0])  # within the range: untouched
    torch.testing.assert_close(result[1], torch.tensor([0.4, -1.0, 0.8, 1.0], dtype=d))  # the median of |x| is 2.5
