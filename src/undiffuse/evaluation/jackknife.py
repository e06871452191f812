"""The jackknife: how much a statistic would scatter from sample to sample, found from one sample (Tukey 1958).

Let s be the statistic of all n rows, and s_b that of all but those of block b of B.  Its standard error is

    error² = (B - 1)/B · sum_b (s_b - mean s_b)²                                                                       (1)

(Efron & Tibshirani 1993, eq. 11.5, for blocks of one row; Shao & Wu 1989 for larger ones).  Of a mean and blocks of one row
this is s/sqrt(n), to the digit.  Of two statistics of the same rows, such as scores of two ways of sampling from the same noise,
the difference has its error by (1) from the differences of their s_b, in which all that they share drops out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

JACKKNIFE_BLOCKS = 20


@dataclass(frozen=True)
class Estimate:
    """A statistic: its value, and without each block of rows; none where the rows are too few for it.

    error: its standard error, NaN where it cannot be estimated.
    """

    value: float
    without: tuple[float, ...] = ()

    @property
    def error(self) -> float:
        """The standard error, by the jackknife over blocks of rows; NaN where there are too few rows."""
        if not self.without:
            return math.nan
        s_b = torch.tensor(self.without, dtype=torch.float64)
        return math.sqrt((len(s_b) - 1) / len(s_b) * (s_b - s_b.mean()).square().sum().item())

    def above(self, other: Estimate) -> Estimate:
        """The difference from another statistic of the same rows."""
        return Estimate(
            self.value - other.value, tuple(a - b for a, b in zip(self.without, other.without, strict=True))
        )


def jackknife(
    statistic: Callable[[Tensor], float], rows: Tensor, blocks: int = JACKKNIFE_BLOCKS, least: int = 2
) -> Estimate:
    """A statistic of rows (N, ...), each row in one of `blocks` blocks in turn.   least: how many rows the statistic takes at least."""
    n = len(rows)
    blocks = min(blocks, n)
    whole, block = statistic(rows), torch.arange(n) % blocks
    if n - math.ceil(n / blocks) < least:
        return Estimate(whole)
    return Estimate(whole, tuple(statistic(rows[block != b]) for b in range(blocks)))
