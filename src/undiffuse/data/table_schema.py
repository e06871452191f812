"""The schema of a table: what its columns are, so that rows become numbers, and numbers the rows of such a file again.

Which columns are generated and why is found by data/table_kinds.py, or declared.  How cells and numbers correspond is in data/table_cells.py, and
what always holds between columns in data/table_relations.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from undiffuse.config import Config
from undiffuse.data.table_cells import TableColumn as TableColumn
from undiffuse.data.table_kinds import declared_kind, found_kind
from undiffuse.data.table_relations import Relations
from undiffuse.errors import UsageError, nearest
from undiffuse.system import optional, write_atomically

ROWS_AT_ONCE = 2**16  # written at once, so that the memory for cells is bounded
TEXT_FILES = {".csv": ",", ".tsv": "\t"}  # what separates their cells


class TableSchema(Config):
    """The columns of a table and the file that it came in."""

    columns: tuple[TableColumn, ...] = Field(description="All columns of the file, in its order.")
    suffix: Literal[".csv", ".tsv", ".jsonl", ".parquet"] = Field(
        description="How the name of the file ends, with the dot."
    )
    relations: tuple[str, ...] = Field((), description="What always holds, such as start < end or total = a + b.")
    least_gaps: tuple[float, ...] = Field(
        (),
        description="Of each relation with a sign of inequality, the smallest difference above 0 in the data; else 0.",
    )

    @property
    def free(self) -> tuple[tuple[str, int], ...]:
        """Of each column of x, see table_relations.py, its name, and how many categories it has, 0 for numbers."""
        counts = {column.name: len(column.values) for column in self.generated}
        return tuple((name, counts[name]) for name, _ in self.related.columns_free)

    @property
    def generated(self) -> tuple[TableColumn, ...]:
        """The columns that are part of x."""
        return tuple(column for column in self.columns if column.generated)

    @cached_property
    def related(self) -> Relations:
        """Its relations, parsed."""
        return Relations(self.generated, self.relations, self.least_gaps)

    def changed(self, **fields: Any) -> TableSchema:
        """The same with other fields. A copy by pydantic would keep the relations as they were parsed before."""
        return TableSchema(**({name: getattr(self, name) for name in TableSchema.model_fields} | fields))

    @classmethod
    def infer(
        cls,
        content: Mapping[str, Sequence[object]],
        suffix: str,
        kinds: Mapping[str, str],
        relations: Sequence[str] = (),
    ) -> TableSchema:
        """The schema of a table.

        content: the cells of each column, N each, as read_table has them.   kinds: what columns are said to be, by name; the others are found.
        Raises UsageError for unknown names and kinds, for cells that are not of the kind said or break a relation, and where nothing can be
        generated.
        """
        for name in kinds:
            if name not in content:
                raise UsageError(f"the table has no column {name!r}{nearest(name, content) or ': ' + _named(content)}")
        columns = tuple(
            declared_kind(name, cells, kinds[name]) if name in kinds else found_kind(name, cells)
            for name, cells in content.items()
        )
        schema = cls(columns=columns, suffix=suffix.lower(), relations=tuple(relations))  # type: ignore[arg-type]
        if not schema.generated:
            raise UsageError(
                f"the table has nothing to generate ({'; '.join(schema.describe())}): say what a column is, such as category or number."
            )
        if not relations:
            return schema
        values = schema.values(content)
        schema.related.check(values)
        return schema.changed(least_gaps=schema.related.smallest_gaps(values))

    def values(self, content: Mapping[str, Sequence[object]]) -> np.ndarray:
        """The generated columns of a table as float64 (N, generated), NaN where a cell is empty.

        Numbers are as they are, dates seconds since 1970, categories and booleans their place among `values`.
        Raises UsageError for a column that is missing, and for a cell that does not fit, by column and row, the first of which is 1.
        """
        missing = next((column.name for column in self.generated if column.name not in content), None)
        if missing is not None:
            raise UsageError(
                f"the table has no column {missing!r}: add it, or rename the one that it is; {_named(content)}"
            )
        return np.stack([column.read(content[column.name]) for column in self.generated], axis=1)

    def cells(self, values: np.ndarray, given: Mapping[str, Sequence[object]] | None = None) -> dict[str, list[object]]:
        """The cells of all columns, the inverse of `values`, for float64 (N, generated); numbers are rounded to those that can be written.

        Texts as the file has them for .csv and .tsv, else numbers, truth values and dates where these came in.  Columns that are not
        generated are empty ("" or None), except for constants, and those that are given.   given: N cells by name, None for an empty one.
        """
        texts = self.suffix in TEXT_FILES
        each = iter(values.T)
        found = {
            column.name: column.written(next(each), texts) if column.generated else column.filled(len(values), texts)
            for column in self.columns
        }
        for name in found.keys() & (given or {}).keys():
            cells = (given or {})[name]
            found[name] = ["" if cell is None else str(cell) for cell in cells] if texts else list(cells)
        return found

    def rows(
        self, free: np.ndarray, given: Mapping[str, Sequence[object]] | None = None
    ) -> tuple[dict[str, list[object]], int]:
        """(the columns of the rows that x, (N, columns of `free`), stands for, the rows in which a relation was repaired).

        Numbers are numbers, whatever the file; an empty cell is None.   given: see `cells`.
        """
        values, repaired = self.related.from_free(free)
        columns = tuple(
            column.model_copy(update={"typed": True}) if column.kind in ("number", "integer") else column
            for column in self.columns
        )
        typed = self.changed(columns=columns, suffix=".jsonl")
        return typed.cells(values, given), repaired

    def write(self, path: Path, values: np.ndarray, given: Mapping[str, Sequence[object]] | None = None) -> None:
        """Writes rows (N, generated) as a file of this schema, whatever the name of the path, at once or not at all.   given: see `cells`.

        Raises OSError where the disk is full, and Failure where pyarrow is needed and missing.
        """
        parts = (
            self.cells(values[part], {name: cells[part] for name, cells in (given or {}).items()})
            for part in _parts(len(values))
        )
        write: Callable[[Path, Iterator[dict[str, list[object]]]], None] = self._write_lines
        if self.suffix == ".parquet":
            write = partial(self._write_parquet, optional("pyarrow"), optional("pyarrow.parquet"))
        write_atomically(path, lambda temporary: write(temporary, parts), 8 * values.size)

    def describe(self) -> list[str]:
        """A line for each column: its name, its kind and why."""
        return [f"{column.name}: {column.kind} ({column.why})" for column in self.columns]

    def _write_lines(self, path: Path, parts: Iterator[dict[str, list[object]]]) -> None:
        names = [column.name for column in self.columns]
        with open(path, "w", encoding="utf-8", newline="") as file:
            if self.suffix == ".jsonl":
                for part in parts:
                    for row in zip(*part.values(), strict=True):
                        line = dict(zip(names, row, strict=True))
                        file.write(json.dumps(line, ensure_ascii=False, default=_iso) + "\n")
                return
            writer = csv.writer(file, delimiter=TEXT_FILES[self.suffix], lineterminator="\n")
            writer.writerow(names)
            for part in parts:
                writer.writerows(zip(*part.values(), strict=True))

    def _write_parquet(self, arrow: Any, parquet: Any, path: Path, parts: Iterator[dict[str, list[object]]]) -> None:
        """Every part is converted by the types of the first: a column whose cells are empty there has those of its other cells."""
        types = self._arrow_types(arrow)
        with parquet.ParquetWriter(path, types) as writer:
            for part in parts:
                writer.write_table(arrow.table(part, schema=types))

    def _arrow_types(self, arrow: Any) -> Any:
        """The types of the columns, by a row of theirs: one of each value for categories, any number for numbers."""
        fields = []
        for column in self.columns:
            some: list[object] = column.filled(1, False)
            if column.generated:
                some = column.written(np.arange(float(max(1, len(column.values)))), False)
            kind = arrow.array(some).type
            fields.append(arrow.field(column.name, arrow.string() if arrow.types.is_null(kind) else kind))
        return arrow.schema(fields)


def _parts(rows: int) -> list[slice]:
    return [slice(start, start + ROWS_AT_ONCE) for start in range(0, rows, ROWS_AT_ONCE)]


def _named(content: Mapping[str, Sequence[object]]) -> str:
    return f"it has {', '.join(content)}."


def _iso(cell: object) -> str:
    """Dates, which JSON has not, as ISO 8601."""
    assert isinstance(cell, date)
    return cell.isoformat()
