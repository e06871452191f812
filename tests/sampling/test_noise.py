"""Noise of trajectories: a function of its place alone; Brownian paths that do not depend on the grid."""

from __future__ import annotations

import pytest
import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.oracles import Mixture
from undiffuse.process.philox import standard_normal
from undiffuse.rng import NoiseStream
from undiffuse.sampling.grids import churned, make_grid
from undiffuse.sampling.loop import final, initial, trajectory
from undiffuse.sampling.noise import Brownian, Independent
from undiffuse.sampling.solvers.registry import Settings, make_solver

d = torch.float64


@pytest.mark.parametrize("at_once", [1, 6, 13, 2**16])
def test_noise_made_for_several_rows_is_the_noise_of_each(at_once, monkeypatch):
    index = torch.tensor([4, 9])
    monkeypatch.setattr(Independent, "AT_ONCE", at_once)
    noise = Independent(torch.zeros(2, 5), 3, index, 12)
    for row in (0, 1, 2, 7, 11, 3):
        assert torch.equal(noise.at(row), standard_normal((5,), 3, index, row, NoiseStream.STEP))
    assert not torch.equal(noise.at(3, 1), noise.at(3, 0))
    assert not torch.equal(noise.at(3, 1), noise.at(3, 2))


def increments(levels, n=4000, size=4):
    """Every step's normalised increment, float64 (rows, n, size)."""
    noise = Brownian(torch.zeros(n, size, dtype=d), 7, torch.arange(n), levels)
    return torch.stack([noise.at(row) for row in range(len(levels) - 1)])


def test_increments_are_independent_standard_normals():
    z = increments(make_grid(SCHEDULES["vp"], "trailing", 7)).flatten(1)
    n = z.shape[1]
    # the largest of 28 sample covariances of standard normals stays within 4.5 standard errors
    assert ((torch.cov(z) - torch.eye(len(z), dtype=d)).abs() < 4.5 * (2 / n) ** 0.5).all()
    assert (z.mean(1).abs() < 4.5 / n**0.5).all()


def test_a_coarse_grids_increments_are_sums_of_a_fine_ones():
    """W does not know the grid: sqrt(length) z adds up."""
    schedule = SCHEDULES["edm"]
    fine = schedule(schedule.at(torch.linspace(-8, 8, 17, dtype=d)))
    coarse = fine[::4]
    lengths = 16 / 40  # of log-SNR, in the clock's unit, is what all sixteen steps take
    a = (increments(fine, 5) * (lengths / 16) ** 0.5).reshape(4, 4, 5, 4).sum(1)
    b = increments(coarse, 5) * (lengths / 4) ** 0.5
    # the clock tells 2^-20 apart: a square root of that relative to the whole
    torch.testing.assert_close(a, b, rtol=0, atol=4 * 2**-10 * lengths**0.5)


def test_the_path_is_built_once_whatever_is_asked_first():
    levels = make_grid(SCHEDULES["vp"], "trailing", 9)
    index = torch.tensor([3, 8])
    every = Brownian(torch.zeros(2, 3, dtype=d), 1, index, levels)
    rows = [every.at(row) for row in range(9)]
    for row in (5, 2, 8):
        assert torch.equal(Brownian(torch.zeros(2, 3, dtype=d), 1, index, levels).at(row), rows[row])
    assert torch.equal(rows[4][1:], Brownian(torch.zeros(1, 3, dtype=d), 1, index[1:], levels).at(4))
    assert standard_normal((1,), 0, index, 0, NoiseStream.BROWNIAN).shape == (2, 1)


@pytest.mark.parametrize(("which", "order"), [("dpm++_sde", 2), ("sa", 2)])
def test_stochastic_solvers_converge_along_one_path(which, order):
    """With Brownian noise twice the steps give nearly the same samples; with independent noise, others."""
    gaussian = Mixture.gaussian(torch.tensor([0.3], dtype=d), torch.tensor([[0.25]], dtype=d))
    schedule, index = SCHEDULES["vp"], torch.arange(500)
    solver = make_solver(which, Settings(order=order), schedule)

    def end(steps, noise):
        levels = schedule(schedule.at(torch.linspace(-6, 5, steps + 1, dtype=d)))
        x = initial(levels, (1,), 2, index).double()
        return final(trajectory(x, gaussian, levels, solver, seed=2, index=index, noise=noise))

    def apart(noise):
        return (end(160, noise) - end(320, noise)).pow(2).mean().sqrt().item()

    assert apart("brownian") < 0.1 * apart("independent")


def test_grids_it_cannot_serve_are_refused():
    schedule = SCHEDULES["edm"]
    levels = churned(schedule, make_grid(schedule, "karras", 6), 3.0)
    with pytest.raises(ValueError, match="no churn"):
        Brownian(torch.zeros(1, 1), 0, torch.arange(1), levels)
    Brownian(torch.zeros(1, 1), 0, torch.arange(1), CHAINS["linear-4000"].levels)
