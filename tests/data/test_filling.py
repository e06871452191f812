"""What stands for missing numbers while a network is trained: the mean of what is known around them."""

from __future__ import annotations

import itertools

import pytest
import torch

from undiffuse.data.filling import filled_from_around


def expected(x, known):
    """Place by place."""
    size = x.shape[2:]
    found = torch.zeros_like(x)
    for b, c in itertools.product(*map(range, x.shape[:2])):
        m = known[b, min(c, known.shape[1] - 1)]
        for place in itertools.product(*map(range, size)):
            if m[place]:
                found[b, c][place] = x[b, c][place]
                continue
            for reach in (1, 3):
                near = [
                    x[b, c][other]
                    for other in itertools.product(*map(range, size))
                    if m[other] and all(abs(p - q) <= reach for p, q in zip(place, other, strict=True))
                ]
                if near:
                    found[b, c][place] = sum(near) / len(near)
                    break
    return found


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("size", [(11,), (5, 9), (3, 4, 5), (1,), (1, 6), (2,)])
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_missing_numbers_are_the_mean_of_the_known_ones_near_by(size, channels, share):
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(2, 2, *size, generator=draws)
    known = torch.rand(2, channels, *size, generator=draws) >= share
    x = torch.where(known, x, 0.0)
    assert torch.allclose(filled_from_around(x, known), expected(x, known), atol=1e-5)
