"""Distances against closed forms, scipy and enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from undiffuse.evaluation.copying import copying
from undiffuse.evaluation.distances import frechet_distance, nearest_neighbours, neighbour_classes

RNG = np.random.default_rng(0)


def test_frechet_distance_of_diagonal_gaussians_is_the_closed_form():
    """(m1 - m2)² + (s1 - s2)² per coordinate, on data with exactly those moments (ddof = 1)."""
    base = RNG.normal(size=(50, 3))
    base -= base.mean(0)
    base = base @ np.linalg.inv(np.linalg.cholesky(np.cov(base.T)).T)  # covariance exactly I
    a, b = base * [1.0, 2.0, 0.5], base * [2.0, 2.0, 1.0] + [1.0, 0.0, -0.5]
    assert frechet_distance(torch.tensor(a), torch.tensor(b)) == pytest.approx(1 + 0.25 + 1 + 0 + 0.25, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(400, 12), (20, 64)])
def test_frechet_distance_equals_the_matrix_square_root(n, d):
    """Also with fewer examples than dimensions, where the covariances are singular."""
    a, b = RNG.normal(size=(n, d)) @ RNG.normal(size=(d, d)), RNG.normal(size=(n + 7, d)) + 0.3
    S, R = np.cov(a.T), np.cov(b.T)
    root = sqrtm(S @ R)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(S + R) - 2 * np.real(np.trace(root))
    assert frechet_distance(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected, rel=1e-4)


def test_frechet_distance_of_a_set_to_itself_is_zero_and_it_is_symmetric():
    a, b = torch.tensor(RNG.normal(size=(60, 5))), torch.tensor(RNG.normal(size=(6, 5)))
    assert frechet_distance(a, a) < 1e-10
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    with pytest.raises(ValueError, match="two examples"):
        frechet_distance(a, b[:1])


def test_neighbours_by_enumeration():
    queries, points = torch.tensor(RNG.normal(size=(30, 4))), torch.tensor(RNG.normal(size=(40, 4)))
    distance, rows = nearest_neighbours(queries, points, 3)
    every = ((queries[:, None] - points[None]) ** 2).sum(-1).sqrt()
    torch.testing.assert_close(distance, every.sort(1).values[:, :3])
    assert torch.equal(rows, every.argsort(1)[:, :3])


def test_the_majority_of_the_neighbours_decides():
    points = torch.tensor([[0.0], [1.0], [1.1], [5.0], [5.1], [5.2]])
    labels = torch.tensor([0, 1, 1, 2, 2, 0])
    assert neighbour_classes(torch.tensor([[0.4], [5.05]]), points, labels).tolist() == [1, 2]
    assert neighbour_classes(
        torch.tensor([[3.2]]), torch.tensor([[3.0], [4.0], [5.0]]), torch.tensor([2, 0, 1])
    ).tolist() == [2]


def test_copies_are_noticed_and_fresh_data_is_not():
    everything = torch.tensor(RNG.normal(size=(3000, 8)))
    training, held_out, fresh = everything.split(1000)
    copies = copying(training + 0.01 * torch.randn(1000, 8), training, held_out)
    assert copies.share > 0.95
    innocent = copying(fresh, training, held_out)
    assert innocent.low < 0.5 < innocent.high
    assert innocent.high - innocent.low < 0.07
    with pytest.raises(ValueError, match="equally many"):
        copying(fresh, training, held_out[:10])
