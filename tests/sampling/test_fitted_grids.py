"""Grids fitted to a model: costs against steps really taken, paths against enumeration, and that they help."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from tests.process.instances import SCHEDULES
from tests.sampling.mixtures import MIXTURE
from undiffuse.process.levels import Level
from undiffuse.sampling.fitted_grids import cheapest_path, fitted_logsnrs, stretch_costs
from undiffuse.sampling.grids import at_logsnrs, make_grid
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.solvers.registry import Settings, make_solver

d = torch.float64
SCHEDULE = SCHEDULES["cosine_continuous"]
DDIM, HEUN = (make_solver(name, Settings(), SCHEDULE) for name in ("ddim", "heun"))


def walk(levels: Level, solver=HEUN, n=40):
    x = torch.randn(n, 2, dtype=d, generator=torch.Generator().manual_seed(0))
    return list(trajectory(x, MIXTURE, levels, solver, seed=0, index=torch.arange(n)))


def test_costs_are_the_errors_of_ddim_steps():
    """A DDIM step from row i of a dense trajectory to row j really misses the trajectory's own point there by the cost."""
    levels = make_grid(SCHEDULE, "angle", 400)
    moments = walk(levels)
    costs = stretch_costs(moments, levels)
    for i, j in ((10, 60), (100, 250), (200, 380)):
        table = Level.of_rows([levels[i], levels[j]])
        step = final(trajectory(moments[i].x_t, MIXTURE, table, DDIM, seed=0, index=torch.arange(40)))
        missed = (step - moments[j].x_t).pow(2).mean().sqrt() / torch.hypot(levels.alpha[j], levels.sigma[j])
        assert costs[i, j].item() == pytest.approx(missed.item(), rel=0.02)  # 50 trapezoids and more
    into_clean = (moments[300].x0 - moments[-1].x0).pow(2).mean().sqrt()
    assert costs[300, 400].item() == pytest.approx(into_clean.item(), rel=1e-9)


@pytest.mark.parametrize("stretches", [1, 2, 3, 6])
def test_the_path_is_the_cheapest_of_all(stretches):
    costs = torch.rand(7, 7, dtype=d, generator=torch.Generator().manual_seed(stretches)).triu(1) + torch.full(
        (7, 7), torch.inf
    ).tril(-1)

    def cost(path):
        return sum(costs[a, b].item() for a, b in zip(path, [*path[1:], 6], strict=True))

    everyone = [(0, *rest) for rest in combinations(range(1, 6), stretches - 1)]
    path = cheapest_path(costs, stretches)
    assert len(path) == stretches
    assert cost(path) == pytest.approx(min(cost(other) for other in everyone))


def test_more_levels_than_the_mesh_has_are_refused():
    with pytest.raises(ValueError, match="fewer steps"):
        cheapest_path(torch.zeros(4, 4), 4)


def test_an_aligned_grid_serves_the_solver_it_is_made_for():
    """DDIM's whole error is not the sum of its steps' errors, which is all that is minimised.  So: better than evenly spaced
    times, its mean square within 1.3 of the best even grid's, and less than half of the two that do not suit the problem."""
    end = walk(make_grid(SCHEDULE, "angle", 300))[-1].x
    mesh = make_grid(SCHEDULE, "angle", 150)
    moments = walk(mesh)
    for steps in (5, 10):
        errors = {}
        for name in ("uniform", "trailing", "karras", "logsnr"):
            errors[name] = (walk(make_grid(SCHEDULE, name, steps), DDIM)[-1].x - end).pow(2).mean().item()
        aligned = at_logsnrs(SCHEDULE, fitted_logsnrs(moments, mesh, steps))
        assert len(aligned) == steps + 1
        error = (walk(aligned, DDIM)[-1].x - end).pow(2).mean().item()
        assert error < errors["uniform"]
        assert error < 1.3 * min(errors.values())
        assert error < 0.5 * min(errors["karras"], errors["logsnr"])
