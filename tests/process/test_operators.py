"""Linear operators against their matrices: written out column by column, everything is numpy's to check."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from undiffuse.process.operators import REC_601, Blur, Downsample, Grey, Mask, hidden_places

d = torch.float64


def random_mask(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5


# name: (operator, the shape of one example); signals, images and volumes
INSTANCES = {
    "mask": (Mask(random_mask(1, 4, 6)), (3, 4, 6)),
    "mask of channels": (Mask(random_mask(2, 8)), (2, 8)),
    "mask in a volume": (Mask(random_mask(1, 2, 3, 4)), (2, 2, 3, 4)),
    "downsample 2": (Downsample(2), (2, 4, 6)),
    "downsample 3": (Downsample(3), (1, 9)),
    "downsample a volume": (Downsample(2), (1, 2, 4, 6)),
    "grey": (Grey(REC_601), (3, 3, 4)),
    "mean of two": (Grey((0.5, 0.5)), (2, 7)),
    "blur": (Blur(0.6), (2, 5, 6)),
    "blur a signal": (Blur(0.9), (1, 11)),
    "blur a volume": (Blur(0.5), (1, 3, 4, 2)),
}
each = pytest.mark.parametrize(("A", "shape"), INSTANCES.values(), ids=INSTANCES.keys())


def matrix(A, shape):
    """(numbers of y, numbers of x)."""
    basis = torch.eye(int(np.prod(shape)), dtype=d).reshape(-1, *shape)
    return A(basis).flatten(1).T


def draws(n, shape, seed=0):
    return torch.randn(n, *shape, dtype=d, generator=torch.Generator().manual_seed(seed))


@each
def test_it_says_the_shape_of_y_and_is_linear(A, shape):
    x, z = draws(2, shape), draws(2, shape, 1)
    assert A(x).shape[1:] == A.shape_of(shape)
    torch.testing.assert_close(A(2 * x - 3 * z), 2 * A(x) - 3 * A(z))


@each
def test_the_adjoint_is_the_transpose(A, shape):
    rows = matrix(A, shape)
    y = draws(3, A.shape_of(shape))
    torch.testing.assert_close(A.adjoint(y).flatten(1), y.flatten(1) @ rows)
    assert A.adjoint(y).shape[1:] == shape


@each
@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (0.7, 0.3), (0.0, 2.0), (5.0, 1e-3)])
def test_solve_inverts(A, shape, a, b):
    """(a A Aᵀ + b I) applied to what solve answers is y, for y in the range of A."""
    y = A(draws(3, shape))
    answer = A.solve(y, a, b)
    torch.testing.assert_close(a * A(A.adjoint(answer)) + b * answer, y, rtol=1e-7, atol=1e-7)


@each
def test_the_pseudo_inverse_is_numpys(A, shape):
    y = A(draws(3, shape))
    expected = y.flatten(1) @ torch.linalg.pinv(matrix(A, shape), rtol=1e-12).T
    torch.testing.assert_close(A.pseudo_inverse(y).flatten(1), expected, rtol=1e-6, atol=1e-6)


@each
def test_a_picture_of_y_has_the_shape_of_x(A, shape):
    y = A(draws(2, shape))
    assert A.picture(y).shape[1:] == shape
    if not isinstance(A, Blur):  # which would blur it twice
        torch.testing.assert_close(A(A.picture(y)), y)


@each
def test_single_precision_stays_single(A, shape):
    assert A(draws(2, shape).float()).dtype == A.adjoint(A(draws(2, shape).float())).dtype == torch.float32


def test_a_mask_for_each_example():
    known = random_mask(3, 1, 4, 6)
    A, x = Mask(known), draws(3, (2, 4, 6))
    assert A.shape_of((2, 4, 6)) == (2, 4, 6)
    for k in range(3):
        torch.testing.assert_close(A(x)[k : k + 1], Mask(known[k])(x[k : k + 1]), rtol=0, atol=0)


def test_nothing_of_what_is_not_known_gets_through():
    x = torch.full((1, 1, 4), torch.nan)
    x[..., 1] = 2
    assert Mask(torch.tensor([[False, True, False, False]]))(x).tolist() == [[[0, 2, 0, 0]]]


def test_a_blur_is_scipys_where_both_are_exact():
    """scipy samples the Gaussian and cuts it off, this takes its transform: at radius 2 neither matters to 1e-6."""
    x = draws(1, (1, 24, 20))
    expected = gaussian_filter(x[0, 0].numpy(), 2.0, mode="reflect", truncate=8)
    torch.testing.assert_close(Blur(2.0)(x)[0, 0], torch.from_numpy(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("A", "shape", "words"),
    [
        (Mask(torch.ones(1, 4, 4, dtype=torch.bool)), (1, 4, 5), "of their size"),
        (Downsample(3), (1, 8, 8), "does not divide the size 8×8; these do: 2, 4, 8"),
        (Downsample(2), (1, 7, 8), "none does"),
        (Downsample(1), (1, 8), "2 or more"),
        (Grey(REC_601), (1, 8, 8), "grey already"),
        (Grey(REC_601), (2, 8, 8), "2 channels"),
        (Blur(0.0), (1, 8), "above 0"),
        (Blur(float("nan")), (1, 8), "above 0"),
    ],
)
def test_what_does_not_fit_is_a_sentence(A, shape, words):
    with pytest.raises(ValueError, match=words):
        A.shape_of(shape)


def test_one_mask_for_all_is_the_same_as_one_for_each():
    one = torch.zeros(4, 6, dtype=torch.bool)
    one[1:3] = True
    whole = one.expand(5, 1, 4, 6)
    for given in (one, one[None], one[None, None], whole, one.float(), one.numpy(), one.expand(3, 4, 6)):
        found = hidden_places(given, (3, 4, 6), 5)
        assert torch.equal(found.expand(5, 3, 4, 6), whole.expand(5, 3, 4, 6))


@pytest.mark.parametrize(
    ("given", "channels", "words"),
    [
        (torch.ones(4, 5), True, "give one of their size"),
        (torch.ones(2, 4, 6), True, "give one of their size"),
        (torch.ones(4, 1, 4, 6), True, "one for each"),
        (torch.eye(4, 6).expand(3, 4, 6), False, "give one of their size"),
        (torch.zeros(4, 6), True, "hides nothing of example 0"),
        (torch.stack([torch.eye(4, 6)] * 4 + [torch.ones(4, 6)])[:, None], True, "hides everything of example 4"),
    ],
)
def test_masks_that_fit_nothing_are_refused(given, channels, words):
    with pytest.raises(ValueError, match=words):
        hidden_places(given, (3, 4, 6), 5, channels)
