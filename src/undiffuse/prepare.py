"""Preparing a run: settings, data and a folder, checked against each other and against what the folder holds already.

The same settings in the same folder resume; other settings are refused with a list of what differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from undiffuse.conditioning.declared import Condition
from undiffuse.configuration import RunConfig, changed, differences, parsed
from undiffuse.data.codec import fitted_codec
from undiffuse.data.sources import DataConfig, open_data
from undiffuse.data.tables import FILE_COLUMNS, fingerprints
from undiffuse.model import Model, default_device, load
from undiffuse.presets import design_for
from undiffuse.process.chains import Chain
from undiffuse.run import CACHE, Run, Watch

EVERY_SO_OFTEN = Watch()
FREE_TO_CHANGE = ("design.training.steps", "design.training.budget", "design.sampling", "data.source")


def prepare(
    data: DataConfig, folder: Path, *, settings: Mapping[str, Any] | None = None, preset: str | None = None,
    network: str | None = None, conditions: Mapping[str, Condition] | None = None, override: bool = False,
    device: torch.device | None = None, watch: Watch = EVERY_SO_OFTEN, download: bool = False,
) -> Run:  # fmt: skip
    """A run in `folder`: new, or taken up where it was.

    settings: fields of Design by dotted path, replacing the preset's.   network: unet, transformer, mlp or autoencoder, of a size
    for the data, instead of the preset's.   conditions: by name; the data's classes, where it has any, when None, and {} for an
    unconditional model.   download: whether a text encoder may be fetched.
    Raises ValueError where the folder holds a run of another configuration, unless `override` says to go on with the new
    training settings or data.
    """
    dataset, device = open_data(data), device or default_device()
    design = changed(design_for(data.source, fitted_codec(dataset), preset, device.type == "cpu", network), settings or {})
    schedule = design.schedule.build()
    if isinstance(schedule, Chain) and design.sampling.steps > len(schedule) and "sampling.steps" not in (settings or {}):
        design = changed(design, {"sampling.steps": len(schedule)})
    if design.training.steps is None and design.training.budget is None:
        raise ValueError("training needs an end: give a number of steps or a time budget.")
    unused = [name for name in dataset.columns if name not in FILE_COLUMNS] if conditions is None and not dataset.classes else []
    if unused:
        note = f"of the columns {', '.join(unused)} the model is told nothing: declare conditions, such as --class {unused[0]}, to tell it"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    if conditions is None:
        conditions = {"class": Condition(kind="class")} if len(dataset.classes) > 1 else {}
    if design.augment.probability and any(c.kind == "image" for c in conditions.values()):
        raise ValueError("pictures that are conditions would not be shifted along with the examples: set augment.probability to 0.")
    config = RunConfig(
        data=data, fingerprint=dataset.fingerprint(), design=design, conditions=dict(conditions),
        fingerprints=fingerprints(dataset, [condition.column or name for name, condition in conditions.items()]),
    )  # fmt: skip
    _refuse_other_run(folder, config, override)
    return Run(folder, config, dataset, device, watch, download)


def _refuse_other_run(folder: Path, config: RunConfig, override: bool) -> None:
    path = folder / "config.json"
    if not path.exists():
        if folder.exists() and any(path.name != CACHE for path in folder.iterdir()):
            raise ValueError(f"{folder} is not empty and holds no run: choose another --name.")
        return
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): choose another --name.") from None
    before = parsed(RunConfig, content, f"{path} has settings this version cannot use")
    other = {p: v for p, v in differences(before, config).items() if not p.startswith(FREE_TO_CHANGE)}
    fixed = [p for p in other if not p.startswith(("design.training", "data", "fingerprint"))]
    if other and (fixed or not override):
        listed = "; ".join(f"{p}: {old!r} there, {new!r} now" for p, (old, new) in list(other.items())[:6])
        mend = "choose another --name" + ("" if fixed else ", or go on with the new ones by --override")
        raise ValueError(f"{folder} holds a run of another configuration ({listed}): {mend}.")


def train(
    data: str, *, name: str | None = None, runs: str | Path = "runs", settings: Mapping[str, Any] | None = None,
    preset: str | None = None, network: str | None = None, conditions: Mapping[str, Condition] | None = None, table: str | None = None,
    **training: Any,
) -> Model:  # fmt: skip
    """Trains on `data` in runs/<name> and returns the model; the same call again resumes.

    training: fields of TrainingConfig, such as steps=2000, budget=90.0 or learning_rate=3e-4.
    settings: any other field of Design by dotted path, such as {"prediction": "noise"}.   network: see `prepare`.
    conditions: such as {"age": Condition(kind="number")}; the data's classes when left out.   table: see DataConfig.
    """
    chosen = {f"training.{key}": value for key, value in training.items()} | dict(settings or {})
    if "steps" in training and "budget" not in training:
        chosen["training.budget"] = None
    source = DataConfig(source=data, table=table)
    run = prepare(source, Path(runs) / (name or default_name(data)), settings=chosen, preset=preset, network=network, conditions=conditions)
    for _ in run.updates():
        pass
    return load(run.folder)


def default_name(source: str) -> str:
    """The run's name when none is given: the data's."""
    return Path(source).name.split(".")[0]
