"""Coefficients applied to the true target return x exactly; the table's rows against the papers' formulas."""

from __future__ import annotations

import pytest
import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.forward import add_noise
from undiffuse.process.posteriors import bridge_mean
from undiffuse.process.predictions import PREDICTIONS, make_prediction

COMBINATIONS = [
    (name, prediction)
    for name, schedule in SCHEDULES.items()
    for prediction in PREDICTIONS
    if not (prediction == "posterior_mean" and not isinstance(schedule, Chain))
    and not (prediction == "epsilon" and schedule(schedule.t_max).alpha == 0)
]


def draws(schedule, n=64):
    generator = torch.Generator().manual_seed(0)
    t = schedule.nearest(torch.linspace(schedule.t_min, schedule.t_max, n, dtype=torch.float64))
    x = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    return schedule(t), x, torch.randn(n, 3, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("name", "prediction"), COMBINATIONS)
def test_the_true_target_returns_x(name, prediction):
    schedule = SCHEDULES[name]
    level, x, eps = draws(schedule)
    p = make_prediction(prediction, schedule)
    row = p.affine(level)
    x_t = add_noise(x, level, eps)
    x_hat = row.c_skip[:, None] * x_t + row.c_out[:, None] * p.target(x, eps, level)
    # 1/alpha amplifies rounding by up to sigma/alpha, about 2e4 on these schedules (1.8e3 in c_skip of the mean)
    torch.testing.assert_close(x_hat, x, rtol=1e-9, atol=1e-9)


def test_targets_are_what_their_names_say():
    schedule = SCHEDULES["linear-1000"]
    level, x, eps = draws(schedule)
    a, s = level.alpha[:, None], level.sigma[:, None]
    sd = 0.5
    x_t = a * x + s * eps
    expected = {
        "epsilon": eps,
        "x0": x,
        "v": a * eps - s * x,
        "flow": eps - x,
        # EDM (Karras et al. 2022, eq. 8) for the rescaled y = x_t/alpha at sigma/alpha
        "edm": (x - sd**2 / ((s / a) ** 2 + sd**2) * (x_t / a)) * ((s / a) ** 2 + sd**2).sqrt() / ((s / a) * sd),
        "posterior_mean": bridge_mean(x, x_t, Bridge.table(schedule.levels)[schedule.row(level)]),
    }
    for name, target in expected.items():
        torch.testing.assert_close(
            make_prediction(name, schedule, sd).target(x, eps, level), target, rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize("name", SCHEDULES)
def test_inputs_of_the_network_have_unit_variance(name):
    """c_in x_t has variance 1 for data of the standard deviation the prediction assumes (1; sd for karras)."""
    schedule = SCHEDULES[name]
    level, *_ = draws(schedule)
    for prediction, sd in (("v", 1.0), ("x0", 1.0), ("edm", 0.5)):
        c_in = make_prediction(prediction, schedule, 0.5).affine(level).c_in
        torch.testing.assert_close(c_in**2 * (level.alpha**2 * sd**2 + level.sigma**2), torch.ones_like(c_in))


@pytest.mark.parametrize("name", ["linear-zero", "flow"])
def test_noise_prediction_is_refused_at_zero_terminal_snr(name):
    with pytest.raises(ValueError, match="zero terminal SNR"):
        make_prediction("epsilon", SCHEDULES[name])


def test_contradictions_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="discrete"):
        make_prediction("posterior_mean", SCHEDULES["vp"])
    with pytest.raises(ValueError, match="posterior_mean, v"):
        make_prediction("speed", CHAINS["linear-100"])


def test_the_mean_of_a_respaced_chain_uses_the_chain_it_was_trained_on():
    chain = CHAINS["linear-1000"]
    p = make_prediction("posterior_mean", chain)
    rows = torch.tensor([0, 200, 999])
    respaced, whole = p.affine(chain.levels[rows]), p.affine(chain.levels[:-1])
    torch.testing.assert_close(respaced.c_out, whole.c_out[rows])
