"""Examples in one array: what its axes are, which type it is kept in, and its labels.

Floats are kept as float32 where that changes no value by more
than a small part of the deviation of its channel, else as float64: a million and a tenth, 1e300 and 1e-300 are values too.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from undiffuse.data.dataset import MISSING, Dataset
from undiffuse.data.file_formats import FileFormat
from undiffuse.data.large_arrays import arrays_in, in_type, is_large, known_numbers
from undiffuse.data.statistics import channel_statistics, parts_of
from undiffuse.errors import UsageError

VALUES, LABELS = ("images", "x", "data", "values", "arr_0"), ("labels", "y", "label", "targets", "arr_1")
LAYOUTS = "N, C, D, H, W and L, each once, such as NHWC, NCHW, NHW, NCL, NC"
WIDEST_TABLE = 16  # columns; wider rows are signals unless a layout is set
LOST = 2.0**-12  # of a channel's standard deviation, the most that float32 may change a value
MANY_CLASSES, FEW_EXAMPLES = 50, 10  # labels of more values, of fewer examples each, are likely numbers
MODES = {("uint8", 1): "L", ("uint8", 2): "LA", ("uint8", 3): "RGB", ("uint8", 4): "RGBA", ("uint16", 1): "I;16"}


def arranged(values: np.ndarray, layout: str | None) -> tuple[np.ndarray, str]:
    """The values as (N, C, *size), and the layout that was read.

    Without a layout: 2 axes are N, C where C is small, a table with a column for each channel, and N, L else, signals; 3 are
    grey images; from 4 on the shorter of the second and the last axis is the channels.  The columns of a table have one place
    each, (N, C, 1), so that each has a scale of its own.  Raises UsageError for a layout that does not fit.
    """
    if layout is None:
        if values.ndim not in (2, 3, 4, 5):
            raise UsageError(
                f"an array of shape {values.shape} is no set of examples: it should have 2 to 5 axes, examples first."
            )
        size = {2: "C" if values.shape[1] <= WIDEST_TABLE else "L", 3: "HW", 4: "HW", 5: "DHW"}[values.ndim]
        channels_first = values.ndim > 3 and values.shape[1] < values.shape[-1]
        layout = "N" + size if values.ndim < 4 else ("NC" + size if channels_first else "N" + size + "C")
    if (
        sorted(set(layout)) != sorted(layout)
        or not set(layout) <= set("NCDHWL")
        or "N" not in layout
        or len(layout) != values.ndim
    ):
        raise UsageError(
            f"the layout {layout!r} does not fit an array of shape {values.shape}: name its axes with {LAYOUTS}."
        )
    axes = layout
    for axis, missing in (("C", "C" not in layout), ("L", not set(layout) & set("DHWL"))):
        values, axes = (values[..., None], axes + axis) if missing else (values, axes)
    order = [axes.index(axis) for axis in "NCDHWL" if axis in axes]
    values = values.transpose(order)
    return values if is_large(values.nbytes) else np.ascontiguousarray(values), layout


def native(values: np.ndarray) -> np.ndarray:
    """The same numbers in the byte order of this machine."""
    return in_type(values, values.dtype.newbyteorder("="))


def array_dataset(
    name: str,
    values: np.ndarray,
    labels: np.ndarray | None,
    layout: str | None,
    columns: dict[str, np.ndarray] | None = None,
    parts: bool = False,
) -> Dataset:
    """The data set of examples in one array.   labels: one for each, or None.   layout: see `arranged`.   columns: what else is known, by name.

    parts: whether complex numbers are read, as their real and imaginary parts.

    Raises UsageError for values that are no numbers, an empty array, and labels of another number.
    """
    truths = values.dtype == bool
    if truths:
        values = values.astype(np.uint8)
    stored = values.dtype
    if np.iscomplexobj(values) and not parts:
        raise UsageError(
            f"the values of {name} are complex: set `complex` to read each as two channels, its real and its imaginary part."
        )
    if not (np.issubdtype(stored, np.number)):
        raise UsageError(f"the values of {name} are of type {values.dtype}: they should be integers or floats.")
    if 0 in values.shape:
        raise UsageError(
            f"{name} has the shape {values.shape}, which holds no {'examples' if values.shape[0] == 0 else 'values'}."
        )
    values, read = arranged(values, layout)
    file_format = None
    if np.iscomplexobj(values):
        values = np.stack([values.real, values.imag], 2).reshape(len(values), -1, *values.shape[2:])
        file_format = FileFormat(kind="array", suffix=".npy", dtype=stored.newbyteorder("=").name)
    known = known_numbers(values) if values.dtype.kind == "f" else None
    notes = ["true and false are read as 1 and 0, and samples are uint8, of 1 and 0 too"] if truths else []
    notes += [] if layout else [f"read as {read}; give `layout` if its axes mean something else"]
    if np.issubdtype(values.dtype, np.floating):
        values = _narrowed(values, known)
        if values.dtype == np.float64:
            notes.append(
                "values stay float64, since float32 would change them by more than a small part of their deviation"
            )
        notes += _whole_columns(values) if known is None else []
    classes: tuple[str, ...] = ()
    if labels is not None:
        if labels.shape != (len(values),):
            raise UsageError(
                f"{name} holds {len(values)} examples but labels of shape {labels.shape}: there should be one each."
            )
        labels, classes, noted = class_labels(labels)
        notes += noted
    two_d = values.ndim == 4
    return Dataset(
        name,
        values,
        labels,
        classes,
        mode=MODES.get((values.dtype.name, values.shape[1])) if two_d else None,
        columns=columns or {},
        notes=tuple(notes),
        low=0.0 if truths else None,
        high=1.0 if truths else None,
        file_format=file_format,
        known=known,
    )


def _whole_columns(values: np.ndarray) -> list[str]:
    """A note where some columns of a table (N, C, 1) of floats hold whole numbers alone, and others do not."""
    if values.ndim != 3 or values.shape[2] != 1:
        return []
    whole = [column for column in range(values.shape[1]) if (values[:, column] == np.floor(values[:, column])).all()]
    if not whole or len(whole) == values.shape[1]:
        return []
    listed = ", ".join(str(column) for column in whole[:8]) + (", …" if len(whole) > 8 else "")
    return [
        f"columns {listed} (counted from 0) hold whole numbers alone: beside others they are floats, so samples of them lie in between; round "
        "these, or leave the columns out and declare them as conditions"
    ]


def _narrowed(values: np.ndarray, known: np.ndarray | None) -> np.ndarray:
    """Floats (N, C, *size) as float32, or float64 where too much would be lost, see the top of this file.   known: those that are not NaN."""
    if values.dtype.itemsize <= 4:
        return in_type(values, np.float32)
    wide, axes = in_type(values, np.float64), (0, *range(2, values.ndim))
    with np.errstate(all="ignore"):
        _, deviation, low, high = channel_statistics(wide, known=known)
        narrow = in_type(wide, np.float32)
        lost = np.max(
            [np.fmax.reduce(np.abs(narrow[part] - wide[part]), axes) for part in parts_of(wide)], 0
        )  # inf where float32 has no such number
        much = lost > LOST * deviation
    return (
        wide if (much & np.isfinite(low) & np.isfinite(high)).any() else narrow
    )  # fitting the codec reports what is no number


def class_labels(labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """(int64 (N,), -1 where there is none; the names; notes) of one label for each example."""
    if labels.dtype.kind == "U":
        missing = np.isin(np.char.strip(labels), MISSING)
    else:
        missing = np.isnan(labels) if labels.dtype.kind == "f" else np.zeros(len(labels), dtype=bool)
    present, notes = labels[~missing], []
    if labels.dtype.kind == "f" and (present == present.round()).all():
        present = present.astype(np.int64)
    unique, index = np.unique(present, return_inverse=True)
    found = np.full(len(labels), -1)
    found[~missing] = index
    if missing.any():
        such = "NaN" if labels.dtype.kind == "f" else f"empty or {', '.join(MISSING[1:])}"
        notes.append(f"{missing.sum()} of {len(labels)} labels are {such}: these examples have no class")
    numbers = labels.dtype.kind in "iuf"
    if numbers and (
        present.dtype.kind == "f" or (len(unique) > MANY_CLASSES and len(present) < FEW_EXAMPLES * len(unique))
    ):
        each = len(present) / len(unique)
        notes.append(
            f"the labels are {len(unique)} classes of about {each:.0f} examples; if they are numbers, declare the number class"
        )
    return found, tuple(str(value) for value in unique), notes


def load_arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """What is in an .npy or .npz file, never unpickled; every failure as one sentence."""
    try:
        return arrays_in(path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "pickle" in str(error).lower():
            raise UsageError(
                f"{path} holds pickled objects, which are never loaded: save plain arrays of numbers."
            ) from None
        raise UsageError(f"{path} cannot be read as a NumPy file: {error}.") from None


def load_one(path: Path) -> np.ndarray:
    """The one array in a file of NumPy. Raises UsageError where it holds several."""
    content = load_arrays(path)
    if isinstance(content, np.ndarray):
        return content
    if len(content) != 1:
        raise UsageError(f"{path} holds the arrays {', '.join(content)}, and one is needed: save that as an .npy file.")
    return next(iter(content.values()))
