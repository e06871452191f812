"""From a column of the data to the configuration of a condition: what every kind is handed, and what several kinds do alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from undiffuse.data.dataset import MISSING
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.spec import Condition


@dataclass(frozen=True)
class Column:
    """A condition of every example of a data set.   values: None, or NaN in a tensor, where it is missing.

    mode: of pictures in files, Pillow's name.   notes: on how they were read.
    """

    values: Sequence[Any] | Tensor
    mode: str | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    def present(self) -> list[Any]:
        """The values that are not missing, of a column that is no tensor. Raises UsageError where all are."""
        found = [value for value in self.values if value is not None]
        if not found:
            raise UsageError("no row has a value: leave it out.")
        return found


@dataclass(frozen=True)
class Fitting:
    """How a condition is fitted to its column.   declared: by the user.   name: of the condition.

    dropout: where the declaration has none.   download: whether a text encoder may be fetched.
    continued: whether the model has the condition already, so that one value alone may be there.
    rows: those that mean and deviation are measured on, all when None.   legacy: of older runs, see `data.codec.fitted_codec`.
    examples: what the examples are called, for messages; their numbers from 1 on when None.
    """

    declared: Condition
    name: str = ""
    dropout: float = 0.1
    download: bool = False
    continued: bool = False
    rows: Sequence[int] | None = None
    legacy: bool = False
    examples: Sequence[object] | None = None

    def common(self, missing: bool) -> dict[str, Any]:
        """What every kind of condition is made with.   missing: whether some examples have no value."""
        inject = {"inject": self.declared.inject} if self.declared.inject else {}
        dropout = self.dropout if self.declared.dropout is None else self.declared.dropout
        return {"dropout": dropout, "missing": missing, **inject}

    def measured(self, values: Sequence[Any] | Tensor) -> list[Any]:
        """The values that are measured, of a column that is no tensor: those of `rows` that are not missing."""
        rows = range(len(values)) if self.rows is None else self.rows
        return [values[row] for row in rows if values[row] is not None]


def one_value_each(column: np.ndarray, kind: str, *, whole: bool = True, missing: Sequence[str] = MISSING) -> list[Any]:
    """A column (N,) as values, None where a cell is empty.

    whole: whether floats that are all whole numbers become int.   missing: texts that stand for no value.
    Raises UsageError for several values for each example.
    """
    if column.ndim != 1:
        raise UsageError(
            f"it has the shape {column.shape}: a {kind} is one value for each example, a vector is several."
        )
    if column.dtype.kind == "f":
        whole = whole and all(v.is_integer() for v in column[~np.isnan(column)].tolist())
        return [None if np.isnan(v) else int(v) if whole else float(v) for v in column]
    return [None if isinstance(v, str) and v.strip() in missing else v for v in column.tolist()]


def several(names: tuple[str, ...], continued: bool) -> tuple[str, ...]:
    """A vocabulary itself. Raises UsageError for one with fewer than two names.   continued: as in Fitting."""
    if len(names) < (1 if continued else 2):
        raise UsageError(
            f"there is only one value, {names[0]!r}, so it carries no information: leave it out."
            if names
            else "no row names any: leave it out."
        )
    return names
