"""A table that names images: every row is an example, its other columns are known of it.  One that names none is data itself."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from undiffuse.data.arrays import LABELS, class_labels
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.images import read_images
from undiffuse.data.pixels import IMAGE_SUFFIXES, ImageOptions
from undiffuse.data.readers.row_table import row_table
from undiffuse.data.table_files import read_table
from undiffuse.data.table_rows import FILE_COLUMNS, cell_text
from undiffuse.data.tables import as_column
from undiffuse.errors import UsageError

MOST_LOOKED_AT = 100  # cells, to see whether a column names files


def image_table(path: Path, config: DataConfig) -> Dataset:
    """The images a table names, in its order, with its other columns; its rows, where no column names files.

    Raises UsageError as `row_table`, or as `images.read_images` does.
    """
    content = read_table(path)
    stored = next((name for name, values in content.items() if isinstance(_bytes(values[0]), bytes)), None)
    if stored is not None:
        return _of_bytes(path, content, stored, config)
    cells = {name: [cell_text(value) for value in values] for name, values in content.items()}
    column = next((name for name in FILE_COLUMNS if name in content), None)
    notes: list[str] = []
    if column is None:
        naming = [name for name, texts in cells.items() if _names_files(texts, path.parent)]
        if len(naming) > 1:
            raise UsageError(
                f"in {path} each of the columns {', '.join(naming)} names files: call the one with the examples {FILE_COLUMNS[0]!r}."
            )
        if not naming:
            called = next((name for name, texts in cells.items() if _are_called_as_images(texts)), None)
            if called is not None:
                raise UsageError(
                    f"the column {called!r} of {path} names images, such as {cells[called][0]}, and they are not there: names start from "
                    f"{path.parent}."
                )
            if config.size or config.channels:
                raise UsageError(
                    f"{path} has the columns {', '.join(content)}, and none of them names image files: call that one {FILE_COLUMNS[0]!r}."
                )
            return row_table(path.stem, content, path.suffix.lower(), config)
        column = naming[0]
        notes.append(f"the images are those that the column {column!r} names")
    twice = [name for name, count in Counter(cells[column]).items() if count > 1]
    if twice:
        notes.append(
            f"{len(twice)} images are named by several rows each, such as {twice[0]}: every row is an example of its own"
        )
    files = [path.parent / name for name in cells[column]]
    names = cells[column]
    images = read_images(path.parent, files, names, ImageOptions.of(config))
    columns = {name: as_column(values)[images.kept] for name, values in content.items()}
    return Dataset(
        path.stem,
        images.values,
        mode=images.mode,
        columns=columns,
        root=path.parent,
        notes=(*notes, *images.notes),
        file_format=images.file_format,
    )


def _bytes(cell: object) -> object:
    """The bytes of a picture in a cell: as they are, or as Hugging Face has them, {"bytes": …, "path": …}; None for anything else."""
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    return found if isinstance(found, bytes) else None


@dataclass(frozen=True)
class _Cell:
    """A picture in a cell."""

    content: bytes

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    def open(self, mode: Literal["rb"], /) -> IO[bytes]:
        return io.BytesIO(self.content)


def _of_bytes(path: Path, content: dict[str, list[object]], column: str, config: DataConfig) -> Dataset:
    """The pictures whose bytes lie in a column. A label called as labels are is their class."""
    cells = [_Cell(bytes(found) if isinstance(found := _bytes(cell), bytes) else b"") for cell in content[column]]
    names = [f"row {row + 1}" for row in range(len(cells))]
    images = read_images(path.parent, cells, names, ImageOptions.of(config))
    columns = {name: as_column(values)[images.kept] for name, values in content.items() if name != column}
    label = next((name for name in LABELS if name in columns and columns[name].ndim == 1), None)
    labels, classes, notes = (None, (), []) if label is None else class_labels(columns.pop(label))
    notes = [f"the images are the bytes in the column {column!r}", *notes, *images.notes]
    return Dataset(
        path.stem,
        images.values,
        labels,
        classes,
        mode=images.mode,
        file_format=images.file_format,
        columns=columns,
        root=path.parent,
        notes=tuple(notes),
    )


def _are_called_as_images(cells: Sequence[str]) -> bool:
    """Whether most of the first different cells end as the names of images do."""
    few = list(dict.fromkeys(cells))[:MOST_LOOKED_AT]
    return sum(text.lower().endswith(tuple(IMAGE_SUFFIXES)) for text in few) > len(few) / 2


def _names_files(cells: Sequence[str], folder: Path) -> bool:
    """Whether most of the first different cells are files."""
    few = list(dict.fromkeys(cells))[:MOST_LOOKED_AT]
    return sum(bool(text) and (folder / text).is_file() for text in few) > len(few) / 2
