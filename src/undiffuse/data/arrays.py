"""Arrays: .npy and .npz of NumPy, idx of MNIST.  Never unpickled."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np

from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError

VALUES, LABELS = ("images", "x", "data", "values", "arr_0"), ("labels", "y", "label", "targets", "arr_1")
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
LAYOUTS = "N, C, D, H, W and L, each once, such as NHWC, NCHW, NHW, NCL, NC"
WIDEST_TABLE = 16  # columns; wider rows are signals where nothing else is said
MODES = {("uint8", 1): "L", ("uint8", 2): "LA", ("uint8", 3): "RGB", ("uint8", 4): "RGBA", ("uint16", 1): "I;16"}


def arranged(values: np.ndarray, layout: str | None) -> tuple[np.ndarray, str]:
    """The values as (N, C, *size), and the layout that was read.

    Without a layout: 2 axes are N, C where C is small, a table with a column for each channel, and N, L else, signals; 3 are
    grey images; from 4 on the shorter of the second and the last axis is the channels.  The columns of a table have one place
    each, (N, C, 1), so that each has a scale of its own.  Raises UsageError for a layout that does not fit.
    """
    if layout is None:
        if values.ndim not in (2, 3, 4, 5):
            raise UsageError(f"an array of shape {values.shape} is no set of examples: it should have 2 to 5 axes, examples first.")
        size = {2: "C" if values.shape[1] <= WIDEST_TABLE else "L", 3: "HW", 4: "HW", 5: "DHW"}[values.ndim]
        channels_first = values.ndim > 3 and values.shape[1] < values.shape[-1]
        layout = "N" + size if values.ndim < 4 else ("NC" + size if channels_first else "N" + size + "C")
    if sorted(set(layout)) != sorted(layout) or not set(layout) <= set("NCDHWL") or "N" not in layout or len(layout) != values.ndim:
        raise UsageError(f"the layout {layout!r} does not fit an array of shape {values.shape}: name its axes with {LAYOUTS}.")
    axes = layout
    for axis, missing in (("C", "C" not in layout), ("L", not set(layout) & set("DHWL"))):
        values, axes = (values[..., None], axes + axis) if missing else (values, axes)
    order = [axes.index(axis) for axis in "NCDHWL" if axis in axes]
    return np.ascontiguousarray(values.transpose(order)), layout


def _dataset(
    name: str, values: np.ndarray, labels: np.ndarray | None, layout: str | None, columns: dict[str, np.ndarray] | None = None
) -> Dataset:
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise UsageError(f"the values of {name} are of type {values.dtype}: they should be integers or floats.")
    if np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float32)
    values, read = arranged(values, layout)
    if len(values) == 0:
        raise UsageError(f"{name} holds no examples.")
    classes: tuple[str, ...] = ()
    if labels is not None:
        if labels.shape != (len(values),):
            raise UsageError(f"{name} holds {len(values)} examples but labels of shape {labels.shape}: there should be one each.")
        unique, labels = np.unique(labels, return_inverse=True)
        classes = tuple(str(value) for value in unique)
    two_d = values.ndim == 4
    return Dataset(
        name, values, labels, classes,
        mode=MODES.get((values.dtype.name, values.shape[1])) if two_d else None, columns=columns or {},
        notes=() if layout else (f"read as {read}; say --layout if its axes mean something else",),
    )  # fmt: skip


def load(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """np.load without pickle; every failure as one sentence."""
    try:
        content = np.load(path, allow_pickle=False)
        return content if isinstance(content, np.ndarray) else {key: content[key] for key in content.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if "pickle" in str(error).lower():
            raise UsageError(f"{path} holds pickled objects, which are never loaded: save plain arrays of numbers.") from None
        raise UsageError(f"{path} cannot be read as a NumPy file: {error}.") from None


def npy(path: Path, layout: str | None = None) -> Dataset:
    content = load(path)
    assert isinstance(content, np.ndarray)
    return _dataset(path.stem, content, None, layout)


def npz(path: Path, layout: str | None = None) -> Dataset:
    """Values under one of VALUES, labels, if any, under one of LABELS; other arrays of as many rows are columns."""
    content = load(path)
    assert isinstance(content, dict)
    key = next((key for key in VALUES if key in content), None) or (next(iter(content)) if len(content) == 1 else None)
    if key is None:
        raise UsageError(f"{path} holds the arrays {', '.join(content)}: name the one with the examples {VALUES[0]!r}.")
    label = next((name for name in LABELS if name in content), None)
    columns = {
        name: column for name, column in content.items() if name not in (key, label) and column.ndim and len(column) == len(content[key])
    }
    return _dataset(path.stem, content[key], content[label] if label else None, layout, columns)


def _idx_array(path: Path) -> np.ndarray:
    """The array in an idx file: two zero bytes, the type, the number of axes, their lengths, the values (LeCun)."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            content = file.read()
        zero, kind, axes = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
        if zero or kind not in IDX_TYPES:
            raise UsageError("it does not start as idx files do")
        values = np.frombuffer(content, IDX_TYPES[kind], offset=4 + 4 * axes)
        return values.reshape(shape).astype(values.dtype.newbyteorder("="))
    except (ValueError, OSError, EOFError, struct.error) as error:
        raise UsageError(f"{path} cannot be read as an idx file: {error}.") from None


def idx(path: Path, layout: str | None = None) -> Dataset:
    """idx of MNIST, gzipped or not; labels from the file beside it with `labels-idx1` for `images-idx3` in its name."""
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1"))
    labels = _idx_array(beside) if beside != path and beside.exists() else None
    return _dataset(path.name.split("-images")[0].split(".")[0], _idx_array(path), labels, layout)
