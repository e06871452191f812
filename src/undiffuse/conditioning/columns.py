"""From the columns of a data set to the conditions of a model: reading, fitting, encoding once and for all examples."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from undiffuse.conditioning.base import Note, checked_name, present_or_none
from undiffuse.conditioning.conditions import ConditionConfig, Conditions
from undiffuse.conditioning.encoded import Encoded
from undiffuse.conditioning.numbers import as_number
from undiffuse.conditioning.spec import Condition, fit_condition
from undiffuse.conditioning.tags import names_in
from undiffuse.conditioning.texts import TextCondition, text_or_none
from undiffuse.data import tables
from undiffuse.data.dataset import MISSING, Dataset
from undiffuse.data.ranges import FULL, colours, found_range, has_alpha
from undiffuse.errors import UsageError
from undiffuse.system import as_file_name, write_atomically

KEPT_AS = {
    "uint8": "uint8",
    "bool": "uint8",
    "uint16": "int32",
}  # of pictures, by their type in files; of any other float32
TYPES = {torch.uint8: "uint8", torch.int32: "uint16"}  # whose range is found, by the type that they are kept as
HEADER = 512  # bytes of a file of encoded texts that come before the states
LIKE_MISSING = ("na", "n/a", "#n/a", "nan", "none", "null", "nil", "?", "unknown", "missing", "undefined")


def fit_conditions(
    data: Dataset,
    declared: Mapping[str, Condition],
    dropout: float,
    download: bool = False,
    known: Collection[str] = (),
    rows: np.ndarray | None = None,
    all_alike: bool = False,
) -> dict[str, ConditionConfig]:
    """The configurations of declared conditions.   drop: of those that say nothing of their own.

    known: the names of those that a model knows already.   rows: those that mean and deviation are measured on, all when None.
    all_alike: as `data.codec.fitted_codec` has it.
    Raises UsageError, naming the condition, for a column that is missing or of the wrong kind.
    """
    found = {}
    for name, condition in declared.items():
        checked_name(name)
        try:
            column, mode, notes = _read(data, name, condition)
            for note in notes:
                warnings.warn(f"of the pictures of {name!r}, {note}", Note, stacklevel=2)
            span = (
                _span(name, column, mode)
                if isinstance(column, Tensor) and column.dtype in TYPES and not all_alike
                else None
            )
            alpha = (
                float(FULL[TYPES[column.dtype]]) if span and has_alpha(mode) and isinstance(column, Tensor) else None
            )
            measured = None if rows is None or all_alike else rows.tolist()
            found[name] = fit_condition(
                condition, column, dropout, mode, download, name in known, measured, span, alpha
            )
        except ValueError as error:
            raise UsageError(f"{condition.kind} {name!r}: {_place(data, name, condition)}{error}") from None
    return found


def _place(data: Dataset, name: str, condition: Condition) -> str:
    """Which example a column of numbers has no number for, "" where that is not what is wrong."""
    if condition.kind != "number":
        return ""
    try:
        column = _read(data, name, condition)[0]
    except UsageError:
        return ""
    for row, value in enumerate(column):
        try:
            _ = value if value is None else as_number(value)
        except UsageError:
            of = str(data.columns["file"][row]) if "file" in data.columns else str(row + 1)
            return f"of example {of}, "
    return ""


def _span(name: str, pictures: Tensor, mode: str | None) -> tuple[float, float]:
    """The range of pictures in files and arrays (data/ranges.py), said in a note where it is not all of their type."""
    values = pictures.numpy().astype(TYPES[pictures.dtype], copy=False)
    low, high = found_range(values, mode)
    if high < FULL[values.dtype.name]:
        warnings.warn(
            f"the pictures of {name!r} reach {colours(values, mode).max()} and are read as {low:.0f} to {high:.0f}",
            Note,
            stacklevel=2,
        )
    return low, high


def condition_notes(data: Dataset, declared: Mapping[str, Condition], training: np.ndarray) -> list[str]:
    """Notes on what the columns of conditions say, or do not.   training: the rows that are trained on."""
    notes = []
    for name, condition in declared.items():
        try:
            column = [] if condition.kind == "image" else _read(data, name, condition)[0]
        except UsageError:
            continue  # whoever fits the condition says what is wrong
        said = [present_or_none(value) if condition.kind != "text" else text_or_none(value) for value in column]
        missing = [row for row, value in enumerate(said) if value is None]
        if (source := condition.column or name) == tables.CAPTIONS and source not in data.columns:
            notes += [tables.captions_note(data, missing)] if said else []
        elif missing:
            notes.append(
                f"{len(missing):,} of {len(said):,} examples say nothing of {name!r} ({', '.join(MISSING[1:])} or an empty cell)"
            )
        if condition.kind not in ("class", "task", "tags"):
            continue
        of = [[] if value is None else names_in(value) if condition.kind == "tags" else [str(value)] for value in said]
        names = {each for row in of for each in row}
        odd = sorted(each for each in names if each.strip().lower() in LIKE_MISSING)
        if odd:
            notes.append(
                f"{', '.join(map(repr, odd))} is a {condition.kind} of its own in {name!r}: leave cells empty where nothing is known"
            )
        unseen = sorted(names - {each for row in training for each in of[row]})
        if unseen:
            notes.append(
                f"no example that is trained on says the {condition.kind} {', '.join(map(repr, unseen[:5]))}{', …' if len(unseen) > 5 else ''} of "
                f"{name!r}: samples of {'it' if len(unseen) == 1 else 'these'} would be guesses; hold fewer examples out"
            )
    return notes


def encode_columns(
    data: Dataset, declared: Mapping[str, Condition], conditions: Conditions, cache: Path | None = None
) -> dict[str, Encoded]:
    """The declared conditions of every example, encoded, on the CPU; rows of a batch are asked for by their numbers (conditioning/encoded.py).

    cache: a folder that keeps what a transformer said of the texts, which takes long and is the same every time.
    """
    values: dict[str, Encoded] = {}
    for name, condition in declared.items():
        column, _, _ = _read(data, name, condition)
        module = conditions[name]
        try:
            if cache is not None and isinstance(module, TextCondition) and module.config.encoder.kind == "transformer":
                texts, which = module.different(column)
                values[name] = module.column(*_cached(cache, name, module, texts), which)
            else:
                values[name] = module.encode_all(column)
        except ValueError as error:
            raise UsageError(f"{condition.kind} {name!r}: {error}") from None
    return values


def with_files(data: Dataset, declared: Mapping[str, Condition]) -> Dataset:
    """The data set with the .npy files that conditions are declared from as columns, so that parts of it have their parts."""
    sources = {condition.column or name for name, condition in declared.items()}
    files = {
        source: tables.column(data, source)
        for source in sources
        if source not in data.columns and Path(source).suffix.lower() == ".npy"
    }
    return replace(data, columns={**data.columns, **files}) if files else data


def column_values(data: Dataset, name: str, condition: Condition, rows: np.ndarray) -> list[Any]:
    """The values of a condition of some examples as people write them, None where one is missing."""
    column, _, _ = _read(data, name, condition, rows)
    return [present_or_none(value) for value in column]


def _read(
    data: Dataset, name: str, condition: Condition, rows: np.ndarray | None = None
) -> tuple[list[Any] | Tensor, str | None, tuple[str, ...]]:
    """A column (of some rows) as `fitted` takes it, the mode of pictures, and notes on how they were read."""
    column = tables.column(data, condition.column or name)
    column = column if rows is None else column[rows]
    if condition.kind == "image":
        values, mode, notes = tables.pictures(data, column, condition.channels)
        return torch.from_numpy(values.astype(KEPT_AS.get(values.dtype.name, "float32"), copy=False)), mode, notes
    if condition.kind == "vector":
        if column.dtype.kind not in "fiub" or column.ndim != 2:
            raise UsageError(
                f"a vector is a row of numbers for each example, but this column has the shape {column.shape} and type {column.dtype}."
            )
        return torch.from_numpy(column.astype(np.float64)), None, ()
    if column.ndim == 2 and condition.kind == "tags":  # one column of 0 or 1 for each tag
        known = column[~np.isnan(column).any(1)] if column.dtype.kind == "f" else column
        if column.dtype.kind not in "fiub" or not np.isin(known, (0, 1)).all():
            raise UsageError(
                "a table of tags holds 1 where a tag applies and 0 where it does not, but this one holds other values."
            )
        return [None if (row != row).any() else [str(k) for k in np.flatnonzero(row)] for row in column], None, ()
    if column.ndim != 1:
        raise UsageError(
            f"it has the shape {column.shape}: a {condition.kind} is one value for each example, a vector is several."
        )
    if column.dtype.kind == "f":
        whole = condition.kind != "number" and all(v.is_integer() for v in column[~np.isnan(column)].tolist())
        return [None if np.isnan(v) else int(v) if whole else float(v) for v in column], None, ()
    values_ = column.tolist()
    return (
        [None if isinstance(v, str) and v.strip() in MISSING and condition.kind != "tags" else v for v in values_],
        None,
        (),
    )


def _cached(folder: Path, name: str, module: TextCondition, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(states, how many each text has), from the folder where the texts have been encoded before, by the same encoder.

    The file is written batch by batch and read as it is needed: nothing of it has to fit into memory.
    """
    digest = hashlib.sha256(json.dumps(module.config.model_dump(mode="json", exclude={"dropout", "inject"})).encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    path = folder / f"{as_file_name(name)}-{digest.hexdigest()[:16]}.safetensors"
    if path.exists():
        try:
            return _states_in(path)
        except (SafetensorError, KeyError):
            path.unlink()
    write_atomically(path, lambda temporary: _write_states(temporary, module.parts(texts)))
    return _states_in(path)


def _states_in(path: Path) -> tuple[Tensor, Tensor]:
    found = load_file(path)
    return found["states"], found["lengths"]


def _write_states(path: Path, parts: Iterable[tuple[Tensor, Sequence[int]]]) -> None:
    """A file of safetensors whose header is written last, when it is known how much there is."""
    lengths: list[int] = []
    shape: tuple[int, ...] = (0, 0)
    with open(path, "wb") as file:
        file.write(bytes(8 + HEADER))
        for content, each in parts:
            file.write(content.float().contiguous().numpy().tobytes())
            lengths.extend(each)
            shape = (shape[0] + len(content), *content.shape[1:])
        file.write(np.array(lengths, dtype="<i4").tobytes())
        middle = 4 * math.prod(shape)
        header = {
            "states": {"dtype": "F32", "shape": shape, "data_offsets": [0, middle]},
            "lengths": {"dtype": "I32", "shape": [len(lengths)], "data_offsets": [middle, middle + 4 * len(lengths)]},
        }
        file.seek(0)
        file.write(struct.pack("<Q", HEADER) + json.dumps(header).encode().ljust(HEADER))
