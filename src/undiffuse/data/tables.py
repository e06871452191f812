"""Tables beside the examples: CSV, TSV or JSON lines, one row for each, and the columns that conditions are made of.

A column is an array of N rows: text as it stands in the file, numbers, vectors (N, d) or pictures (N, C, *size).  What
a row lacks is an empty text or NaN.  Columns are looked up by name, or are .npy files named instead.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from undiffuse.data.arrays import arranged, load
from undiffuse.data.dataset import Dataset
from undiffuse.data.images import read_images, stacked
from undiffuse.errors import UsageError

SUFFIXES = (".csv", ".tsv", ".jsonl")
FILE_COLUMNS = ("file", "file_name", "filename", "image", "path")
FIELD_LIMIT = 2**24  # characters of one cell


def read_table(path: Path) -> dict[str, list[object]]:
    """The columns of a table, in the order of the file. Raises UsageError for a file that cannot be read as one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else _rows(text, path)
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise UsageError(f"the table {path} cannot be read: {error}.") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"the table {path} holds no rows: it should have a head line with the names of its columns, then a line for each example.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _rows(text: str, path: Path) -> list[dict[str, object]]:
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    names = reader.fieldnames or []
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"it has two columns called {twice!r}")
    rows: list[dict[str, object]] = []
    for row in reader:
        if None in row or any(value is None for value in row.values()):
            raise UsageError(f"line {reader.line_num} has another number of cells than the head line")
        rows.append(dict(row))
    return rows


def as_column(values: Sequence[object]) -> np.ndarray:
    """Values of a table as an array: equally long lists of numbers (N, d), numbers (N,), anything else as text (N,)."""
    vectors = [value for value in values if value is not None]
    if vectors and all(isinstance(value, list) and value and all(isinstance(v, int | float) for v in value) for value in vectors):
        lengths = {len(value) for value in vectors}  # type: ignore[arg-type]
        if len(lengths) == 1:
            return np.array([[np.nan] * max(lengths) if value is None else value for value in values], dtype=np.float64)
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return np.array([_text(value) for value in values], dtype=str)


def _text(value: object) -> str:
    if value is None:
        return ""
    return ";".join(str(v) for v in value) if isinstance(value, list) else str(value)


def image_table(path: Path, size: tuple[int, int] | None, fit: str, channels: str | None) -> Dataset:
    """The images a table names, in its order, with its other columns.

    Raises UsageError where no column names files, or as `images.read_images` does.
    """
    content = read_table(path)
    column = next((name for name in FILE_COLUMNS if name in content), None)
    if column is None:
        raise UsageError(
            f"{path} has the columns {', '.join(content)}, and none of them names image files: call that one {FILE_COLUMNS[0]!r}."
        )
    files = [path.parent / _text(name) for name in content[column]]
    images, kept, note = read_images(path.parent, files, size, fit, channels)
    columns = {name: as_column(values)[kept] for name, values in content.items()}
    return Dataset(path.stem, stacked(images), mode=images[0].mode, columns=columns, root=path.parent, notes=note)


def with_table(data: Dataset, path: Path, files: Sequence[str] | None) -> Dataset:
    """A data set with the columns of a table: rows found by file name where the examples are files, else by order.

    files: of the examples, relative to the folder of images.
    """
    content = read_table(path)
    count = len(next(iter(content.values())))
    column = next((name for name in FILE_COLUMNS if name in content), None)
    if files is not None and column is not None:
        rows = {_text(name): row for row, name in enumerate(content[column])}
        missing = [name for name in files if name not in rows]
        if missing:
            raise UsageError(f"the table {path} says nothing of {len(missing)} of {len(files)} images, such as {missing[0]}: add their lines.")
        order = [rows[name] for name in files]
    elif count != len(data):
        raise UsageError(f"the table {path} has {count} rows for {len(data)} examples: there should be one each.")
    else:
        order = list(range(count))
    columns = {name: as_column(values)[order] for name, values in content.items()}
    return replace(data, columns={**data.columns, **columns}, root=path.parent)


def column(data: Dataset, source: str) -> np.ndarray:
    """The column called `source`, or the .npy file of that name with a row for each example. Raises UsageError."""
    if source in data.columns:
        return data.columns[source]
    if source == "class" and data.labels is not None:
        return np.array(data.classes)[data.labels]
    path = Path(source).expanduser()
    if path.suffix == ".npy":
        if not path.exists():
            raise UsageError(f"there is no file {path} to read a condition from.")
        content = load(path)
        assert isinstance(content, np.ndarray)
        if content.ndim == 0 or len(content) != len(data):
            raise UsageError(f"{path} has the shape {content.shape}, but there are {len(data)} examples: it should have a row for each.")
        return content
    known = [*data.columns, *(["class"] if data.labels is not None else [])]
    has = f"its columns are {', '.join(known)}" if known else "it has none"
    raise UsageError(f"the data has no column {source!r}: {has}; an .npy file with a row for each example works too.")


def fingerprints(data: Dataset, sources: Mapping[str, bool]) -> dict[str, str]:
    """A hash of what conditions are read from and the data's own fingerprint is not of: .npy files, and pictures in files.

    sources: names of columns or .npy files, and whether what stands there are pictures.
    """
    found = {}
    for source, are_pictures in sources.items():
        named = data.columns.get(source)
        if named is None and source.endswith(".npy"):
            found[source] = Dataset(source, column(data, source)).fingerprint()
        elif named is not None and are_pictures and named.dtype.kind == "U":
            digest, root = hashlib.sha256(), data.root or Path()
            for path in (root / name for name in named):
                digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
            found[source] = digest.hexdigest()[:16]
    return found


def pictures(data: Dataset, values: np.ndarray, channels: str | None = None) -> tuple[np.ndarray, str | None]:
    """A column of pictures, (N, C, *size) and Pillow's mode: arrays as they are, or the files that it names."""
    if values.dtype.kind != "U":
        axes = {1: "L", 2: "HW", 3: "DHW"}[len(data.shape) - 1]
        layouts = ["N" + axes, "NC" + axes if values.shape[1:2] < values.shape[-1:] else "N" + axes + "C"]
        fitting = next((layout for layout in layouts if len(layout) == values.ndim), None)
        if fitting is None or values.dtype.kind not in "fiub":
            raise UsageError(f"a column of shape {values.shape} and type {values.dtype} holds no pictures like the examples, of shape {data.shape}.")
        return arranged(values, fitting)[0], None
    root = data.root or Path()
    images, kept, _ = read_images(root, [root / name for name in values], None, "crop", channels)
    if len(kept) != len(values):
        raise UsageError(f"{len(values) - len(kept)} pictures that are conditions cannot be read: mend or remove them.")
    return stacked(images), images[0].mode
