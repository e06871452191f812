"""Grids: the papers' spacings, and the law that every grid starts noisy, falls, and ends clean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.chains import Chain
from undiffuse.sampling.grids import GRIDS, at_logsnrs, churned, make_grid, respaced_indices, restarted

LONG = CHAINS["linear-1000"]
COUNTED = [name for name in GRIDS if name not in ("every", "linspace", "exponential")]  # the last two are other names


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("grid", COUNTED)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10])
def test_levels_fall_from_noisy_to_clean(name, grid, steps):
    schedule = SCHEDULES[name]
    if isinstance(schedule, Chain) and steps > len(schedule):
        with pytest.raises(ValueError, match="at most that many"):
            make_grid(schedule, grid, steps)
        return
    levels = make_grid(schedule, grid, steps)
    assert len(levels) == steps + 1
    assert (levels.sigma[-1], levels.alpha[-1]) == (0, 1)
    assert (levels.logsnr.diff() > 0).all()


@pytest.mark.parametrize("name", ["linear-1000", "flow", "edm"])
@pytest.mark.parametrize("grid", COUNTED)
def test_every_step_count_from_1_to_1000_visits_as_many_levels(grid, name):
    schedule = SCHEDULES[name]
    for steps in range(1, 1000 if grid == "time_uniform" else 1001):  # which leaves one level out
        levels = make_grid(schedule, grid, steps)
        assert len(levels) == steps + 1
        assert (levels.logsnr.diff() > 0).all()
        assert levels.timestep[-1] == -1
        if isinstance(schedule, Chain) and grid in ("uniform", "trailing", "leading"):
            assert torch.equal(levels.timestep, levels.timestep.round())


def test_every_visits_the_whole_chain_and_uniform_with_all_steps_too():
    torch.testing.assert_close(make_grid(LONG, "every", 1).timestep, LONG.levels.timestep)
    torch.testing.assert_close(make_grid(LONG, "uniform", 1000).timestep, LONG.levels.timestep)
    torch.testing.assert_close(make_grid(LONG, "trailing", 1000).timestep, LONG.levels.timestep)
    with pytest.raises(ValueError, match="discrete"):
        make_grid(SCHEDULES["vp"], "every", 10)


def test_the_papers_spacings():
    # of Nichol & Dhariwal's released space_timesteps, from its documentation: sections of 100 of a 300-step chain
    assert respaced_indices(300, "10,15,20")[:10] == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert respaced_indices(300, "10,15,20")[10] == 100
    assert len(respaced_indices(300, "10,15,20")) == 45
    assert respaced_indices(1000, "250")[:3] == [0, 4, 8]
    assert respaced_indices(1000, "250")[-1] == 999
    assert respaced_indices(1000, "ddim50") == list(range(0, 1000, 20))
    assert respaced_indices(4000, "ddim250") == list(range(0, 4000, 16))
    assert respaced_indices(10, "1") == [0]
    assert respaced_indices(10, "3,2") == [0, 2, 4, 5, 9]
    # trailing as Lin et al. list it for 1000 steps and 10 of them; labels count from 0
    assert make_grid(LONG, "trailing", 10).timestep.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99, -1]
    assert make_grid(LONG, "uniform", 5).timestep.tolist() == [999, 749, 500, 250, 0, -1]


def test_respaced_levels_keep_the_training_labels_and_signals():
    levels = make_grid(LONG, "ddim50", 1)
    assert levels.timestep.tolist() == [*range(980, -1, -20), -1]
    torch.testing.assert_close(levels.alpha[:-1], LONG(levels.timestep[:-1]).alpha, rtol=0, atol=0)


def test_karras_is_the_published_formula():
    levels = make_grid(SCHEDULES["edm"], "karras", 18)
    i = torch.arange(18, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(levels.sigma[:-1], expected, rtol=1e-10, atol=0)


def test_leading_is_diffusers_and_ddims():
    assert make_grid(LONG, "leading", 10).timestep.tolist() == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0, -1]
    assert make_grid(LONG, "leading", 50).timestep.tolist() == make_grid(LONG, "ddim50", 1).timestep.tolist()


def test_other_names_are_the_same_grids():
    assert make_grid(LONG, "linspace", 7).timestep.tolist() == make_grid(LONG, "uniform", 7).timestep.tolist()
    assert make_grid(LONG, "exponential", 7).timestep.tolist() == make_grid(LONG, "logsnr", 7).timestep.tolist()


def test_log_snr_and_angles_are_evenly_spaced():
    levels = make_grid(SCHEDULES["edm"], "logsnr", 9)
    torch.testing.assert_close(
        levels.logsnr[:-1].diff(), torch.full((8,), 2 * math.log(80 / 0.002) / 8, dtype=torch.float64)
    )
    angles = torch.atan2(
        *(getattr(make_grid(SCHEDULES["cosine_continuous"], "angle", 9), name) for name in ("sigma", "alpha"))
    )
    torch.testing.assert_close(angles.diff(), angles.diff()[:1].expand(9), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("grid", ["uniform", "trailing", "angle", "beta", "angle_beta"])
def test_grids_without_a_cut_start_at_the_noisiest_level(name, grid):
    """Where that is pure noise, a start at any other level would put a false mean into the samples (Lin et al. 2024)."""
    schedule = SCHEDULES[name]
    first, noisiest = make_grid(schedule, grid, 3 if name != "one-step" else 1)[:1], schedule([schedule.t_max])
    torch.testing.assert_close(first.alpha, noisiest.alpha, rtol=1e-6, atol=1e-12)
    # tan(pi/2) in float64 is 1.6e16, so where alpha is a square of time the time is found to 8e-9
    torch.testing.assert_close(first.timestep, noisiest.timestep, rtol=1e-9, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_beta_is_the_quantiles_of_a_beta_distribution(steps):
    """1 - t is beta distributed too: against scipy's inverse. 4,096 intervals of a smooth integrand: 1e-5."""
    levels = make_grid(SCHEDULES["flow"], "beta", steps)
    share = (levels.timestep[:-1] / 1000 - 1e-3) / (1 - 1e-3)
    expected = stats.beta.ppf(1 - np.arange(steps) / steps, 0.6, 0.6)
    np.testing.assert_allclose(share.numpy(), expected, atol=1e-5)


def test_churn_is_edms():
    """Karras et al. 2022, Algorithm 2: gamma = min(S_churn/N, sqrt 2 - 1) inside [S_min, S_max], none above sigma_max."""
    schedule = SCHEDULES["edm"]
    plain = make_grid(schedule, "karras", 18)
    sigma = churned(schedule, plain, 3.0, 0.05, 50.0).sigma.tolist()
    expected = []
    for level in plain.sigma.tolist():
        expected += [level, level * (1 + 3 / 18)] if 0.05 <= level <= 50 else [level]
    assert sigma == pytest.approx(expected, rel=1e-9)
    assert churned(schedule, plain, 100.0).sigma[4] == pytest.approx(plain.sigma[2] * 2**0.5)


def test_restarts_walk_the_stretch_again():
    plain = make_grid(SCHEDULES["edm"], "karras", 10)
    inside = [s for s in plain.sigma.tolist() if 0.1 <= s <= 5]
    before, after = [s for s in plain.sigma.tolist() if s > 5], [s for s in plain.sigma.tolist() if s < 0.1]
    assert restarted(plain, 0.1, 5.0, 2).sigma.tolist() == [*before, *inside * 3, *after]
    with pytest.raises(ValueError, match="widen"):
        restarted(plain, 0.1, 0.11, 2)


def test_levels_of_given_log_snrs():
    levels = at_logsnrs(LONG, [-6.0, -1.0, 3.0])
    torch.testing.assert_close(levels.logsnr[:-1], torch.tensor([-6.0, -1.0, 3.0], dtype=torch.float64))
    assert levels.sigma[-1] == 0


@pytest.mark.parametrize("spacing", ["ddim300", "0", "1001", "20,2000", "ten", "", "-5"])
def test_spacings_that_do_not_fit_are_refused(spacing):
    with pytest.raises(ValueError, match=r"\w"):
        make_grid(LONG, spacing, 10)


@pytest.mark.parametrize("steps", [0, -1])
@pytest.mark.parametrize("grid", ["uniform", "trailing", "karras"])
def test_no_steps_are_refused(grid, steps):
    with pytest.raises(ValueError, match="at least one step"):
        GRIDS[grid](LONG, steps)
