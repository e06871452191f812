"""From the columns of a data set to the conditions of a model: reading, fitting, encoding once and for all examples."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from undiffuse.conditioning.base import checked_name, present_or_none
from undiffuse.conditioning.conditions import CONDITIONS, ConditionConfig, Conditions
from undiffuse.conditioning.encoded import Encoded
from undiffuse.conditioning.fitting import Column
from undiffuse.conditioning.spec import Condition, fit_condition
from undiffuse.conditioning.texts import TextCondition
from undiffuse.data import tables
from undiffuse.data.dataset import MISSING, Dataset
from undiffuse.errors import UsageError
from undiffuse.system import as_file_name, write_atomically

HEADER = 512  # bytes of a file of encoded texts that come before the states
LIKE_MISSING = ("na", "n/a", "#n/a", "nan", "none", "null", "nil", "?", "unknown", "missing", "undefined")


def fit_conditions(
    data: Dataset,
    declared: Mapping[str, Condition],
    dropout: float,
    download: bool = False,
    known: Collection[str] = (),
    rows: np.ndarray | None = None,
    legacy: bool = False,
) -> dict[str, ConditionConfig]:
    """The configurations of declared conditions.   dropout: of those that have none of their own.

    known: the names of those that a model knows already.   rows: those that mean and deviation are measured on, all when None.
    legacy: as `data.codec.fitted_codec` has it.
    Raises UsageError, naming the condition, for a column that is missing or of the wrong kind.
    """
    found = {}
    for name, condition in declared.items():
        checked_name(name)
        try:
            found[name] = fit_condition(
                condition,
                _read(data, name, condition),
                dropout,
                name=name,
                download=download,
                continued=name in known,
                rows=None if rows is None or legacy else rows.tolist(),
                legacy=legacy,
                examples=data.columns["file"].tolist() if "file" in data.columns else None,
            )
        except ValueError as error:
            raise UsageError(f"{condition.kind} {name!r}: {error}") from None
    return found


def condition_notes(data: Dataset, declared: Mapping[str, Condition], training: np.ndarray) -> list[str]:
    """Notes on the columns of conditions: missing and unusual values.   training: the rows that are trained on."""
    notes = []
    for name, condition in declared.items():
        try:
            kind = CONDITIONS[condition.kind].config
            column = [] if kind.pictures else _read(data, name, condition).values
        except UsageError:
            continue  # fitting the condition reports what is wrong
        present = [kind.present(value) for value in column]
        missing = [row for row, value in enumerate(present) if value is None]
        if (source := condition.column or name) == tables.CAPTIONS and source not in data.columns:
            notes += [tables.captions_note(data, missing)] if present else []
        elif missing:
            notes.append(
                f"{len(missing):,} of {len(present):,} examples have no {name!r} ({', '.join(MISSING[1:])} or an empty cell)"
            )
        if not kind.naming:
            continue
        of = [[] if value is None else kind.names_of(value) for value in present]
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
    """The declared conditions of every example, encoded, on the CPU; rows of a batch are indexed by their numbers (conditioning/encoded.py).

    cache: a folder that keeps the encoded texts of a transformer, which take long and are the same every time.
    """
    values: dict[str, Encoded] = {}
    for name, condition in declared.items():
        column = _read(data, name, condition).values
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
    return [present_or_none(value) for value in _read(data, name, condition, rows).values]


def _read(data: Dataset, name: str, condition: Condition, rows: np.ndarray | None = None) -> Column:
    """The values of a condition of the examples, or of some of them."""
    column = tables.column(data, condition.column or name)
    return CONDITIONS[condition.kind].config.read_column(column if rows is None else column[rows], data, condition)


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
