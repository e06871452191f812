"""Examples by name: of files, and of the data that a run was trained on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from undiffuse.conditioning.base import warn_note
from undiffuse.data.codec import CodecConfig
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.examples import read_examples
from undiffuse.data.holes import with_nodata
from undiffuse.data.pixels import IMAGE_SUFFIXES
from undiffuse.data.readers.volumes import VOLUMES, read_volume
from undiffuse.data.sources import file_kind, open_data
from undiffuse.errors import UsageError
from undiffuse.runs.data import run_config
from undiffuse.runs.design import RunConfig

DATA = "data:"


@dataclass(frozen=True)
class NamedExamples:
    """values: (n, C, *size) of the type `codec.storage`, in the range of the model's data.   names: of each, for labels and files, no two alike."""

    values: Tensor
    names: list[str]


def named_examples(
    run: Path,
    sources: Sequence[str],
    codec: CodecConfig,
    missing: bool = False,
    note: Callable[[str], object] = warn_note,
) -> NamedExamples:
    """The examples in files, images or .npy arrays, and of the data that a run was trained on, as data:3.

    run: a run folder, or a model file of one.   codec: of what is read.   missing: whether values may be NaN.
    note: called with what was done to any that did not fit as they were.   Raises UsageError for what names no example, or one that does not fit.
    """
    parts, names, config = [], list[str](), run_config(run)
    fit, nodata = ("crop", None) if config is None else (config.data.fit, config.data.nodata)
    data = _data(run, sources)
    for source in sources:
        if data is not None and source.startswith(DATA):
            values, stem = _of_data(data, source, codec, missing), source.replace(":", "-")
        else:
            values, notes = _of_file(Path(source), config, codec, missing) or read_examples(
                Path(source), codec, fit, missing
            )
            if missing and nodata is not None:
                values = np.where(values == nodata, values.dtype.type(np.nan), values)
            stem = Path(source).stem
            for text in notes:
                note(text)
        names += [stem] if len(values) == 1 else [f"{stem}-{k}" for k in range(len(values))]
        parts.append(values)
    return NamedExamples(torch.from_numpy(np.concatenate(parts)), _distinct(names))


def _of_file(
    path: Path, config: RunConfig | None, codec: CodecConfig, missing: bool
) -> tuple[np.ndarray, list[str]] | None:
    """The examples of a file that is neither an image nor an .npy array, as the run's data was read, and notes; None for one that is."""
    kind = file_kind(path) if path.is_file() else None
    if kind is None or kind.images or path.suffix.lower() in (".npy", *IMAGE_SUFFIXES):
        return None
    if path.name.lower().endswith(VOLUMES) and len(codec.shape) == 4:  # of a folder of these, where each is an example
        values, _ = read_volume(path)
        data = with_nodata(Dataset(path.name, values.T[None, None]), None if config is None else config.data.nodata)
    else:
        described = DataConfig(source=str(path)) if config is None else config.data
        data = open_data(described.model_copy(update={"source": str(path), "table": None, "missing": None}))
    if data.shape != codec.shape:
        raise UsageError(f"{path} holds examples of shape {data.shape}, but the model takes {codec.shape}.")
    return np.concatenate([_with_holes(data, row, str(path), codec, missing) for row in range(len(data))]), list(
        data.notes
    )


def fit_of(run: Path) -> str:
    """How the run's images were resized: crop, pad or stretch."""
    config = run_config(run)
    return "crop" if config is None else config.data.fit


def _distinct(names: Sequence[str]) -> list[str]:
    """The same names, a number after each that was there before: a/0.png and b/0.png are two examples."""
    found = list[str]()
    for name in names:
        free = (other for k in itertools.count(2) if (other := f"{name}-{k}") not in names and other not in found)
        found.append(next(free) if name in found else name)
    return found


def _data(run: Path, sources: Sequence[str]) -> Dataset | None:
    """The data the run was trained on, where any source is an example of it: opened once for all."""
    first = next((source for source in sources if source.startswith(DATA)), None)
    if first is None:
        return None
    config = run_config(run)
    if config is None:
        raise UsageError(
            f"{run} does not say which data it was trained on, so {first} names nothing: give an image or an .npy file."
        )
    return open_data(config.data)


def _of_data(data: Dataset, source: str, codec: CodecConfig, missing: bool) -> np.ndarray:
    number = source.removeprefix(DATA)
    if not number.isdigit() or int(number) >= len(data):
        raise UsageError(f"{source} names no example: write data:0 to data:{len(data) - 1}.")
    return _with_holes(data, int(number), source, codec, missing)


def _with_holes(data: Dataset, row: int, name: str, codec: CodecConfig, missing: bool) -> np.ndarray:
    """An example (1, C, *size), NaN where a number is missing. Raises UsageError for one of these where none may be."""
    values = codec.carried(data.values[row][None]).numpy()
    if data.known is None or data.known[row].all():
        return values
    if not missing:
        raise UsageError(f"{name} has numbers missing: fill them in by 'undiffuse restore' first.")
    return np.where(data.known[row], values, values.dtype.type(np.nan))
