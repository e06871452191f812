"""The jackknife against what is known in closed form, and against scatter that was simulated."""

from __future__ import annotations

import math

import pytest
import torch

from undiffuse.evaluation.distances import frechet_distance
from undiffuse.evaluation.jackknife import JACKKNIFE_BLOCKS, Estimate, jackknife

d = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=d, generator=torch.Generator().manual_seed(seed))


def mean(rows: torch.Tensor) -> float:
    return rows.mean().item()


def test_of_a_mean_it_is_the_standard_error():
    """s/sqrt(n) with blocks of one row; with blocks of k rows, that of the means of the blocks."""
    rows = normal(30)
    found = jackknife(mean, rows, blocks=30)
    assert found.value == rows.mean()
    assert found.error == pytest.approx((rows.std() / math.sqrt(30)).item(), rel=1e-12)
    blocks = torch.stack([rows[b::10].mean() for b in range(10)])
    assert jackknife(mean, rows, blocks=10).error == pytest.approx((blocks.std() / math.sqrt(10)).item(), rel=1e-12)


def test_of_a_difference_it_is_that_of_the_differences():
    rows, shift = normal(40), 0.01 * normal(40, seed=1)
    over = jackknife(mean, rows + shift, blocks=40).above(jackknife(mean, rows, blocks=40))
    assert over.value == pytest.approx(shift.mean().item(), abs=1e-12)
    assert over.error == pytest.approx((shift.std() / math.sqrt(40)).item(), rel=1e-9)


def test_of_a_frechet_distance_it_is_its_scatter_over_samples():
    """200 samples of 60 rows: the mean of error² is within a factor of two of the variance (it is known to lie somewhat above it)."""
    real = normal(2000, 3, seed=5)
    found = [
        jackknife(lambda rows: frechet_distance(rows, real), normal(60, 3, seed=s) * 1.3 + 0.3) for s in range(200)
    ]
    scatter = torch.tensor([f.value for f in found]).var().item()
    assert 0.5 < torch.tensor([f.error**2 for f in found]).mean().item() / scatter < 2


def test_too_few_rows_have_no_error():
    assert math.isnan(jackknife(mean, normal(2)).error)
    assert Estimate(1.0).above(Estimate(0.5)).value == 0.5
    assert len(jackknife(mean, normal(3)).without) == 3
    assert len(jackknife(mean, normal(500)).without) == JACKKNIFE_BLOCKS
