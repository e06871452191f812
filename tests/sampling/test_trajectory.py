"""An example depends on its seed and index alone; a trajectory taken up midway is the same one."""

from __future__ import annotations

import pytest
import torch

from tests.process.instances import CHAINS
from undiffuse.process.noise import standard_normal
from undiffuse.process.posteriors import Posterior
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.solvers import DDIM, Ancestral, Heun
from undiffuse.sampling.trajectory import STEP_STREAM, _StepNoise, final, initial, trajectory

LEVELS = make_grid(CHAINS["cosine-1000"], "uniform", 12)


def denoise(x_t, level):
    """Elementwise, so the same for an example in any batch."""
    return Posterior((x_t * level.alpha.to(x_t.dtype)).tanh())


def sampled(indices, solver, start=0, x=None):
    index = torch.tensor(indices)
    x = initial(LEVELS, (2, 3), 5, index) if x is None else x
    return list(trajectory(x, denoise, LEVELS, solver, seed=5, index=index, start=start))


@pytest.mark.parametrize("solver", [DDIM(), DDIM(0.7), Heun(), Ancestral()], ids=["ddim", "eta", "heun", "ddpm"])
def test_alone_or_in_any_batch(solver):
    together = sampled(list(range(16)), solver)[-1].x
    for indices in ([3], [7, 1, 12], list(range(4, 16))):
        assert torch.equal(sampled(indices, solver)[-1].x, together[indices])


@pytest.mark.parametrize("solver", [DDIM(), DDIM(1.0), Heun(), Ancestral()], ids=["ddim", "eta", "heun", "ddpm"])
def test_resumed_at_any_step(solver):
    whole = sampled([0, 1], solver)
    for row in (1, 6, 11):
        assert torch.equal(sampled([0, 1], solver, row, whole[row].x_t)[-1].x, whole[-1].x)


@pytest.mark.parametrize("at_once", [1, 6, 13, 2**16])
def test_noise_made_for_several_rows_is_the_noise_of_each(at_once, monkeypatch):
    index = torch.tensor([4, 9])
    monkeypatch.setattr(_StepNoise, "AT_ONCE", at_once)
    noise = _StepNoise(torch.zeros(2, 5), 3, index, 12)
    for row in (0, 1, 2, 7, 11, 3):
        assert torch.equal(noise.at(row), standard_normal((5,), 3, index, row, STEP_STREAM))


def test_moments_follow_the_table():
    moments = sampled([0], DDIM())
    assert [m.row for m in moments] == list(range(12))
    assert [m.level.label.item() for m in moments] == LEVELS.label[:-1].tolist()
    for before, after in zip(moments, moments[1:], strict=False):
        assert torch.equal(before.x, after.x_t)
    assert torch.equal(final(iter(moments)), moments[-1].x)
    torch.testing.assert_close(moments[-1].x, moments[-1].clean)


def test_pure_noise_starts_at_the_first_levels_own_sigma():
    x = initial(LEVELS, (1000,), 0, torch.arange(20))
    assert abs(x.std() - LEVELS.sigma[0]) < 4 / (2 * 20_000) ** 0.5
