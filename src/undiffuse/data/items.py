"""A data set of items, such as a torch Dataset, a Hugging Face data set, a list of tensors, an array or a frame: read once, into memory.

Of a frame of pandas or polars, the rows are the examples (readers/row_table.py), unless a column holds arrays or images.

An item is an example, or holds one with what is known of it:

    example                         a tensor (C, *size), (H, W) or (numbers,); an array, also (H, W, C); an image of Pillow
    (example, label, …)             a tuple or a list
    {"image": …, "label": …, …}     a dict: the example under one of EXAMPLES or the only entry that is one, all else are columns

A label that is a whole number or a text is the class of its example.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from undiffuse.data.arrays import LABELS, arranged, array_dataset
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.holes import with_known
from undiffuse.data.readers.row_table import row_table
from undiffuse.data.sequences import layout_of_sequences, lengthened, unequal_axis, with_ends
from undiffuse.data.tables import as_column
from undiffuse.errors import UsageError

EXAMPLES = ("image", "img", "images", "pixel_values", "x", "data", "values", "input")
CLASSES = ("class", "fine_label", *LABELS)
SIZES = {2: "HW", 3: "HW", 4: "DHW"}
PLAIN_MODES = ("L", "LA", "RGB", "RGBA", "I;16")


def as_dataset(
    items: Any,
    name: str = "items",
    *,
    names: Sequence[str] | None = None,
    layout: str | None = None,
    parts: bool = False,
    config: DataConfig | None = None,
) -> Dataset:
    """The data set of items that have a length and are read by their number.

    names: of the classes, where labels are their numbers; those that the items know themselves (`features`, `classes`) when None.
    layout: the axes of all items in one array, such as "NHWC", where they mean something else than above.   parts: see `array_dataset`.
    config: what it says of columns and relations of a frame.
    Raises UsageError, naming the item, for items that are empty, no examples, or not all alike, and numbers that are not finite.
    """
    if isinstance(items, Dataset):
        return items
    if isinstance(items, np.ndarray | Tensor):
        whole = _plain(items, "the data") if isinstance(items, Tensor) else items
        if isinstance(whole, np.ma.MaskedArray) and np.ma.is_masked(whole):
            masked = ~np.ma.getmaskarray(whole)
            data = as_dataset(np.asarray(whole.data), name, names=names, layout=layout, parts=parts)
            return with_known(data, arranged(masked, layout)[0])
        whole = np.asarray(whole)
        if whole.ndim and whole.dtype != object:
            _refuse_infinite(whole)
            first = isinstance(items, Tensor) and whole.ndim - 1 in SIZES and whole.ndim > 3 and layout is None
            return array_dataset(name, whole, None, "NC" + SIZES[whole.ndim - 1] if first else layout, parts=parts)
    frame = _frame(items)
    if frame is not None and not _holds_examples(frame):
        return row_table(name, frame, ".csv", config or DataConfig(source=name))
    if frame is not None:
        items = [dict(zip(frame, row, strict=True)) for row in zip(*frame.values(), strict=True)]
    values, columns, channels_first, ends = _read(items)
    label = next((column for column in CLASSES if column in columns), None)
    labels = None if label is None else _labels(columns[label], _names(items, label) if names is None else names)
    if channels_first and layout is None and values.ndim > 3:
        layout = "NC" + SIZES[values.ndim - 1]
    kept = {key: _column(key, column) for key, column in columns.items() if labels is None or key != "class"}
    if ends is None:
        return array_dataset(name, values, labels, layout, kept, parts)
    layout = layout_of_sequences(values.ndim - 1, ends.axis, layout)
    return with_ends(array_dataset(name, values, labels, layout, kept, parts), np.array(ends.lengths))


@dataclass
class _Ends:
    """Of sequences of unequal length.   axis: that they differ in.   lengths: of each along it."""

    axis: int
    lengths: list[int]


def _read(items: Any) -> tuple[np.ndarray, dict[str, list[Any]], bool, _Ends | None]:
    """(the examples in one array, the columns, whether examples have their channels first, the ends of sequences of unequal length)."""
    if isinstance(items, str | bytes | Path):
        raise UsageError(
            f"{str(items)[:80]!r} is a text and no data set: to train on files, call undiffuse.train with it, or open them yourself."
        )
    try:
        n = len(items)
        read = items.__getitem__
    except (TypeError, AttributeError):
        raise UsageError(
            f"a data set has a length and is read by the number of an item, and a {type(items).__name__} is not: give one with __len__ and "
            "__getitem__, or a list of its items."
        ) from None
    if n == 0:
        raise UsageError("the data set holds no items: give one with examples.")
    columns: dict[str, list[Any]] = {}
    values, channels_first, ends = np.empty(0), False, None
    for k in range(n):
        try:
            item = read(k)
        except Exception as error:
            error.add_note(f"while item {k} of {n} of the data set was read")
            raise
        found, rest = _parts(item, k)
        example, first = _array(found, k)
        if k == 0:
            values, channels_first = np.empty((n, *example.shape), example.dtype), first
            columns = {key: [] for key in rest}
        if ends is None and (axis := unequal_axis([values.shape[1:], example.shape])) is not None:
            ends = _Ends(axis, [values.shape[1 + axis]] * k)
        shape = tuple(example.shape)
        if ends is not None and unequal_axis([values.shape[1:], shape]) in (None, ends.axis) and len(shape) > ends.axis:
            longest = max(values.shape[1 + ends.axis], shape[ends.axis])
            values = lengthened(values, 1 + ends.axis, longest)
            shape = (*shape[: ends.axis], longest, *shape[ends.axis + 1 :])
        for what, now, then in (
            ("shape", shape, tuple(values.shape[1:])),
            ("type", example.dtype, values.dtype),
            ("entries beside the example", list(rest), list(columns)),
        ):
            if now != then:
                raise UsageError(
                    f"item {k} has the {what} {now}, and item 0 has {then}: make all items alike, such as by resizing images."
                )
        if ends is None:
            values[k] = example
        else:
            ends.lengths.append(example.shape[ends.axis])
            values[k] = lengthened(example, ends.axis, values.shape[1 + ends.axis])
        for key, value in rest.items():
            columns[key].append(value)
    return values, columns, channels_first, ends


def _frame(items: Any) -> dict[str, list[Any]] | None:
    """The columns of a frame of pandas or polars, by name; None for anything else."""
    if not (hasattr(items, "columns") and hasattr(items, "to_numpy") and hasattr(items, "dtypes")):
        return None
    if len(items) == 0:
        raise UsageError("the frame holds no rows: give one with examples.")
    return {
        str(name): [None if isinstance(v, float) and math.isnan(v) else v for v in items[name].to_list()]
        for name in items.columns
    }


def _holds_examples(frame: Mapping[str, list[Any]]) -> bool:
    """Whether a column of a frame holds arrays or images."""
    return any(_axes(column[0]) or isinstance(column[0], Image.Image | Mapping) for column in frame.values())


def _parts(item: Any, k: int) -> tuple[Any, dict[str, Any]]:
    """(the example of an item, what else it has, by name)."""
    if isinstance(item, Mapping):
        key = next((key for key in EXAMPLES if key in item), None)
        if key is None:
            arrays = [key for key, value in item.items() if isinstance(value, Image.Image) or _axes(value)]
            if len(arrays) != 1:
                raise UsageError(
                    f"item {k} has the entries {', '.join(map(str, item))}: call the one with the example {EXAMPLES[0]!r}."
                )
            key = arrays[0]
        return item[key], {str(name): value for name, value in item.items() if name != key}
    if isinstance(item, tuple | list) and item and not all(isinstance(part, Number) for part in item):
        return item[0], {f"label{place or ''}": value for place, value in enumerate(item[1:])}
    return item, {}


def _array(example: Any, k: int) -> tuple[np.ndarray, bool]:
    """(an example as an array, whether its channels come first). Raises UsageError for what is no example."""
    if isinstance(example, Image.Image):
        image = (
            example
            if example.mode in PLAIN_MODES
            else example.convert("RGBA" if "transparency" in example.info else "RGB")
        )
        pixels = np.asarray(image)
        found, first = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1), True
    elif isinstance(example, Tensor):
        found, first = _plain(example, f"item {k}"), True
    else:
        try:
            found, first = np.asarray(example), False
        except ValueError:
            found, first = np.empty(0, object), False
    if found.dtype.kind not in "fiub" or found.ndim == 0:
        raise UsageError(
            f"item {k} holds {type(example).__name__} {str(example)[:40]!r} where an example is needed: a tensor, an array or an image."
        )
    if not found.size:
        raise UsageError(f"item {k} is empty, of the shape {tuple(found.shape)}: leave it out.")
    if found.dtype.kind == "f" and np.isinf(found).any():
        raise UsageError(
            f"item {k} holds infinite numbers: leave it out, or give other values, NaN where one is missing."
        )
    return (found.astype(np.float32) if found.dtype == np.float16 else found), first


def _plain(tensor: Tensor, what: str) -> np.ndarray:
    """A tensor as an array, of bfloat16 as float32. Raises UsageError for one that has no values, or not all of them.   what: it is."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
        raise UsageError(
            f"{what} is a sparse, quantised or empty tensor ({tensor.layout}, {tensor.dtype}, {tensor.device}): make it a plain one."
        )
    array: np.ndarray = (
        (tensor.float() if tensor.dtype == torch.bfloat16 else tensor)
        .detach()
        .resolve_conj()
        .resolve_neg()
        .cpu()
        .numpy()
    )
    return array


def _refuse_infinite(values: np.ndarray) -> None:
    """Raises UsageError for an array (N, …) with infinite numbers, naming the first item that has them."""
    if values.dtype.kind == "f" and values.size:
        for k, item in enumerate(values):
            if np.isinf(item).any():
                raise UsageError(
                    f"item {k} holds infinite numbers: leave it out, or give other values, NaN where one is missing."
                )


def _names(items: Any, label: str) -> Sequence[str] | None:
    """The names of the classes, as the items know them: of Hugging Face's `features`, or of torchvision's `classes`."""
    features = getattr(items, "features", None)
    feature = features.get(label) if isinstance(features, Mapping) else None
    found = getattr(feature, "names", None) or getattr(items, "classes", None)
    return [str(name) for name in found] if isinstance(found, Sequence) and not isinstance(found, str) else None


def _labels(column: list[Any], names: Sequence[str] | None) -> np.ndarray | None:
    """One label for each item, as texts or whole numbers, "" where one is missing; None where labels are something else than classes."""
    plain = [_bare(value) for value in column]
    if not all(value is None or isinstance(value, str | int) for value in plain):
        return None
    for k, value in enumerate(plain):
        if names is not None and isinstance(value, str) and value and value not in names:
            raise UsageError(
                f"item {k} has the label {value!r}, and the names are {', '.join(names)}: labels are numbers, or these names."
            )
    if names is None or any(isinstance(value, str) for value in plain):
        whole = all(isinstance(value, int) for value in plain)
        return np.array(plain if whole else ["" if value is None else str(value) for value in plain])
    for k, value in enumerate(plain):
        if value is not None and not 0 <= value < len(names):
            raise UsageError(
                f"item {k} has the label {value}, and there are names for 0 to {len(names) - 1}: give a name for each label."
            )
    return np.array(["" if value is None else names[value] for value in plain])


def _axes(value: Any) -> int:
    return int(getattr(value, "ndim", 0))


def _column(name: str, column: list[Any]) -> np.ndarray:
    """What items say under one name, as tables have it."""
    plain = [_bare(value) for value in column]
    if all(isinstance(value, np.ndarray) for value in plain):
        shapes = {value.shape for value in plain}
        if len(shapes) > 1:
            raise UsageError(
                f"the items have {name!r} of different shapes, such as {' and '.join(map(str, list(shapes)[:2]))}: make them alike."
            )
        return np.stack(plain)
    if all(isinstance(value, int) for value in plain):
        return np.array(plain)
    return as_column(plain)


def _bare(value: Any) -> Any:
    """Scalars of torch and NumPy as Python's own, tensors as arrays, anything else as it is."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        return value.item()
    return int(value) if isinstance(value, bool) else value
