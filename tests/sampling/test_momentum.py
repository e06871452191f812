"""Momentum of guidance: a geometric series where Δ is constant, and a memory that is all in the solver's state."""

from __future__ import annotations

import pytest
import torch

from tests.process.instances import SCHEDULES
from tests.sampling.test_guidance import BOTH, RIGHT, d, examples, fixed_pair
from undiffuse.sampling.grids import make_grid, restarted
from undiffuse.sampling.guidance import projected, separate_pair
from undiffuse.sampling.loop import trajectory
from undiffuse.sampling.momentum import Remembering, WithMomentum
from undiffuse.sampling.solvers.ancestral import DDIM, Ancestral
from undiffuse.sampling.solvers.exponential import Heun
from undiffuse.sampling.solvers.forms import EPS_FORM, RATIO
from undiffuse.sampling.solvers.registry import Settings, make_solver

LEVELS = make_grid(SCHEDULES["vp"], "uniform", 8)
SOLVERS = [
    DDIM(),
    Ancestral(0.0),
    Heun(EPS_FORM, RATIO),
    *(make_solver(name, Settings(), SCHEDULES["vp"]) for name in ("adams", "dpm++")),
]


def remembering(beta, pair=separate_pair(RIGHT, BOTH)):  # noqa: B008
    return Remembering(lambda running: projected(pair, 3.0, along=1.0, running=running), beta)


def walked(solver, x, levels=LEVELS, beta=-0.5, **where):
    return list(
        trajectory(x, remembering(beta), levels, WithMomentum(solver), seed=0, index=torch.arange(len(x)), **where)
    )


@pytest.mark.parametrize("beta", [-0.75, -0.5, 0.4])
def test_a_constant_difference_adds_up_to_a_geometric_series(beta):
    s = 3.0
    moments = trajectory(
        examples(0), remembering(beta, fixed_pair), LEVELS, WithMomentum(DDIM()), seed=0, index=torch.arange(5)
    )
    for k, moment in enumerate(moments):
        pushed = (1 - beta ** (k + 1)) / (1 - beta)
        torch.testing.assert_close(moment.x0, examples(1) + (s - 1) * pushed * (examples(1) - examples(2)))


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_taken_up_in_the_middle_it_is_the_same_trajectory(solver):
    x = torch.linspace(-3, 3, 7, dtype=d)[:, None]
    whole = walked(solver, x)
    for row in range(1, 8):
        again = walked(solver, whole[row].x_t, start=row, state=whole[row - 1].state)
        assert torch.equal(again[-1].x, whole[-1].x)
    without = walked(solver, x, beta=0.0)
    assert not torch.allclose(without[-1].x, whole[-1].x)


def test_the_memory_ends_where_a_grid_goes_back_up():
    x = torch.linspace(-3, 3, 7, dtype=d)[:, None]
    levels = restarted(LEVELS, 0.3, 5.0, 1)
    moments = walked(DDIM(), x, levels)
    raised = next(row for row in range(len(moments)) if moments[row].state is None)
    after = moments[raised + 1]
    plain = RIGHT(after.x_t, after.level).mean
    difference = plain - BOTH(after.x_t, after.level).mean
    torch.testing.assert_close(after.x0, plain + 2 * difference)


def test_the_wrapper_costs_what_the_solver_costs():
    for solver in SOLVERS:
        wrapped = WithMomentum(solver)
        assert (wrapped.evaluations, wrapped.stochastic) == (solver.evaluations, solver.stochastic)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_one_pair_walks_any_number_of_trajectories_at_once(solver):
    """Step by step in turn, with looks at x̂ in between, and one inside the other's evaluation, as threads would be."""
    denoise, whole = remembering(-0.5), WithMomentum(solver)
    x, y = torch.linspace(-3, 3, 7, dtype=d)[:, None], torch.linspace(-1, 2, 7, dtype=d)[:, None]
    alone = [walked(solver, start)[-1].x for start in (x, y)]
    both = [trajectory(start, denoise, LEVELS, whole, seed=0, index=torch.arange(7)) for start in (x, y)]
    for first, second in zip(*both, strict=True):
        denoise(first.x_t, first.level)
        ends = first.x, second.x
    assert torch.equal(ends[0], alone[0])
    assert torch.equal(ends[1], alone[1])

    inside = []

    def interrupted(x_t, level):
        if not inside:
            inside.append(True)
            list(trajectory(y, other, LEVELS, whole, seed=0, index=torch.arange(7)))
            inside.clear()
        return separate_pair(RIGHT, BOTH)(x_t, level)

    other = remembering(-0.5, interrupted)
    assert torch.equal(list(trajectory(x, other, LEVELS, whole, seed=0, index=torch.arange(7)))[-1].x, alone[0])
