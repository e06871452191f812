"""The examples a run never trained on, found again from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undiffuse.conditioning.columns import column_values, with_files
from undiffuse.conditioning.spec import Condition
from undiffuse.config import stored
from undiffuse.data.codec import CodecConfig
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.holes import refuse_holes
from undiffuse.data.sources import of_images, open_data
from undiffuse.data.splitting import split_rows
from undiffuse.errors import UsageError
from undiffuse.models.model import Model
from undiffuse.rng import GeneratorStream, permuted
from undiffuse.runs.design import RunConfig

FAR_OFF = 3.0  # widths of the range of the model's data, beyond which values are read as meaning something else
NO_DATA = "give the data to use, as in 'undiffuse likelihood RUN DATA'"


def run_config(run: Path) -> RunConfig | None:
    """The configuration of a run folder; None where there is none, as beside a model file that was sent on its own."""
    return stored((run if run.is_dir() else run.parent) / "config.json", RunConfig, NO_DATA)


@dataclass(frozen=True)
class RunData:
    """What a run was trained on.   data: all of it; training, held_out: its rows.   conditions: as declared, by name."""

    data: Dataset
    training: np.ndarray
    held_out: np.ndarray
    conditions: dict[str, Condition]


def run_data(run: Path, fix: str = NO_DATA, *, whole: bool = True) -> RunData:
    """Raises UsageError where the run does not say what it was trained on, or the data is gone or changed.

    whole: whether examples with holes are refused, too.
    """
    config = run_config(run)
    if config is None:
        raise UsageError(f"{run} does not say which data it was trained on: {fix}.")
    data = open_data(config.data)
    if data.fingerprint() != config.fingerprint:
        raise UsageError(
            f"{config.data.source} has changed since the run, so its held-out examples cannot be told from the others: {fix}."
        )
    if whole:
        refuse_holes(data)
    rows = split_rows(data, config.split, config.data.held_out, config.design.training.seed)
    return RunData(with_files(data, config.conditions), *rows, config.conditions)


def held_out_data(run: Path) -> Dataset:
    """The held-out part of a run's data. Raises UsageError as `known_data` does, and where none was held out."""
    known = run_data(run)
    held_out = known.data[known.held_out]
    if not len(held_out):
        raise UsageError(f"the run held no examples out: {NO_DATA}.")
    return held_out


def named_data(run: Path, source: str) -> tuple[Dataset, bool]:
    """(the data at `source`, read as the run's was; whether it is what the run was trained on).

    Images are brought to the run's size and kind of pixel, axes of arrays mean what they did.  A table beside the run's data has no rows for
    other data.
    """
    config = run_config(run)
    source_config = DataConfig(source=source)
    if config is not None:
        same = (
            source == config.data.source
            or Path(source).expanduser().resolve() == Path(config.data.source).expanduser().resolve()
        )
        other = {"table": None} | (
            {"layout": None} if source == "digits" or of_images(source_config) else {"size": None, "channels": None}
        )
        source_config = config.data.model_copy(update={"source": source} | ({} if same else {"missing": None} | other))
    data = open_data(source_config)
    refuse_holes(data)
    return data, config is not None and data.fingerprint() == config.fingerprint


def refuse_other_range(values: np.ndarray, codec: CodecConfig, name: str) -> None:
    """Raises UsageError for values (N, C, *size) that lie far beyond those of a model's data, such as pixels for a model of -1 to 1.

    Of data of floats, which have no bounds; the codec itself refuses whole numbers beyond theirs.
    """
    low, high = min(codec.low), max(codec.high)
    smallest, largest, room = float(values.min()), float(values.max()), FAR_OFF * (high - low)
    if codec.kind != "integer" and (smallest < low - room or largest > high + room):
        raise UsageError(
            f"the values of {name} lie in [{smallest:g}, {largest:g}], but those of the model's data in [{low:g}, {high:g}]: "
            "bring them to that range, in an array."
        )


def conditions_of(run: Path, data: Dataset) -> dict[str, list[Any]]:
    """What a run's conditions say of these examples, as far as the data says it."""
    config, found = run_config(run), dict[str, list[Any]]()
    for name, condition in (config.conditions if config else {}).items():
        try:
            found[name] = column_values(data, name, condition, np.arange(len(data)))
        except ValueError:
            continue  # other data need not know what the run's did
    return found


def model_conditions(run: Path, model: Model, data: Dataset) -> dict[str, list[Any]]:
    """Those conditions that the model can be given, as far as the data says them; the data's own classes where it says nothing else.

    So of other data than the run's, which need not name them alike.
    """
    settable = model.denoiser.conditions.settable
    found = {name: values for name, values in conditions_of(run, data).items() if name in settable}
    if found or "class" not in settable or data.labels is None:
        return found
    return {"class": [data.classes[k] if k >= 0 else None for k in data.labels]}


def random_subset(data: Dataset, n: int, seed: int) -> Dataset:
    """n examples at random without repetition, all of them where there are no more."""
    return data[np.sort(permuted(GeneratorStream.CHOSEN, len(data), seed)[:n])]
