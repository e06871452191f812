"""A table whose rows are the examples themselves: numbers, categories, truth values and dates, see data/table_schema.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.file_formats import FileFormat
from undiffuse.data.table_cells import cell_as_text, number_of
from undiffuse.data.table_schema import TableSchema
from undiffuse.data.tables import as_column
from undiffuse.errors import UsageError

INFINITE = ("inf", "infinity")


def row_table(name: str, content: Mapping[str, Sequence[object]], suffix: str, config: DataConfig) -> Dataset:
    """The rows of a table as examples (N, columns, 1), in the form in which their relations hold.

    content: its columns.   suffix: of the file, or .csv of a frame.

    Every column is also one that conditions may be made of. Raises UsageError as `TableSchema.infer` does.
    """
    _refuse_infinite_cells(content)
    schema = TableSchema.infer(content, suffix, config.columns, config.relations)
    kinds: dict[str, list[str]] = {}
    for column in schema.columns:
        kinds.setdefault(column.kind, []).append(column.name)
    listed = "; ".join(
        f"{kind} {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" for kind, names in kinds.items()
    )
    notes = [f"the rows are the examples, by columns: {listed}; `columns` says otherwise"]
    left_out = [each for each in schema.columns if each.kind in ("text", "identifier")]
    if left_out:
        notes.append(
            f"left out of the rows that are made: {', '.join(f'{each.name} ({each.why})' for each in left_out)}"
        )
    return Dataset(
        name,
        schema.related.to_free(schema.values(content))[:, :, None],
        columns={each: as_column(cells) for each, cells in content.items()},
        file_format=FileFormat(kind="table", suffix=suffix, dtype="float64", table=schema),
        notes=tuple(notes),
    )


def _refuse_infinite_cells(content: Mapping[str, Sequence[object]]) -> None:
    """Raises UsageError for an infinite number among numbers; among words, inf is one."""
    for name, cells in content.items():
        texts = [cell_as_text(cell) for cell in cells]
        row = next((row for row, text in enumerate(texts) if text.strip().lower().lstrip("+-") in INFINITE), None)
        others = (
            [] if row is None else [text for text in dict.fromkeys(texts) if number_of(text, "," in text) is not None]
        )
        if others:
            raise UsageError(
                f"the column {name!r} holds an infinite number in row {(row or 0) + 1}: leave the cell empty, or correct it."
            )


def without_columns(data: Dataset, names: Sequence[str]) -> Dataset:
    """A table without some of its columns, which are conditions: they are not generated. Raises UsageError where nothing would be left."""
    table, file_format = data.table, data.file_format
    if table is None or file_format is None:
        return data
    kept = [k for k, (name, _) in enumerate(table.free) if name not in names]
    if len(kept) == len(table.free):
        return data
    if not kept:
        raise UsageError("every column of the table is a condition, so no column is left to generate: declare fewer.")
    columns = tuple(
        each.model_copy(update={"kind": "condition"}) if each.generated and each.name in names else each
        for each in table.columns
    )
    schema = table.changed(columns=columns)
    return replace(
        data,
        values=np.ascontiguousarray(data.values[:, kept]),
        file_format=file_format.model_copy(update={"table": schema}),
    )
