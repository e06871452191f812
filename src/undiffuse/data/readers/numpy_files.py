"""Files of NumPy, .npy and .npz, and folders of .npy files.  Never unpickled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.data.arrays import LABELS, VALUES, array_dataset, load_arrays, load_one, native
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.file_formats import FileFormat
from undiffuse.data.readers.folders import classes_of, find, stacked
from undiffuse.data.sequences import layout_of_sequences, stacked_sequences, unequal_axis, with_ends
from undiffuse.errors import UsageError

ARRAY_FILES = (".npy",)


def numpy_file(path: Path, config: DataConfig) -> Dataset:
    """One array, or several: values under one of VALUES, labels, if any, under one of LABELS, others of as many rows are columns."""
    content = load_arrays(path)
    if isinstance(content, np.ndarray):
        return array_dataset(path.stem, content, None, config.layout, parts=config.complex)
    if config.variable is not None and config.variable not in content:
        raise UsageError(f"{path} has no array {config.variable!r}: it holds {', '.join(content)}.")
    key = (
        config.variable
        or next((key for key in VALUES if key in content), None)
        or (next(iter(content)) if len(content) == 1 else None)
    )
    if key is None:
        raise UsageError(
            f"{path} holds the arrays {', '.join(content)}: say by `variable` which of them are the examples, or name it {VALUES[0]!r}."
        )
    label = next((name for name in LABELS if name in content), None)
    values = content[key]
    columns = {
        name: column
        for name, column in content.items()
        if name not in (key, label) and column.shape[:1] == values.shape[:1] and column.ndim
    }
    return array_dataset(path.stem, values, content[label] if label else None, config.layout, columns, config.complex)


def numpy_folder(root: Path, config: DataConfig) -> Dataset:
    """Every .npy file below a folder is an example; sub-folders are classes.  Sequences may be of unequal length (data/sequences.py).

    Raises UsageError where other shapes, or types, differ.
    """
    found = find(root, ARRAY_FILES, "array")
    labels, notes = classes_of(root, found.names)
    heads = [_head(path) for path in found.files]
    shapes, arrays = [shape for shape, _ in heads], (native(load_one(path)) for path in found.files)
    axis = unequal_axis(shapes) if len({dtype for _, dtype in heads}) == 1 else None
    layout = config.layout if axis is None else layout_of_sequences(len(shapes[0]), axis, config.layout)
    if axis is None:
        values = stacked(root, found.names, arrays)
    else:
        values = stacked_sequences(arrays, shapes, axis, heads[0][1].newbyteorder("="))
    columns, classes = {"file": np.array(found.names)}, None if labels is None else np.array(labels)
    data = array_dataset(root.resolve().name, values, classes, layout, columns, config.complex)
    if axis is not None:
        kept = data.file_format or FileFormat(kind="npy", suffix=".npy", dtype=data.values.dtype.name)
        data = replace(with_ends(data, np.array([shape[axis] for shape in shapes])), file_format=kept)
    return replace(data, root=root, notes=(*data.notes, *found.notes(), *notes))


def _head(path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """(shape, type) of the array in a file, of which no more is read."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError):
        array = load_one(path)  # which says what is wrong
    return tuple(array.shape), array.dtype
