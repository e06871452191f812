"""Rows ↔ x: what goes in comes out, and whatever x is, what comes out could have gone in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undiffuse.data.column_encoding import (
    CategoryColumn,
    ColumnEncoder,
    LinearColumn,
    QuantileColumn,
    fitted_column,
)

RNG = np.random.default_rng(0)
N = 500
NUMBERS = {
    "normal": RNG.normal(3, 2, N),
    "heavy": np.exp(2 * RNG.normal(size=N)),
    "atoms": np.where(RNG.random(N) < 0.6, 0.0, RNG.exponential(size=N)),
    "whole": RNG.poisson(3, N).astype(float),
    "far": 1.7e9 + RNG.random(N),
    "huge": RNG.normal(size=N) * 1e300,
    "two": np.where(RNG.random(N) < 0.5, -1.5, 2.5),
    "one": np.full(N, 7.0),
}


def fitted(values, categories=0, training=None):
    return fitted_column("a", values, np.arange(len(values)) if training is None else training, categories)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_numbers_come_back(name, missing):
    values = np.where(RNG.random(N) < missing, np.nan, NUMBERS[name])
    encoder = ColumnEncoder([fitted(values)])
    x = encoder.encode(values[:, None, None])
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    back = encoder.decode(x)[:, 0, 0].numpy()
    assert np.array_equal(np.isnan(back), np.isnan(values))
    # x is float32, of numbers that lie within a few deviations of 0
    scale = np.nanstd(values / np.nanmax(np.abs(values))) * np.nanmax(np.abs(values))
    assert np.nanmax(np.abs(back - values)) <= 1e-5 * max(scale, 1e-9 * np.nanmax(np.abs(values)))


@pytest.mark.parametrize("name", ["normal", "heavy", "atoms", "whole"])
def test_x_of_numbers_has_mean_0_and_deviation_a_half(name):
    """But for atoms, whose normal scores are one each, and spread less."""
    x = ColumnEncoder([fitted(NUMBERS[name])]).encode(NUMBERS[name][:, None, None])
    assert abs(float(x.mean())) < 0.1
    assert 0.35 < float(x.std()) < 0.55


def test_heavy_tails_and_atoms_go_by_quantiles_and_others_stay_straight():
    assert isinstance(fitted(NUMBERS["normal"]), LinearColumn)
    assert all(isinstance(fitted(NUMBERS[name]), QuantileColumn) for name in ("heavy", "atoms"))
    assert isinstance(fitted(NUMBERS["two"]), LinearColumn)
    column = fitted(NUMBERS["atoms"])
    assert isinstance(column, QuantileColumn)
    ranks = np.searchsorted(np.sort(NUMBERS["atoms"]), [0.0], side="right") / N / 2  # the middle of the zeros' ranks
    expected = float(torch.special.ndtri(torch.tensor(ranks[0]))) / 2
    assert column.score(np.array([0.0]))[0] == pytest.approx(expected, abs=0.01)


def test_half_of_the_rows_lie_below_a_score_of_zero():
    column = fitted(NUMBERS["heavy"])
    assert column.value(np.array([0.0]))[0] == pytest.approx(np.median(NUMBERS["heavy"]), rel=0.02)


@pytest.mark.parametrize("count", [1, 2, 5, 1000])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_categories_come_back_and_have_mean_0(count, missing):
    values = np.where(RNG.random(4000) < missing, np.nan, RNG.integers(0, count, 4000).astype(float))
    column = fitted(values, count)
    assert isinstance(column, CategoryColumn)
    assert len(column.shares) == count + (missing > 0)
    encoder = ColumnEncoder([column])
    x = encoder.encode(values[:, None, None])
    unseen = count - len(np.unique(values[~np.isnan(values)]))  # whose share is half an example
    assert x[:, :, 0].mean(0).abs().max() <= 1e-5 + 0.5 / 4000 * (unseen + 1) * (unseen > 0)
    assert np.array_equal(encoder.decode(x)[:, 0, 0].numpy(), values, equal_nan=True)


def mixed() -> tuple[ColumnEncoder, np.ndarray]:
    rows = np.stack([NUMBERS["heavy"], RNG.integers(0, 4, N).astype(float), NUMBERS["whole"], NUMBERS["normal"]], 1)
    rows[RNG.random(N) < 0.2, 1] = np.nan
    rows[RNG.random(N) < 0.2, 2] = np.nan
    return ColumnEncoder([fitted(rows[:, k], 4 if k == 1 else 0) for k in range(4)]), rows


MIXED, ROWS = mixed()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
def test_whatever_x_is_a_row_comes_out_that_could_have_gone_in(seed, scale):
    x = scale * torch.randn(20, MIXED.channels, 1, generator=torch.Generator().manual_seed(seed))
    rows = MIXED.decode(x)[:, :, 0].numpy()
    assert not np.isnan(rows[:, [0, 3]]).any()
    assert (rows[:, 0] >= ROWS[:, 0].min()).all()
    assert (rows[:, 0] <= ROWS[:, 0].max()).all()
    categories, whole = rows[:, 1][~np.isnan(rows[:, 1])], rows[:, 2][~np.isnan(rows[:, 2])]
    assert set(categories) <= {0, 1, 2, 3}
    assert (whole == whole.round()).all()


def test_all_is_measured_on_the_training_rows():
    values = np.concatenate([NUMBERS["normal"], NUMBERS["normal"] + 1e6])
    column = fitted(values, training=np.arange(N))
    assert isinstance(column, LinearColumn)
    assert column.mean == pytest.approx(NUMBERS["normal"].mean())
    assert column.scale == pytest.approx(2 * NUMBERS["normal"].std())
    shares = fitted(np.array([0.0, 0, 1, 1, 2, 2]), 3, np.arange(4)).shares
    assert shares[0] == shares[1] > shares[2] > 0  # which a network can still say


def test_limits_are_those_of_x():
    rows = ROWS[~np.isnan(ROWS).any(1)]
    low, high = MIXED.limits(np.nanmin(ROWS, 0).tolist(), np.nanmax(ROWS, 0).tolist())
    x = MIXED.encode(rows[:, :, None])
    assert (x >= low - 1e-5).all()
    assert (x <= high + 1e-5).all()
