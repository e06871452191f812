"""What always holds between columns of a table: a < b, a <= b, a > b, a >= b, and total = a + b (+ …).

A relation holds for every sample because rows are generated in a free form, in which it cannot fail:

    a < b          b is replaced by the gap b - a, which is positive
    total = a + b  total is left out, and added up again

A column is computed from others in at most one way, and never from itself, so the columns have an order in which all can be computed.  Numbers
are those that the file can hold (TableColumn.rounded), so that a relation holds in the file too.  A strict gap is at least one step of the column:
1 for whole numbers, a day for days; where the file holds any number, it is at least the smallest gap that the data has.

A gap or a total of an empty cell is empty: of a row that lacks a, the free form does not know b.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import numpy as np

from undiffuse.data.table_cells import TableColumn
from undiffuse.errors import UsageError, nearest

TOKEN = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|`([^`]+)`|(<=|>=|==|<|>|=|\+)|([^\s<>=+"'`]+))""")
RELATION_FORMS = "write it as start < end, low <= high or total = a + b, with names that have spaces in quotes"
SUM_ERROR = 1e-9  # relative to the parts, of totals that no rounding of the file explains
NAMED_ROWS = 3


@dataclass(frozen=True)
class Relation:
    """target is computed from `parts`: it is their sum, or above the only one.   text: as declared.   strict: whether it cannot be equal."""

    text: str
    target: int
    parts: tuple[int, ...]
    total: bool
    strict: bool = False


class Relations:
    """The relations of the generated columns of a table.

    columns_free: of each column of the free form its name, and whether it is a gap.
    least_gaps: the smallest difference above 0 in the data, of each relation, 0 where there is none.
    Raises UsageError for relations that cannot be read, contradict each other, or are of columns that are no numbers.
    """

    def __init__(
        self, columns: Sequence[TableColumn], declared: Sequence[str], least_gaps: Sequence[float] = ()
    ) -> None:
        self.columns = tuple(columns)
        self.parsed = tuple(_parsed(text, self.columns) for text in declared)
        self.least_gaps = tuple(least_gaps) or (0.0,) * len(self.parsed)
        by_target: dict[int, Relation] = {}
        for relation in self.parsed:
            other = by_target.setdefault(relation.target, relation)
            if other is not relation:
                raise UsageError(
                    f"{other.text!r} and {relation.text!r} both say what {self._name(relation.target)!r} is: leave out one of them."
                )
        sorter = TopologicalSorter({target: relation.parts for target, relation in by_target.items()})
        try:
            self._order = [by_target[k] for k in sorter.static_order() if k in by_target]
        except CycleError as error:
            circle = [self._name(k) for k in error.args[1]]
            raise UsageError(
                f"the relations lead in a circle, over {', '.join(dict.fromkeys(circle))}: leave out one of them."
            ) from None
        totals = {relation.target for relation in self.parsed if relation.total}
        gaps = {relation.target for relation in self.parsed if not relation.total}
        self._kept = [k for k in range(len(self.columns)) if k not in totals]
        self._touched = sorted({k for relation in self.parsed for k in (relation.target, *relation.parts)})
        self.columns_free = tuple((self._name(k), k in gaps) for k in self._kept)

    def check(self, values: np.ndarray) -> None:
        """Raises UsageError for the first relation that some rows (N, C) break, with how many do. Rows with empty cells are not judged."""
        for relation in self.parsed:
            broken = np.flatnonzero(self._broken(relation, values))
            if len(broken):
                named = ", ".join(str(row + 1) for row in broken[:NAMED_ROWS]) + (
                    ", …" if len(broken) > NAMED_ROWS else ""
                )
                first = ", ".join(
                    f"{self._name(k)} is {self.columns[k].written(values[broken[:1], k], True)[0]}"
                    for k in (relation.target, *relation.parts)
                )
                raise UsageError(
                    f"{relation.text!r} does not hold in {len(broken):,} of {len(values):,} rows (row {named}; in the first, {first}): correct "
                    "these rows, or leave out the relation."
                )

    def smallest_gaps(self, values: np.ndarray) -> tuple[float, ...]:
        """Of each relation the smallest difference above 0 in rows (N, C); 0 where there is none, and for totals."""
        found = []
        for relation in self.parsed:
            gaps = values[:, relation.target] - values[:, relation.parts[0]]
            gaps = gaps[gaps > 0]
            found.append(0.0 if relation.total or not len(gaps) else float(gaps.min()))
        return tuple(found)

    def to_free(self, values: np.ndarray) -> np.ndarray:
        """The free form (N, C') of rows (N, C)."""
        free = values.copy()
        for relation in self.parsed:
            if not relation.total:
                free[:, relation.target] = values[:, relation.target] - values[:, relation.parts[0]]
        return free[:, self._kept]

    def from_free(self, free: np.ndarray) -> tuple[np.ndarray, int]:
        """(rows (N, C), repaired) of a free form (N, C'), any numbers. All relations hold in the rows.

        repaired: the rows in which a gap was too small.
        """
        values = np.full((len(free), len(self.columns)), np.nan)
        values[:, self._kept] = free
        repaired = np.zeros(len(free), dtype=bool)
        computed = {relation.target for relation in self._order}
        for k in self._touched:
            if k not in computed:
                values[:, k] = self.columns[k].rounded(values[:, k])
        for relation in self._order:
            column, parts = self.columns[relation.target], values[:, list(relation.parts)]
            if relation.total:
                values[:, relation.target] = column.rounded(parts.sum(1))
                continue
            lower, gap = parts[:, 0], values[:, relation.target]
            value = column.rounded(lower + gap)
            low = value <= lower if relation.strict else value < lower
            if relation.strict and column.step == 0:
                low |= gap < self.least_gaps[self.parsed.index(relation)]
            values[:, relation.target] = np.where(low, self._lowest(relation, lower), value)
            repaired |= low
        return values, int(repaired.sum())

    def _lowest(self, relation: Relation, lower: np.ndarray) -> np.ndarray:
        """The smallest numbers (N,) that a column may have above others."""
        column = self.columns[relation.target]
        if column.step == 0:
            least = self.least_gaps[self.parsed.index(relation)]
            return np.maximum(lower + least, np.nextafter(lower, np.inf)) if relation.strict else lower
        nearest_ = column.rounded(lower)
        below = nearest_ <= lower if relation.strict else nearest_ < lower
        return np.where(below, column.rounded(nearest_ + column.step), nearest_)

    def _broken(self, relation: Relation, values: np.ndarray) -> np.ndarray:
        """Rows (N,) in which a relation does not hold."""
        target, parts = values[:, relation.target], values[:, list(relation.parts)]
        if not relation.total:
            broken: np.ndarray = target <= parts[:, 0] if relation.strict else target < parts[:, 0]
            return broken
        steps = [self.columns[k].step for k in (relation.target, *relation.parts)]
        slack = SUM_ERROR * np.abs(parts).sum(1) + sum(steps) / 2 * (1 + SUM_ERROR) * (min(steps) < 1)
        unequal: np.ndarray = np.abs(target - parts.sum(1)) > slack
        return unequal

    def _name(self, k: int) -> str:
        return self.columns[k].name


def _parsed(text: str, columns: Sequence[TableColumn]) -> Relation:
    """A relation from its text. Raises UsageError."""
    tokens, end = [], 0
    while match := TOKEN.match(text, end):
        tokens.append((match[match.lastindex or 0], match.lastindex == 4))
        end = match.end()
    names, signs = [token for token, sign in tokens if not sign], [token for token, sign in tokens if sign]
    alternating = [sign for _, sign in tokens] == [k % 2 == 1 for k in range(len(tokens))] and len(tokens) % 2 == 1
    inequality = len(names) == 2 and signs[0:] in (["<"], ["<="], [">"], [">="])
    total = len(names) > 2 and signs[:1] == ["="] and set(signs[1:]) == {"+"}
    if text[end:].strip() or not alternating or not (inequality or total):
        raise UsageError(f"the relation {text!r} cannot be read: {RELATION_FORMS}.")
    places = [_place(name, text, columns) for name in names]
    kinds = {columns[k].kind == "date" for k in places}
    if total and True in kinds:
        raise UsageError(f"the relation {text!r} adds up dates, which have no sum: leave it out.")
    if len(kinds) > 1:
        raise UsageError(f"the relation {text!r} compares a date with a number: leave it out.")
    if total:
        return Relation(text, places[0], tuple(places[1:]), True)
    lower, upper = places if signs[0][0] == "<" else places[::-1]
    return Relation(text, upper, (lower,), False, strict=len(signs[0]) == 1)


def _place(name: str, text: str, columns: Sequence[TableColumn]) -> int:
    """The place of a column. Raises UsageError for one that there is not, or that is no number."""
    names = [column.name for column in columns]
    if name not in names:
        near = nearest(name, names) or f": the columns that are generated are {', '.join(names)}."
        raise UsageError(f"the relation {text!r} is of {name!r}, which is no column that is generated{near}")
    k = names.index(name)
    if columns[k].kind not in ("number", "integer", "date"):
        raise UsageError(
            f"the relation {text!r} is of {name!r}, which is a {columns[k].kind}: relations are between numbers or dates, so say that it is one."
        )
    return k
