"""Balanced drawing: exact shares over epochs, every example of a class before any again, and no state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from undiffuse.data.balancing import BalancedOrder
from undiffuse.data.loader import batch_indices

COUNTS = (70, 20, 7, 3)
GROUPS = np.random.default_rng(0).permutation(np.repeat([4, 9, -1, 2], COUNTS))
N = len(GROUPS)


def drawn(balance, epochs, seed=0):
    order = BalancedOrder(GROUPS, balance)
    return np.concatenate([order.epoch(seed, epoch) for epoch in range(epochs)])


def test_every_class_alike_is_exact():
    rows = drawn(1.0, 3)
    for epoch in range(3):
        found = GROUPS[rows[epoch * N : (epoch + 1) * N]]
        assert {group: (found == group).sum() for group in (4, 9, -1, 2)} == {4: 25, 9: 25, -1: 25, 2: 25}


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_shares_are_powers_of_the_numbers(balance):
    """After e epochs each class was drawn e n w times, to less than 1."""
    rows, groups = drawn(balance, 7), (4, 9, -1, 2)
    shares = np.array([float(count) ** (1 - balance) for count in COUNTS])
    shares /= shares.sum()
    for epochs in range(1, 8):
        found = [(GROUPS[rows[: epochs * N]] == group).sum() for group in groups]
        assert sum(found) == epochs * N
        assert np.abs(np.array(found) - epochs * N * shares).max() < 1


@pytest.mark.parametrize("balance", [0.4, 1.0])
def test_every_example_comes_before_any_comes_again(balance):
    rows = drawn(balance, 5)
    for group, count in zip((4, 9, -1, 2), COUNTS, strict=True):
        sequence = rows[GROUPS[rows] == group]
        for start in range(0, len(sequence) - count + 1, count):
            assert set(sequence[start : start + count]) == set(np.flatnonzero(group == GROUPS))
    rare = rows[GROUPS[rows] == 2]
    assert len({tuple(rare[k : k + 3]) for k in range(0, len(rare) - 3, 3)}) > 1  # in another order each time


def test_batches_are_a_function_of_seed_and_step():
    """In any order of asking, by an order made anew, and cut into batches of another size."""
    order = BalancedOrder(GROUPS, 0.7)
    stream = np.concatenate([batch_indices(N, 16, 5, step, order) for step in range(25)])
    assert np.array_equal(stream, drawn(0.7, 4, seed=5))
    for step in (24, 3, 17, 0, 6):
        again = batch_indices(N, 16, 5, step, BalancedOrder(GROUPS, 0.7))
        assert np.array_equal(again, stream[step * 16 : step * 16 + 16])
        assert np.array_equal(batch_indices(N, 16, 5, step, order), again)
    assert not np.array_equal(drawn(0.7, 1, seed=6), drawn(0.7, 1, seed=5))


def test_classes_are_spread_over_an_epoch():
    """Where in an epoch a class is drawn is random: the mean place of 25 of 100 is 49.5, with a standard error of about 5."""
    places = [np.flatnonzero(GROUPS[drawn(1.0, 1, seed)] == 2).mean() for seed in range(40)]
    assert abs(np.mean(places) - 49.5) < 4 * (833 / 25 * 0.75 / 40) ** 0.5


def test_torch_groups_and_single_ones():
    order = BalancedOrder(torch.zeros(5, dtype=torch.int64).numpy(), 0.5)
    assert sorted(order.epoch(0, 3)) == [0, 1, 2, 3, 4]
