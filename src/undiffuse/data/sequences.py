"""Examples of unequal length: padded at the end to the longest, where nothing is known of them.

A sequence is an array of one axis, or of two of which one differs in length from example to example.  What is beyond the end of one is missing
as any hole is (holes.py), and the column `length` says where its end is: a condition by default, so that samples have ends too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from undiffuse.data.dataset import Dataset
from undiffuse.data.holes import with_known
from undiffuse.data.large_arrays import allocated
from undiffuse.data.statistics import parts_of
from undiffuse.errors import UsageError

LENGTH = "length"
"""The column that says how many positions an example has."""
MOST_AXES = 2  # of one sequence


def unequal_axis(shapes: Sequence[tuple[int, ...]]) -> int | None:
    """The axis that sequences of these shapes differ in; None where all are alike, or they are no sequences."""
    if len({len(shape) for shape in shapes}) != 1 or len(shapes[0]) > MOST_AXES:
        return None
    differing = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
    return differing[0] if len(differing) == 1 and min(shape[differing[0]] for shape in shapes) else None


def layout_of_sequences(axes: int, axis: int, layout: str | None) -> str:
    """The layout of sequences of so many axes each that differ in one of them. Raises UsageError for a `layout` with another axis there."""
    if layout is not None and (len(layout) != axes + 1 or layout[axis + 1] != "L"):
        raise UsageError(
            f"the examples differ in their axis {axis}, so that is L, their length, which the layout {layout!r} does not say: correct it."
        )
    return layout or ("NL" if axes == 1 else "NCL" if axis else "NLC")


def stacked_sequences(
    arrays: Iterable[np.ndarray], shapes: Sequence[tuple[int, ...]], axis: int, dtype: np.dtype[Any]
) -> np.ndarray:
    """Sequences of these shapes as one array (N, …), 0 beyond their ends."""
    longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    values = allocated((len(shapes), *longest), dtype)
    for row, array in enumerate(arrays):
        values[row] = lengthened(array, axis, longest[axis])
    return values


def lengthened(values: np.ndarray, axis: int, length: int) -> np.ndarray:
    """The array with zeros at the end of an axis, up to a length; itself where it has that."""
    if values.shape[axis] == length:
        return values
    found = allocated((*values.shape[:axis], length, *values.shape[axis + 1 :]), values.dtype)
    found[(slice(None),) * axis + (slice(values.shape[axis]),)] = values
    return found


def with_ends(data: Dataset, lengths: np.ndarray) -> Dataset:
    """Padded examples (N, C, L) as the examples of these lengths that they are.

    Raises UsageError for a column of that name that says something else.
    """
    if LENGTH in data.columns:
        raise UsageError(
            f"the examples have a column {LENGTH!r} already, which their lengths would be called: rename it."
        )
    known = allocated((len(data), 1, data.shape[-1]), bool)
    for part in parts_of(known):
        known[part] = np.arange(data.shape[-1]) < lengths[part, None, None]
    longest = int(lengths.max())
    note = (
        f"{int((lengths < longest).sum()):,} of {len(data):,} examples are shorter than the longest, of {longest:,} positions; the shortest has "
        f"{int(lengths.min()):,}: their ends are padded, which counts for nothing, and {LENGTH!r} is a condition unless others are declared"
    )
    found = with_known(replace(data, padded=True, notes=(*data.notes, note)), known)
    return replace(found, columns={**data.columns, LENGTH: lengths.astype(np.int64)})
