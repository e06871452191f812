"""Tables beside the examples, one row for each, and the columns that conditions are made of.

A column is an array of N rows: text as it stands in the file, numbers, vectors (N, d) or pictures (N, C, *size).  What
a row lacks is an empty text or NaN.  Columns are looked up by name, or are .npy files named instead, or the captions that
lie beside pictures.

Where the examples are files, the rows of a table are found by the column whose cells name these files, see table_rows.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from undiffuse.data.arrays import arranged, load_one
from undiffuse.data.dataset import Dataset
from undiffuse.data.images import first_few, read_images
from undiffuse.data.pixels import ImageOptions
from undiffuse.data.table_files import TABLE_SUFFIXES as TABLE_SUFFIXES
from undiffuse.data.table_files import decode_text, read_table
from undiffuse.data.table_rows import FILE_COLUMNS, cell_text, rows_by_name
from undiffuse.errors import UsageError

CAPTIONS = "caption"  # the column of the .txt files beside pictures
MOST_FIXED = 2**26  # bytes of a text column as an array of fixed width; a longer one is an array of objects


def as_column(values: Sequence[object]) -> np.ndarray:
    """Values of a table as an array: equally long lists of numbers (N, d), numbers (N,), anything else as text (N,)."""
    vectors = [value for value in values if value is not None]
    if vectors and all(
        isinstance(value, list) and value and all(isinstance(v, int | float) for v in value) for value in vectors
    ):
        lengths = {len(value) for value in vectors}  # type: ignore[arg-type]
        if len(lengths) == 1:
            return np.array([[np.nan] * max(lengths) if value is None else value for value in values], dtype=np.float64)
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    return text_column([cell_text(value) for value in values])


def text_column(texts: Sequence[str]) -> np.ndarray:
    """Texts as an array (N,).

    One of fixed width gives every row the room of the longest: a cell of 100,000 characters among 1,000 rows would take 400 MB.
    """
    width = max((len(text) for text in texts), default=0)
    return np.array(texts, dtype=str if 4 * width * len(texts) <= MOST_FIXED else object)


def is_text(column: np.ndarray) -> bool:
    """Whether a column holds texts."""
    return column.dtype.kind in "UO"


def with_table(data: Dataset, path: Path, files: Sequence[str] | None) -> Dataset:
    """A data set with the columns of a table: rows found by file name where the examples are files, else by order.

    files: of the examples, relative to the folder that they are in, `data.root`.
    """
    content = read_table(path)
    count = len(next(iter(content.values())))
    if files is not None:
        order, notes = rows_by_name(content, path, files, data.root or Path())
    elif count != len(data):
        raise UsageError(f"the table {path} has {count} rows for {len(data)} examples: there should be one each.")
    else:
        order, notes = (
            list(range(count)),
            [f"the {count:,} rows of {path.name} are taken for the examples in their order"],
        )
    columns = {name: as_column(values)[order] for name, values in content.items()}
    if files is not None and "file" in columns and columns["file"].tolist() != list(files):
        del columns["file"]  # it names the images in another way than the data itself
    known = {*data.columns, *(["class"] if data.labels is not None else [])} - {*FILE_COLUMNS}
    notes += [
        f"the column {name!r} is that of {path.name}, in place of the data's own" for name in columns if name in known
    ]
    return replace(data, columns={**data.columns, **columns}, root=path.parent, notes=(*data.notes, *notes))


def captions_beside(data: Dataset) -> np.ndarray | None:
    """The texts of the .txt files beside the pictures of a folder, (N,), "" where there is none; None without any."""
    if data.folder is None:
        return None
    paths = [(data.folder / name).with_suffix(".txt") for name in data.columns["file"]]
    if not any(path.is_file() for path in paths):
        return None
    try:
        return text_column([decode_text(path).strip() if path.is_file() else "" for path in paths])
    except (OSError, ValueError) as error:
        raise UsageError(f"the captions in {data.folder} cannot be read: {error}.") from None


def captions_note(data: Dataset, without: Sequence[int]) -> str:
    """What was read of captions beside pictures.   without: the examples that have none."""
    note = f"{len(data) - len(without):,} captions read from .txt files beside the pictures"
    files = first_few(data.columns["file"][row] for row in without)
    return (
        f"{note}; {len(without):,} {'picture has' if len(without) == 1 else 'pictures have'} none ({files})"
        if without
        else note
    )


def offers(data: Dataset) -> list[tuple[str, str]]:
    """Captions and tables that lie in a folder of images and are read only on demand: (what, a note with the option that reads it)."""
    if data.folder is None:
        return []
    notes, paths = [], [(data.folder / name).with_suffix(".txt") for name in data.columns["file"]]
    if CAPTIONS not in data.columns and (count := sum(path.is_file() for path in paths)):
        note = f"{count:,} of the {len(data):,} images have a caption in a .txt file beside them: declare the text {CAPTIONS} to make it a condition"
        notes.append((CAPTIONS, note))
    if data.columns.keys() == {"file"}:
        found = sorted(
            path
            for path in data.folder.iterdir()
            if path.suffix.lower() in TABLE_SUFFIXES and not path.name.startswith(".")
        )
        notes += [(path.name, f"the folder holds {path.name}: `table` {path} reads its columns") for path in found]
    return notes


def column(data: Dataset, source: str) -> np.ndarray:
    """The column called `source`, the .npy file of that name with a row for each example, or the captions beside pictures. Raises UsageError."""
    if source in data.columns:
        return data.columns[source]
    if source == "class" and data.labels is not None:
        names: np.ndarray = np.array([*data.classes, ""], dtype=object)[data.labels]  # -1 where there is none
        return names
    path = Path(source).expanduser()
    if path.suffix.lower() == ".npy":
        if not path.exists():
            raise UsageError(f"there is no file {path} to read a condition from.")
        content = load_one(path)
        if content.ndim == 0 or len(content) != len(data):
            raise UsageError(
                f"{path} has the shape {content.shape}, but there are {len(data)} examples: it should have a row for each."
            )
        return content
    captions = captions_beside(data)
    if source == CAPTIONS and captions is not None:
        return captions
    known = [
        *data.columns,
        *(["class"] if data.labels is not None else []),
        *([CAPTIONS] if captions is not None else []),
    ]
    has = f"its columns are {', '.join(known)}" if known else "it has none"
    also = "".join(f"; {note}" for _, note in offers(data))
    raise UsageError(
        f"the data has no column {source!r}: {has}{also}; an .npy file with a row for each example works too."
    )


def refuse_missing(data: Dataset, sources: Mapping[str, tuple[str, str]]) -> None:
    """Raises UsageError for a condition whose column is not there.   sources: the kind and the column of each condition."""
    for name, (kind, source) in sources.items():
        if source not in data.columns:
            try:
                column(data, source)
            except UsageError as error:
                raise UsageError(f"{kind} {name!r}: {error}") from None


def fingerprints(data: Dataset, sources: Mapping[str, bool]) -> dict[str, str]:
    """A hash of what conditions are read from and the data's own fingerprint is not of: .npy files, captions, and pictures in files.

    sources: names of columns or .npy files, and whether what stands there are pictures.
    """
    found = {}
    for source, are_pictures in sources.items():
        named = data.columns.get(source)
        if named is None and (
            source.lower().endswith(".npy") or (source == CAPTIONS and captions_beside(data) is not None)
        ):
            content = column(data, source)
            alone = (
                Dataset(source, content)
                if not is_text(content)
                else Dataset(source, np.zeros(0), columns={source: content})
            )
            found[source] = alone.fingerprint()
        elif named is not None and are_pictures and is_text(named):
            digest, root = hashlib.sha256(), data.root or Path()
            for path in (root / name for name in named):
                digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
            found[source] = digest.hexdigest()[:16]
    return found


def pictures(
    data: Dataset, values: np.ndarray, channels: str | None = None
) -> tuple[np.ndarray, str | None, tuple[str, ...]]:
    """A column of pictures, (N, C, *size), their kind of pixel and notes: arrays as they are, or the files that it names."""
    if not is_text(values):
        axes = {1: "L", 2: "HW", 3: "DHW"}[len(data.shape) - 1]
        layouts = ["N" + axes, "NC" + axes if values.shape[1:2] < values.shape[-1:] else "N" + axes + "C"]
        fitting = next((layout for layout in layouts if len(layout) == values.ndim), None)
        if fitting is None or values.dtype.kind not in "fiub":
            raise UsageError(
                f"a column of shape {values.shape} and type {values.dtype} holds no pictures like the examples, of shape {data.shape}."
            )
        return arranged(values, fitting)[0], None, ()
    root = data.root or Path()
    images = read_images(root, [root / name for name in values], values.tolist(), ImageOptions(channels))
    if len(images.kept) != len(values):
        raise UsageError(
            f"{len(values) - len(images.kept)} pictures that are conditions cannot be read: fix or remove them."
        )
    return images.values, images.mode, images.notes
