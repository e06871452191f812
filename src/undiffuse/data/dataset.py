"""Dataset: examples in memory as they were stored, with what must be known to encode them and to show them again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from undiffuse.data.file_formats import FileFormat
from undiffuse.data.statistics import channel_statistics, parts_of
from undiffuse.data.table_schema import TableSchema
from undiffuse.errors import UsageError
from undiffuse.rng import GeneratorStream, permuted

MISSING = ("", "nan", "NaN", "None", "null")  # texts of a missing value


@dataclass(frozen=True)
class Dataset:
    """values: (N, C, *size) in the dtype of the source: uint8, uint16, another integer type, float32, or float64 where float32 loses much.

    labels: int64 (N,) into `classes`, -1 where there is none, or None.    low, high: of integer values, what black and white are; None
    for the range that the values have (ranges.py).
    mode: of images, the kind of pixel (L, LA, RGB, RGBA, I;16, RGB;16, see pixels.py), so that samples are written in the format of the source.
    columns: what else is known of each example, N rows each, by name.   root: the folder that file names in them start from.
    file_format: of the files that the examples came in, where an array does not say all of it.
    folder: of images, where the examples are one; the column `file` has their names in it.
    known: bool (N, C or 1, *size), False where a number is missing; None where all are known.  What `values` holds there means nothing.
    padded: whether examples were of unequal lengths, which the column `length` says (sequences.py).
    notes: sentences about what was skipped or assumed.
    """

    name: str
    values: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    mode: str | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    root: Path | None = None
    folder: Path | None = None
    notes: tuple[str, ...] = field(default=())
    file_format: FileFormat | None = None
    known: np.ndarray | None = None
    padded: bool = False

    @property
    def table(self) -> TableSchema | None:
        """What the columns are, where the examples are rows of a table."""
        return None if self.file_format is None else self.file_format.table

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *size) of one example."""
        return self.values.shape[1:]

    def __getitem__(self, rows: np.ndarray) -> Dataset:
        labels = None if self.labels is None else self.labels[rows]
        columns = {name: column[rows] for name, column in self.columns.items()}
        known = None if self.known is None else self.known[rows]
        return replace(self, values=self.values[rows], labels=labels, columns=columns, notes=(), known=known)

    def filled(self, rows: slice | np.ndarray) -> np.ndarray:
        """The values (n, C, *size) of some examples, 0 where a number is missing."""
        values = self.values[rows]
        return values if self.known is None else np.where(self.known[rows], values, values.dtype.type(0))

    def bounds(self) -> np.ndarray:
        """An array with the smallest and the largest known number of every channel: the values, (2, C, 1, …) where some are missing."""
        if self.known is None:
            return self.values
        _, _, low, high = channel_statistics(self.values, known=self.known)
        ends = np.stack([low, high]).reshape(2, -1, *[1] * (self.values.ndim - 2))
        return ends.astype(self.values.dtype)

    def names(self, rows: np.ndarray) -> list[str]:
        """What people call examples: their files, or data:3 by their number."""
        files = self.columns.get("file")
        return [f"data:{row}" if files is None else str(files[row]) for row in rows]

    def fingerprint(self) -> str:
        """A hash of every value, label and column, to notice on resume that the data changed."""
        digest = hashlib.sha256(str((self.values.shape, self.values.dtype.str, self.classes)).encode())
        for part in parts_of(self.values):
            digest.update(np.ascontiguousarray(self.filled(part)).data)
            if self.known is not None:
                digest.update(np.ascontiguousarray(self.known[part]).data)
        if self.labels is not None:
            digest.update(np.ascontiguousarray(self.labels).data)
        for name in sorted(self.columns):
            column = self.columns[name]
            if column.dtype == object:
                _update_by_texts(digest, name, column)
            else:
                digest.update(
                    f"{name}{column.shape}{column.dtype.str}".encode() + np.ascontiguousarray(column).tobytes()
                )
        return digest.hexdigest()[:16]

    def split_rows(self, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the training and of the held-out part, each in order, by a permutation: as runs of before had it, see splitting.py.

        held_out: a share of the examples below 1, or a number of them from 1 on.   Raises UsageError where none would be left.
        """
        count = round(held_out * len(self)) if held_out < 1 else int(held_out)
        if count >= len(self):
            raise UsageError(f"{count} examples cannot be held out of {len(self)}: hold out fewer.")
        order = permuted(GeneratorStream.SPLIT, len(self), seed)
        return np.sort(order[count:]), np.sort(order[:count])


def _update_by_texts(digest: hashlib._Hash, name: str, column: np.ndarray) -> None:
    """Hashes texts as if they lay in an array of fixed width, text by text, so that how they are kept changes no fingerprint."""
    width = max(1, *(len(text) for text in column))
    zeros = memoryview(bytes(4 * width))
    digest.update(f"{name}{column.shape}<U{width}".encode())
    for text in column:
        digest.update(text.encode("utf-32-le", "surrogatepass"))
        digest.update(zeros[4 * len(text) :])
