"""Balanced drawing of rare groups: how often each group of examples is drawn, as a function of (seed, epoch) alone.

Of groups of n_1, n_2, … examples, n in all, a balance b in [0, 1] draws group c with the share

    w_c = n_c^(1 - b) / Σ n^(1 - b):      as they are for b = 0, every group alike for b = 1.

An epoch has n places.  Until the end of epoch e, group c is drawn F(e, c) - F(e, c - 1) times,

    F(e, c) = round(e n (w_1 + … + w_c)),

so that these numbers are whole, add up to e n, and are never further than 1 from e n w_c.  Which places of its epoch a group gets is random;
its examples come in an endless sequence of permutations, so each is seen before any is repeated.
"""

from __future__ import annotations

import numpy as np

from undiffuse.rng import GeneratorStream, permuted

ONE = 2**32  # shares are kept in so many parts, so that epochs are whole numbers to the last


class BalancedOrder:
    """The order in which balanced examples are drawn.   groups: int (N,), which group each is of.   balance: from 0 to 1."""

    def __init__(self, groups: np.ndarray, balance: float) -> None:
        self.n = len(groups)
        _, index = np.unique(groups, return_inverse=True)
        self.rows = [np.flatnonzero(index == k) for k in range(index.max() + 1)]
        weights = np.array([float(len(rows)) ** (1 - balance) for rows in self.rows])
        self._ends = [0, *(round(end * ONE) for end in np.cumsum(weights / weights.sum()))]
        self._ends[-1] = ONE
        self._made: dict[tuple[int, int], np.ndarray] = {}

    def drawn_before(self, epoch: int) -> np.ndarray:
        """How often each group was drawn before an epoch, int64 (groups,)."""
        return np.diff([(epoch * self.n * end + ONE // 2) // ONE for end in self._ends])

    def epoch(self, seed: int, epoch: int) -> np.ndarray:
        """The rows of an epoch in their order, int64 (N,)."""
        if (seed, epoch) not in self._made:
            made = self._make(seed, epoch)
            self._made = {**dict(list(self._made.items())[-1:]), (seed, epoch): made}  # a batch may lie in two epochs
        return self._made[seed, epoch]

    def _make(self, seed: int, epoch: int) -> np.ndarray:
        first, last = self.drawn_before(epoch), self.drawn_before(epoch + 1)
        order = permuted(GeneratorStream.BALANCED, self.n, seed, epoch)
        places = np.split(order, np.cumsum(last - first)[:-1])
        found = np.empty(self.n, np.int64)
        for group, where in enumerate(places):
            found[np.sort(where)] = self._sequence(seed, group, int(first[group]), int(last[group]))
        return found

    def _sequence(self, seed: int, group: int, first: int, last: int) -> np.ndarray:
        """The examples of a group from one of its draws to another, by an endless sequence of permutations."""
        rows, n = self.rows[group], len(self.rows[group])
        rounds = range(first // n, -(-last // n))
        parts = [permuted(GeneratorStream.ROUND, rows, seed, k * len(self.rows) + group) for k in rounds]
        start = rounds.start * n
        return np.concatenate([np.empty(0, np.int64), *parts])[first - start : last - start]
