"""Level samplers: the densities they claim, less variance when stratified, unbiased when importance-weighted."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.training.timesteps import LEVEL_SAMPLERS, LossAware, make_timestep_sampler


def sampled(name, schedule, n=20_000, stratified=False):
    return make_timestep_sampler(name, SCHEDULES[schedule], stratified).sample(n, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", LEVEL_SAMPLERS)
@pytest.mark.parametrize("schedule", ["linear-1000", "vp", "edm", "flow", "one-step"])
@pytest.mark.parametrize("stratified", [False, True])
def test_times_are_ones_the_schedule_has(name, schedule, stratified):
    t, weight = sampled(name, schedule, 200, stratified)
    s = SCHEDULES[schedule]
    assert ((t >= s.t_min) & (t <= s.t_max)).all()
    torch.testing.assert_close(s.nearest(t), t)
    torch.testing.assert_close(weight, torch.ones(200, dtype=torch.float64))


def test_uniform_gives_every_step_of_a_chain_the_same_share():
    t, _ = make_timestep_sampler("uniform", CHAINS["list"], False).sample(40_000, torch.Generator().manual_seed(0))
    assert stats.chisquare(torch.bincount(t.long(), minlength=4).numpy()).pvalue > 1e-3
    t, _ = make_timestep_sampler("uniform", CHAINS["linear-1000"], True).sample(1000, torch.Generator().manual_seed(0))
    assert sorted(t.tolist()) == list(range(1000))  # one in every stratum


def test_log_normal_and_logit_normal_are_normal():
    t, _ = sampled("log_normal", "edm")
    assert stats.kstest(t.log().numpy(), stats.norm(-1.2, 1.2).cdf).pvalue > 0.01
    t, _ = sampled("logit_normal", "flow")
    share = (t - 1e-3) / (1 - 1e-3)
    assert stats.kstest(torch.logit(share).numpy(), stats.norm.cdf).pvalue > 0.01


def test_mean_and_deviation_can_be_chosen():
    t, _ = make_timestep_sampler("log_normal", SCHEDULES["edm"], False, mean=0.5, std=0.3).sample(
        20_000, torch.Generator().manual_seed(0)
    )
    assert stats.kstest(t.log().numpy(), stats.norm(0.5, 0.3).cdf).pvalue > 0.01


def test_stratification_lowers_the_variance_of_a_mean():
    means = {}
    for stratified in (False, True):
        sampler = make_timestep_sampler("uniform", SCHEDULES["vp"], stratified)
        means[stratified] = torch.stack(
            [sampler.sample(64, torch.Generator().manual_seed(k))[0].square().mean() for k in range(200)]
        )
    assert abs(means[True].mean() - means[False].mean()) < 4 * means[False].std() / 200**0.5
    assert means[True].std() < means[False].std() / 5


def test_loss_aware_follows_the_root_of_the_second_moment_and_stays_unbiased():
    chain = CHAINS["list"]
    sampler = LossAware(chain, False)
    losses = torch.tensor([4.0, 1.0, 2.0, 1.0])
    assert (sampler.density() == 0.25).all()
    for _ in range(10):
        sampler.update(torch.arange(4, dtype=torch.float64), losses)
    expected = 0.999 * losses.double() / 8 + 0.001 / 4
    torch.testing.assert_close(sampler.density(), expected)
    n = 40_000
    t, weight = sampler.sample(n, torch.Generator().manual_seed(0))
    assert stats.chisquare(torch.bincount(t.long(), minlength=4).numpy(), (expected * n).numpy()).pvalue > 1e-3
    weighted = losses.double()[t.long()] * weight
    assert abs(weighted.mean() - losses.mean()) < 4 * weighted.std() / n**0.5
    uniform = losses.double()[torch.randint(4, (n,), generator=torch.Generator().manual_seed(1))]
    assert weighted.std() < uniform.std() / 10


def test_the_history_is_the_newest_ten():
    sampler = LossAware(CHAINS["one-step"], False)
    for k in range(25):
        sampler.update(torch.zeros(1, dtype=torch.float64), torch.tensor([float(k)]))
    assert sorted(sampler.state["losses"][0].tolist()) == list(range(15, 25))


def test_unknown_samplers_are_refused():
    with pytest.raises(ValueError, match="log_normal"):
        make_timestep_sampler("normal", SCHEDULES["vp"], False)
