"""Rows of a table ↔ x: what becomes of each column.

A row is stored as one number for each column: a number, the place of a category among its values, or NaN where the cell is empty.  In x it has

    linear       a number: (value - mean)/(2 sd), one channel
    quantiles    a number: the normal score of its rank, Phi^-1((rank - 1/2)/n)/2, one channel.  Values that are equal have the mean of
                 their ranks, so that atoms, such as many zeros, stay atoms; between two values the score is linear, beyond the last there is none
    categories   e_k - f, K channels, see process/categories.py
    empty cells  beside a number that is missing in some rows, the category "there" or "missing", 2 channels; the number's x is then 0, its mean.
                 Of categories, missing is one category more

Numbers go by quantiles where their tails are heavy or one value is common (Gorishniy et al. 2021, "Revisiting deep learning models for tabular
data", section 4.2; so do TabDDPM, Kotelnikov et al. 2023, and TabDiff, Shi et al. 2025), else linearly, which keeps straight relations straight.
All is measured on the training rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from undiffuse.data.statistics import PART_NUMBERS

MOST_KNOTS = 1000
HEAVY, LOPSIDED, MOST_ALIKE = (
    2.0,
    1.0,
    0.05,
)  # excess kurtosis, skewness, and share of one value, from which a column goes by quantiles


class LinearColumn(BaseModel):
    """A number by its mean and deviation."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(description="Name of the column.")
    kind: Literal["linear"] = Field("linear", description="Which kind of column this is.")
    mean: float = Field(description="What is subtracted.")
    scale: float = Field(gt=0, description="What is then divided by: twice the standard deviation.")
    missing: float = Field(0.0, ge=0, lt=1, description="Share of the cells that are empty, from 0 to less than 1.")
    whole: bool = Field(False, description="Whether the column holds whole numbers alone.")

    def score(self, values: np.ndarray) -> np.ndarray:
        """x of values."""
        return (values - self.mean) / self.scale

    def value(self, score: np.ndarray) -> np.ndarray:
        """The inverse of `score`."""
        return score * self.scale + self.mean


class QuantileColumn(BaseModel):
    """A number by its rank."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(description="Name of the column.")
    kind: Literal["quantiles"] = Field("quantiles", description="Which kind of column this is.")
    knots: tuple[float, ...] = Field(min_length=2, description="Values in rising order.")
    scores: tuple[float, ...] = Field(
        min_length=2, description="x of each of these, half of the normal score of its rank."
    )
    missing: float = Field(0.0, ge=0, lt=1, description="Share of the cells that are empty, from 0 to less than 1.")
    whole: bool = Field(False, description="Whether the column holds whole numbers alone.")

    def score(self, values: np.ndarray) -> np.ndarray:
        """x of values."""
        found: np.ndarray = np.interp(values, self.knots, self.scores)
        return found

    def value(self, score: np.ndarray) -> np.ndarray:
        """The inverse of `score`; beyond the ends, the ends."""
        found: np.ndarray = np.interp(score, self.scores, self.knots)
        return found


class CategoryColumn(BaseModel):
    """A category."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(description="Name of the column.")
    kind: Literal["categories"] = Field("categories", description="Which kind of column this is.")
    shares: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        min_length=1,
        description="Share of each category in the training set, above 0; the last one's is that of empty cells.",
    )
    missing: float = Field(0.0, ge=0, lt=1, description="Share of the cells that are empty, from 0 to less than 1.")


NumberColumn = LinearColumn | QuantileColumn
ColumnEncoding = Annotated[LinearColumn | QuantileColumn | CategoryColumn, Field(discriminator="kind")]


def fitted_column(name: str, values: np.ndarray, training: np.ndarray, categories: int) -> ColumnEncoding:
    """What becomes of a column.   values: of all rows (N,), NaN where a cell is empty.   training: rows to measure.

    categories: how many there are, 0 for numbers.
    """
    measured = values[training]
    missing = float(np.isnan(measured).mean())
    some = bool(np.isnan(values).any())
    least = 0.5 / len(measured)
    if categories:
        counts = np.bincount(measured[~np.isnan(measured)].astype(np.int64), minlength=categories)[:categories]
        shares = np.maximum(np.append(counts, np.isnan(measured).sum())[: categories + some] / len(measured), least)
        return CategoryColumn(
            name=name, shares=tuple((shares / shares.sum()).tolist()), missing=max(missing, least) if some else 0.0
        )
    there = np.sort(measured[~np.isnan(measured)])
    share = min(max(missing, least), 1 - least) if some else 0.0
    finite = values[~np.isnan(values)]
    whole = bool((finite == np.round(finite)).all() and np.abs(finite).max(initial=0) < 2**53)
    if len(there) < 2 or there[0] == there[-1]:
        mean = float(there[0]) if len(there) else float(finite[0])
        return LinearColumn(name=name, mean=mean, scale=1.0, missing=share, whole=whole)
    knots, first, counts = np.unique(there, return_index=True, return_counts=True)
    unit = float(np.abs(there).max())
    spread = there / unit  # so that no square is infinite
    deviation = float(spread.std())
    z = (spread - spread.mean()) / deviation
    odd = abs((z**3).mean()) > LOPSIDED or (z**4).mean() - 3 > HEAVY
    atoms = counts.max() > max(MOST_ALIKE * len(there), 1) and len(knots) > 2
    if not odd and not atoms:
        return LinearColumn(
            name=name, mean=float(spread.mean()) * unit, scale=2 * deviation * unit, missing=share, whole=whole
        )
    ranks = (first + (counts - 1) / 2 + 0.5) / len(there)
    if len(knots) > MOST_KNOTS:
        kept = np.unique(np.searchsorted(ranks, np.linspace(ranks[0], ranks[-1], MOST_KNOTS)).clip(max=len(knots) - 1))
        knots, ranks = knots[kept], ranks[kept]
    scores = torch.special.ndtri(torch.from_numpy(ranks)).numpy() / 2
    return QuantileColumn(
        name=name, knots=tuple(knots.tolist()), scores=tuple(scores.tolist()), missing=share, whole=whole
    )


class ColumnEncoder:
    """Rows (N, columns, 1) ↔ x (N, C, 1).   starts: the first channel of each column.

    blocks: (first channel, shares) of each category, those of empty cells among them.
    """

    def __init__(self, columns: Sequence[ColumnEncoding]) -> None:
        self.columns = tuple(columns)
        self.starts: list[int] = []
        self.blocks: list[tuple[int, tuple[float, ...]]] = []
        self.channels = 0
        for column in self.columns:
            self.starts.append(self.channels)
            if isinstance(column, CategoryColumn):
                self.blocks.append((self.channels, column.shares))
                self.channels += len(column.shares)
                continue
            self.channels += 1
            if column.missing:
                self.blocks.append((self.channels, (1 - column.missing, column.missing)))
                self.channels += 2

    @property
    def at_once(self) -> int:
        """How many rows are encoded at once."""
        return max(1, PART_NUMBERS // self.channels)

    def encode(self, rows: np.ndarray) -> Tensor:
        """x (N, C, 1) of rows (N, columns, 1), float64. A category that the training set has not is the one that is nearest by number."""
        x = np.zeros((len(rows), self.channels), np.float32)
        for k, (column, start) in enumerate(zip(self.columns, self.starts, strict=True)):
            values = rows[:, k, 0]
            empty = np.isnan(values)
            if isinstance(column, CategoryColumn):
                last = len(column.shares) - 1
                place = np.where(empty, last, np.nan_to_num(values)).astype(np.int64).clip(0, last)
                x[:, start : start + last + 1] = -np.array(column.shares)
                x[np.arange(len(rows)), start + place] += 1
                continue
            x[:, start] = np.where(empty, 0.0, column.score(np.where(empty, 0.0, values)))
            if column.missing:
                x[:, start + 1], x[:, start + 2] = column.missing - empty, empty - column.missing
        return torch.from_numpy(x)[:, :, None]

    def decode(self, x: Tensor) -> Tensor:
        """The inverse, float64, for any x (N, C, 1): the likeliest category, and numbers within the ends of quantiles."""
        numbers = x[:, :, 0].double().cpu().numpy()
        rows = np.empty((len(numbers), len(self.columns)))
        for k, (column, start) in enumerate(zip(self.columns, self.starts, strict=True)):
            if isinstance(column, CategoryColumn):
                count = len(column.shares)
                place = (numbers[:, start : start + count] + np.array(column.shares)).argmax(1)
                rows[:, k] = np.where(place == count - 1, np.nan, place) if column.missing else place
                continue
            value = column.value(numbers[:, start])
            rows[:, k] = np.round(value) if column.whole else value
            if column.missing:
                there = numbers[:, start + 1] - column.missing + 1 >= numbers[:, start + 2] + column.missing
                rows[~there, k] = np.nan
        return torch.from_numpy(rows)[:, :, None]

    def limits(self, low: Sequence[float], high: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The range of x (C, 1) each, low and high, of rows whose columns lie between low and high."""
        ends = torch.zeros(2, self.channels)
        for column, start, least, most in zip(self.columns, self.starts, low, high, strict=True):
            if not isinstance(column, CategoryColumn):
                ends[:, start] = torch.from_numpy(column.score(np.array([least, most]))).float()
        for start, shares in self.blocks:
            f = torch.tensor(shares)
            ends[0, start : start + len(f)], ends[1, start : start + len(f)] = -f, 1 - f
        return ends[0][:, None], ends[1][:, None]


def rows_are_known(columns: Sequence[ColumnEncoding], values: np.ndarray) -> bool:
    """Whether rows (N, columns, 1) hold no category that the columns have not, and empty cells only where these may be."""
    for k, column in enumerate(columns):
        cells = values[:, k, 0]
        empty = np.isnan(cells)
        if empty.any() and not column.missing:
            return False
        most = len(column.shares) - (1 if column.missing else 0) if isinstance(column, CategoryColumn) else math.inf
        if (cells[~empty] >= most).any():
            return False
    return True
