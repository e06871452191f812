"""An example depends on its seed and index alone; a trajectory taken up midway is the same one."""

from __future__ import annotations

import pytest
import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.oracles import Mixture
from undiffuse.process.posteriors import Posterior
from undiffuse.sampling.grids import churned, make_grid, restarted
from undiffuse.sampling.loop import final, initial, segments, trajectory
from undiffuse.sampling.solvers.registry import SOLVERS, Settings, make_solver

LEVELS = make_grid(CHAINS["cosine-1000"], "uniform", 12)


def denoise(x_t, level):
    """Elementwise, so the same for an example in any batch."""
    return Posterior((x_t * level.alpha.to(x_t.dtype)).tanh())


def sampled(indices, solver, start=0, x=None, state=None, noise="independent", levels=LEVELS):
    index = torch.tensor(indices)
    x = initial(levels, (2, 3), 5, index) if x is None else x
    return list(trajectory(x, denoise, levels, solver, seed=5, index=index, start=start, state=state, noise=noise))


EVERY = {name: make_solver(name, Settings(), CHAINS["cosine-1000"]) for name in SOLVERS if name != "adaptive"}


@pytest.mark.parametrize("noise", ["independent", "brownian"])
@pytest.mark.parametrize("solver", EVERY.values(), ids=EVERY)
def test_alone_or_in_any_batch(solver, noise):
    together = sampled(list(range(16)), solver, noise=noise)[-1].x
    for indices in ([3], [7, 1, 12], list(range(4, 16))):
        assert torch.equal(sampled(indices, solver, noise=noise)[-1].x, together[indices])


@pytest.mark.parametrize("noise", ["independent", "brownian"])
@pytest.mark.parametrize("solver", EVERY.values(), ids=EVERY)
def test_resumed_at_any_step(solver, noise):
    whole = sampled([0, 1], solver, noise=noise)
    for row in (1, 6, 11):
        assert torch.equal(sampled([0, 1], solver, row, whole[row].x_t, whole[row - 1].state, noise)[-1].x, whole[-1].x)


def test_grids_that_go_back_up_have_the_marginals_of_gaussian_data():
    """On N(m, s²) the flow and the forward steps both keep the marginals, so churn and restarts change nothing but noise.

    0.002 is for what second-order steps of a tenth of an octave leave of discretisation.
    """
    d = torch.float64
    gaussian = Mixture.gaussian(torch.tensor([0.3], dtype=d), torch.tensor([[0.25]], dtype=d))
    schedule, n = SCHEDULES["edm"], 20_000
    plain = make_grid(schedule, "karras", 120)
    index = torch.arange(n)
    for levels in (churned(schedule, plain, 10.0), restarted(plain, 0.1, 2.0, 3)):
        assert len(segments(levels)) > 3
        x = initial(levels, (1,), 1, index).double()
        end = final(trajectory(x, gaussian, levels, EVERY["edm"], seed=1, index=index))
        assert abs(end.mean() - 0.3) < 4 * 0.5 / n**0.5 + 2e-3
        assert abs(end.var() - 0.25) < 4 * 0.25 * (2 / n) ** 0.5 + 2e-3


def test_going_up_costs_no_evaluation_and_forgets_the_history():
    calls = []

    def counted(x_t, level):
        calls.append(level)
        return denoise(x_t, level)

    schedule = SCHEDULES["edm"]
    levels = churned(schedule, make_grid(schedule, "karras", 6), 3.0)
    moments = list(
        trajectory(
            initial(levels, (2, 3), 5, torch.arange(2)), counted, levels, EVERY["lms"], seed=5, index=torch.arange(2)
        )
    )
    ups = [m.row for m in moments if levels.logsnr[m.row + 1] < levels.logsnr[m.row]]
    assert len(ups) == 5  # every step but the first, which starts at the noisiest level there is
    assert len(calls) == 6
    assert all(moments[row].state is None for row in ups)


def test_moments_follow_the_table():
    moments = sampled([0], EVERY["ddim"])
    assert [m.row for m in moments] == list(range(12))
    assert [m.level.timestep.item() for m in moments] == LEVELS.timestep[:-1].tolist()
    for before, after in zip(moments, moments[1:], strict=False):
        assert torch.equal(before.x, after.x_t)
    assert torch.equal(final(iter(moments)), moments[-1].x)
    torch.testing.assert_close(moments[-1].x, moments[-1].x0)


def test_pure_noise_starts_at_the_first_levels_own_sigma():
    x = initial(LEVELS, (1000,), 0, torch.arange(20))
    assert abs(x.std() - LEVELS.sigma[0]) < 4 / (2 * 20_000) ** 0.5
