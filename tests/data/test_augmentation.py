"""Shifts: each example is what indexing it by hand gives, is told truly, and an unshifted one is untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from undiffuse.data.augmentation import shifted


@pytest.mark.parametrize("size", [(9,), (5, 7), (3, 4, 5)])
@pytest.mark.parametrize("most", [1, 2])
def test_every_example_is_moved_as_it_is_told(size, most):
    x = torch.randn(200, 2, *size, generator=torch.Generator().manual_seed(0))
    moved, told = shifted(x, 0.5, most, torch.Generator().manual_seed(1))
    for before, after, numbers in zip(x.numpy(), moved.numpy(), told, strict=True):
        shift = (numbers * most).round().long().tolist()
        padded = np.pad(before, [(0, 0)] + [(most, most)] * len(size), mode="edge")
        window = tuple(slice(most - s, most - s + n) for s, n in zip(shift, size, strict=True))
        np.testing.assert_array_equal(after, padded[(slice(None), *window)])


def test_the_probability_is_that_of_being_drawn():
    """A drawn example keeps its place with probability 1/9 in two dimensions."""
    n = 40_000
    _, told = shifted(torch.zeros(n, 1, 2, 2), 0.3, 1, torch.Generator().manual_seed(0))
    rate, expected = told.any(1).double().mean().item(), 0.3 * 8 / 9
    assert abs(rate - expected) < 4 * (expected * (1 - expected) / n) ** 0.5
    assert set(told.unique().tolist()) == {-1.0, 0.0, 1.0}


def test_none_is_none():
    x = torch.randn(8, 1, 4, 4)
    moved, told = shifted(x, 0.0, 1, torch.Generator().manual_seed(0))
    assert torch.equal(moved, x)
    assert not told.any()
