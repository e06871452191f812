"""Objectives on exact denoisers and against the papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.levels import broadcast_to
from undiffuse.process.likelihood.bound import LOG_2, Bins, Density, chain_bound
from undiffuse.process.oracles import Mixture
from undiffuse.process.posteriors import LearnedRangeVariance, Posterior
from undiffuse.process.predictions import PREDICTIONS, make_prediction
from undiffuse.training.objectives import LOSS_WEIGHTS, Hybrid, Simple, VariationalBound, edm_weight, make_weight

d = torch.float64


def draws(schedule, n=32):
    generator = torch.Generator().manual_seed(0)
    t = schedule.nearest(torch.linspace(schedule.t_min, schedule.t_max, n, dtype=d))
    x, eps = (torch.randn(n, 2, dtype=d, generator=generator) for _ in range(2))
    return schedule(t), x, eps


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_unit_weight_is_the_plain_error_of_what_is_predicted(prediction):
    """|F - F*|² of an output that is off by a known amount."""
    schedule = CHAINS["linear-100"]
    level, x, eps = draws(schedule)
    p = make_prediction(prediction, schedule)
    row = p.affine(level)

    def denoise(x_t, level):
        F = p.target(x, eps, level) + 0.1 * x.cos()
        return Posterior(broadcast_to(row.c_skip, x_t) * x_t + broadcast_to(row.c_out, x_t) * F)

    loss = Simple(make_weight("unit", p, 0.5))(denoise, x, eps, level)
    torch.testing.assert_close(loss, (0.1 * x.cos()).pow(2).mean(1), rtol=1e-6, atol=0)


def test_snr_weight_is_the_error_of_the_noise():
    level, x, eps = draws(SCHEDULES["vp"])
    x_hat = x + 0.1
    loss = Simple(make_weight("snr", make_prediction("x0", SCHEDULES["vp"]), 0.5))(
        lambda *_: Posterior(x_hat), x, eps, level
    )
    eps_hat = eps - (level.alpha / level.sigma)[:, None] * 0.1
    torch.testing.assert_close(loss, (eps_hat - eps).pow(2).mean(1), rtol=1e-9, atol=0)


def test_the_other_weights_are_the_papers_formulas():
    level, *_ = draws(SCHEDULES["vp"])
    snr = (level.alpha / level.sigma) ** 2
    prediction = make_prediction("epsilon", SCHEDULES["vp"])
    expected = {
        "snr": snr,
        "min_snr": torch.minimum(snr, torch.tensor(5.0, dtype=d)),
        "p2": snr / (1 + snr),
        "sigmoid": snr / (1 + snr),
        "unit": snr,
        "edm": (snr**-1 + 0.25) * snr / 0.25,
    }
    assert set(expected) == set(LOSS_WEIGHTS)
    for name, weight in expected.items():
        torch.testing.assert_close(make_weight(name, prediction, 0.5)(level), weight, rtol=1e-9, atol=0)
    torch.testing.assert_close(make_weight("min_snr", prediction, 0.5, gamma=2.0)(level), snr.clamp(max=2.0))
    torch.testing.assert_close(make_weight("p2", prediction, 0.5, gamma=0.5)(level), snr / (1 + snr) ** 0.5)
    torch.testing.assert_close(make_weight("sigmoid", prediction, 0.5, bias=1.0)(level), snr / (1 + snr / math.e))
    edm = SCHEDULES["edm"](torch.tensor([0.1, 2.0]))
    torch.testing.assert_close(edm_weight(0.5)(edm), (edm.sigma**2 + 0.25) / (edm.sigma * 0.5) ** 2)


def test_edm_weight_makes_every_level_count_the_same():
    """Data of standard deviation sigma_data: weight · mmse = 1 at every level (EDM, section 5)."""
    schedule = SCHEDULES["edm"]
    t = torch.logspace(-2, 1.8, 9, dtype=d)
    level = schedule(t)
    mmse = 0.25 * level.sigma**2 / (0.25 + level.sigma**2)
    torch.testing.assert_close(edm_weight(0.5)(level) * mmse, torch.ones(9, dtype=d))


@pytest.mark.parametrize("T", [10, 100])
def test_the_bound_as_an_objective_averages_to_the_bound(T):
    """E_t[T · L_t] over every t is the sum of the chain's terms."""
    chain = CHAINS["cosine-100"] if T == 100 else Chain(torch.linspace(0.05, 0.5, 10, dtype=d))
    exact = Mixture.gaussian(torch.tensor([0.1, 0.2], dtype=d), torch.diag(torch.tensor([0.3, 0.1], dtype=d)))
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(1, 2, dtype=d, generator=generator) / 3, torch.randn(1, 2, dtype=d, generator=generator)
    whole = chain_bound(exact, x, chain.levels, [eps] * T, Density()).steps.sum() / LOG_2
    objective = VariationalBound(chain, Bridge.table(chain.levels), Density())
    each = objective(exact, x.expand(T, 2), eps.expand(T, 2), chain(torch.arange(T, dtype=d)))
    torch.testing.assert_close(each.mean(), whole)


def test_hybrid_trains_the_variance_by_the_bound_and_the_mean_by_the_simple_loss_alone():
    chain = CHAINS["linear-100"]
    level, x, eps = draws(chain)
    weight = make_weight("snr", make_prediction("epsilon", chain), 0.5)
    bound = VariationalBound(chain, Bridge.table(chain.levels), Bins(256))
    mean, v = (0.9 * x).requires_grad_(), torch.full_like(x, 0.1, requires_grad=True)

    def denoise(x_t, level):
        return Posterior(mean, LearnedRangeVariance(v))

    Hybrid(Simple(weight), bound)(denoise, x, eps, level).sum().backward()
    hybrid_mean, hybrid_v = mean.grad.clone(), v.grad.clone()
    mean.grad = v.grad = None
    Simple(weight)(denoise, x, eps, level).sum().backward()
    torch.testing.assert_close(hybrid_mean, mean.grad)
    assert v.grad is None
    bound(denoise, x, eps, level).sum().backward()
    torch.testing.assert_close(hybrid_v, 0.001 * v.grad)
    assert (hybrid_v[1:] != 0).all()  # at t = 0 the first example's bin is at the floor of probability


def test_the_bounds_minimum_is_the_optimal_variance():
    """Among learned fractions, the bound of Gaussian data is least where the variance is Analytic-DPM's."""
    chain, row = CHAINS["linear-100"], 60
    bridges, level = Bridge.table(chain.levels), chain.levels[60:61]
    n = 4000
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(n, 1, dtype=d, generator=generator) for _ in range(2))
    x *= 0.5
    exact = Mixture.gaussian(torch.zeros(1, dtype=d), torch.full((1, 1), 0.25, dtype=d))
    known = 0.25 * level.sigma**2 / (level.alpha**2 * 0.25 + level.sigma**2)
    optimal = (bridges[row].small + bridges[row].on_x ** 2 * known).log()
    best = 2 * ((optimal - bridges[row].log_small) / (bridges[row].log_large - bridges[row].log_small)) - 1
    objective = VariationalBound(chain, bridges, Density())
    level = chain(torch.full((n,), chain.levels.timestep[row].item()))

    def loss_of(shift):
        def denoise(x_t, level):
            return Posterior(exact(x_t, level).mean, LearnedRangeVariance((best + shift).expand_as(x_t)))

        return objective(denoise, x, eps, level).mean()

    losses = {shift: loss_of(shift) for shift in (-0.6, 0.0, 0.6)}
    assert losses[0.0] < losses[-0.6]
    assert losses[0.0] < losses[0.6]
    assert math.isfinite(losses[0.0])


def test_unknown_weights_are_refused():
    with pytest.raises(ValueError, match="min_snr"):
        make_weight("best", make_prediction("x0", SCHEDULES["vp"]), 0.5)
