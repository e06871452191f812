"""Grids: the papers' spacings, and the law that every grid starts noisy, falls, and ends clean."""

from __future__ import annotations

import pytest
import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.chains import Chain
from undiffuse.sampling.grids import GRIDS, make_grid, respaced_indices

LONG = CHAINS["linear-1000"]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("grid", ["uniform", "trailing", "karras"])
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


@pytest.mark.parametrize("grid", ["uniform", "trailing", "karras"])
def test_every_step_count_works_on_a_chain(grid):
    for steps in [*range(1, 120), *(p for p in range(120, 1001, 7)), 997, 999, 1000]:
        levels = make_grid(LONG, grid, steps)
        assert len(levels) == steps + 1
        assert (levels.logsnr.diff() > 0).all()


def test_every_visits_the_whole_chain_and_uniform_with_all_steps_too():
    torch.testing.assert_close(make_grid(LONG, "every", 1).label, LONG.levels.label)
    torch.testing.assert_close(make_grid(LONG, "uniform", 1000).label, LONG.levels.label)
    torch.testing.assert_close(make_grid(LONG, "trailing", 1000).label, LONG.levels.label)
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
    assert make_grid(LONG, "trailing", 10).label.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99, -1]
    assert make_grid(LONG, "uniform", 5).label.tolist() == [999, 749, 500, 250, 0, -1]


def test_respaced_levels_keep_the_training_labels_and_signals():
    levels = make_grid(LONG, "ddim50", 1)
    assert levels.label.tolist() == [*range(980, -1, -20), -1]
    torch.testing.assert_close(levels.alpha[:-1], LONG(levels.label[:-1]).alpha, rtol=0, atol=0)


def test_karras_is_the_published_formula():
    levels = make_grid(SCHEDULES["edm"], "karras", 18)
    i = torch.arange(18, dtype=torch.float64)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(levels.sigma[:-1], expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("spacing", ["ddim300", "0", "1001", "20,2000", "ten", "", "-5"])
def test_spacings_that_do_not_fit_are_refused(spacing):
    with pytest.raises(ValueError, match=r"\w"):
        make_grid(LONG, spacing, 10)


@pytest.mark.parametrize("steps", [0, -1])
@pytest.mark.parametrize("grid", ["uniform", "trailing", "karras"])
def test_no_steps_are_refused(grid, steps):
    with pytest.raises(ValueError, match="at least one step"):
        GRIDS[grid](LONG, steps)
