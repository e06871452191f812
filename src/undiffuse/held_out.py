"""The examples a run never trained on, found again from its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from undiffuse.configuration import RunConfig, parsed
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources import DataConfig, open_data

NO_DATA = "give the data to use, as in 'undiffuse likelihood RUN DATA'"


def run_config(run: Path) -> RunConfig | None:
    """The configuration of a run folder; None where there is none, as beside a model file that was sent on its own."""
    path = (run if run.is_dir() else run.parent) / "config.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): {NO_DATA}.") from None
    return parsed(RunConfig, content, f"{path} has settings this version cannot use")


def held_out_data(run: Path) -> Dataset:
    """The held-out part of a run's data.

    Raises ValueError where the run does not say what it was trained on, the data is gone or changed, or none was held out.
    """
    config = run_config(run)
    if config is None:
        raise ValueError(f"{run} does not say which data it was trained on: {NO_DATA}.")
    data = open_data(config.data)
    if data.fingerprint() != config.fingerprint:
        raise ValueError(f"{config.data.source} has changed since the run, so its held-out examples cannot be told from the others: {NO_DATA}.")
    held_out = data.split(config.data.held_out, config.design.training.seed)[1]
    if not len(held_out):
        raise ValueError(f"the run held no examples out: {NO_DATA}.")
    return held_out


def named_data(run: Path, source: str) -> tuple[Dataset, bool]:
    """(the data at `source`, images prepared as the run's were; whether it is what the run was trained on)."""
    config = run_config(run)
    wanted = DataConfig(source=source)
    if config and Path(source).expanduser().is_dir():
        wanted = config.data.model_copy(update={"source": source, "layout": None})
    data = open_data(wanted)
    return data, config is not None and data.fingerprint() == config.fingerprint


def drawn(data: Dataset, n: int, seed: int) -> Dataset:
    """n examples at random without repetition, all of them where there are no more."""
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(data))
    return data[np.sort(order[:n])]
