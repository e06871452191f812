"""Preparing a run: settings, data and a folder, checked against each other and against what the folder holds already.

The same settings in the same folder resume; other settings are refused with a list of what differs.  A run of latents has
its autoencoder trained first, in the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse.conditioning.base import checked_name
from undiffuse.conditioning.columns import column_values, condition_notes
from undiffuse.conditioning.conditions import CONDITIONS
from undiffuse.conditioning.degradations import Degradation
from undiffuse.conditioning.spec import Condition
from undiffuse.config import changed, stored
from undiffuse.data.codec import CodecConfig, fitted_codec
from undiffuse.data.dataset import Dataset
from undiffuse.data.ranges import colours, range_note
from undiffuse.data.sources import DataConfig, of_images, open_data
from undiffuse.data.splitting import SplitConfig, drawn_split, keys_of, split_rows, with_names_kept
from undiffuse.data.table_rows import FILE_COLUMNS
from undiffuse.data.tables import fingerprints, offers, refuse_missing
from undiffuse.errors import UsageError
from undiffuse.models.config import ModelConfig, with_sampling_completed
from undiffuse.models.devices import usable_device
from undiffuse.models.file import stored_config
from undiffuse.process.chains import Chain
from undiffuse.runs.autoencoder import AutoencoderRun, AutoencoderRunConfig, is_trained, load_autoencoder, load_latents
from undiffuse.runs.design import Design, LatentDesign, RunConfig
from undiffuse.runs.diffusion import CACHE, Run
from undiffuse.runs.fine_tuning import FineTuning, kept_codec, refuse_outside
from undiffuse.runs.folder import CONFIG, RunFolder
from undiffuse.runs.presets import design_for, latents
from undiffuse.system import is_leftover, refuse_held
from undiffuse.training.cadence import DEFAULT_INTERVALS, Intervals

FREE_TO_CHANGE = (
    "design.training.steps",
    "design.training.budget",
    "design.sampling",
    "data.source",
    "data.max_pixels",
    "design.latent.training.steps",
    "design.latent.training.budget",
    "design.latent.source",
    "design.latent.extractor",
    "examples",
)
AUTOENCODER, OTHERWISE = "autoencoder", "choose another --name"


@dataclass(frozen=True)
class Plan:
    """A run about to be made: `autoencoder()` where it is one of latents, then `run()`.   rows: of the training and of the held-out part."""

    folder: Path
    config: RunConfig
    data: Dataset
    rows: tuple[np.ndarray, np.ndarray]
    codec: CodecConfig
    device: torch.device
    watch: Intervals
    download: bool
    start: FineTuning | None = None

    def autoencoder(self) -> AutoencoderRun | None:
        """The training of the autoencoder, None where there is none to train any more."""
        latent, split = (
            self.config.design.latent,
            (self.config.split, self.config.data.held_out, self.config.design.training.seed),
        )
        if latent is None:
            return None
        config = AutoencoderRunConfig(
            design=latent,
            codec=self.codec,
            fingerprint=self.config.fingerprint,
            split=split[0],
            held_out=split[1],
            seed=split[2],
        )
        folder = self.folder / AUTOENCODER
        return None if is_trained(folder, config) else AutoencoderRun(folder, config, self.data, self.rows, self.device)

    def run(self) -> Run:
        """Raises UsageError where the autoencoder is still to be trained."""
        if self.start:
            space = self.start.latents(self.codec.shape, self.device)
        else:
            space = None if self.config.design.latent is None else load_latents(self.folder / AUTOENCODER, self.device)
        return Run(
            self.folder, self.config, self.data, self.rows, self.device, self.watch, self.download, space, self.start
        )


def prepare(
    data: DataConfig,
    folder: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    network: str | None = None,
    conditions: Mapping[str, Condition] | None = None,
    override: bool = False,
    device: torch.device | None = None,
    watch: Intervals = DEFAULT_INTERVALS,
    download: bool = False,
    factor: int | None = None,
    autoencoder: Path | None = None,
    start: str | Path | None = None,
    tasks: Mapping[str, Degradation] | None = None,
) -> Plan:
    """A run in `folder`: new, or to be taken up where it was.

    settings: fields of Design by dotted path, replacing the preset's.   network: unet, transformer, mlp or autoencoder, of a size
    for the data, instead of the preset's.   conditions: by name; the data's classes, where it has any, when None, and {} for an
    unconditional model.   download: whether a text encoder may be fetched.
    factor: how many positions along each axis one latent stands for; None for a model of the data itself.
    autoencoder: a folder to take the autoencoder of the latents from.
    tasks: what the model is shown of the example it is to make, by the name of the task, see corruptions.py.
    start: a run folder or model file whose weights to start from, and then nothing of the network is told, see starting.py.
    Raises UsageError where the folder holds a run of another configuration, unless `override` says to go on with the new
    training settings or data.
    """
    for place in (folder, folder / AUTOENCODER):  # before the data is read, which may take long
        refuse_held(place)
    device = usable_device(device)
    settings = dict(settings or {}) | (
        {"degradations": {name: task.model_dump(mode="json") for name, task in tasks.items()}} if tasks else {}
    )
    base = FineTuning(start) if start else None
    if data.layout is not None and (data.source == "digits" or of_images(data)):
        raise UsageError(
            f"the layout {data.layout} says what the axes of an array are, and {data.source} is none: leave it out."
        )
    data, dataset = base.open(data) if base else (data, open_data(data))
    if base and any(each is not None for each in (preset, network, factor, autoencoder)):
        raise UsageError(
            "a fine-tuning keeps the network, and the latents, of the model it starts from: leave --preset, --network and --latent out."
        )
    if base:
        design = _ending(base.design(settings), settings)
    else:
        design = _design(
            data.source, dataset.shape, settings, preset, device.type == "cpu", network, factor, autoencoder
        )
    unused = (
        [name for name in dataset.columns if name not in FILE_COLUMNS]
        if conditions is None and not dataset.classes
        else []
    )
    if unused:
        note = f"of the columns {', '.join(unused)} the model is told nothing: declare conditions, such as --class {unused[0]}, to tell it"
        dataset = replace(dataset, notes=(*dataset.notes, note))
    for name in conditions or {}:
        checked_name(name)
    if conditions is None:
        known = base is not None and "class" in base.base_config.conditions
        conditions = {"class": Condition(kind="class")} if len(dataset.classes) > (0 if known else 1) else {}
    if base:
        conditions = base.declared(conditions)
    taken = [name for name in ("observation", "task") if design.degradations and name in conditions]
    if taken:
        raise UsageError(
            f"tasks by training tell the model {taken[0]!r} themselves: give it another name, as in --class other={taken[0]}."
        )
    if design.degradations and design.latent is not None:
        raise UsageError(
            "tasks by training show parts of examples, which latents are not made of: leave --latent or --tasks out."
        )
    if design.augment.probability and any(CONDITIONS[c.kind].config.pictures for c in conditions.values()):
        raise UsageError(
            "pictures that are conditions would not be shifted along with the examples: set augment.probability to 0."
        )
    read = {c.column or name for name, c in conditions.items()}
    refuse_missing(dataset, {name: (c.kind, c.column or name) for name, c in conditions.items()})
    before, model = _before(folder), stored_config(folder)
    design = _sampled_as_before(design, model, before, settings)
    split, dataset = _split(before, data, dataset, conditions, design.training.seed)
    rows = split_rows(dataset, split, data.held_out, design.training.seed)
    unread = [note for source, note in offers(dataset) if source not in read]
    dataset = replace(dataset, notes=(*dataset.notes, *unread, *condition_notes(dataset, conditions, rows[0])))
    alike = before is not None and (
        before.measured_on == "all" if isinstance(before, RunConfig) else before.split is None
    )
    refuse_outside(model, dataset, data.range)
    codec = kept_codec(model, (base.codec if base else fitted_codec)(dataset, rows[0], all_alike=alike), folder)
    if codec.kind == "integer" and dataset.low is None and model is None and not alike:
        said = range_note(colours(dataset.values, dataset.mode), codec.low[0], codec.high[0])
        dataset = replace(dataset, notes=(*dataset.notes, *([said] if said else [])))
    config = RunConfig(
        measured_on="all" if alike else "training",
        data=data,
        fingerprint=dataset.fingerprint(),
        examples=len(dataset),
        split=split,
        design=design,
        conditions=dict(conditions),
        start=base.config if base else None,
        fingerprints=fingerprints(
            dataset, {c.column or name: CONDITIONS[c.kind].config.pictures for name, c in conditions.items()}
        ),
    )
    _refuse_other_run(folder, config, override)
    return Plan(folder, config, dataset, rows, codec, device, watch, download, base)


def _design(
    source: str,
    shape: tuple[int, ...],
    settings: Mapping[str, Any],
    preset: str | None,
    cpu: bool,
    network: str | None,
    factor: int | None,
    autoencoder: Path | None,
) -> Design:
    """The preset's design with the settings."""
    latent = None
    if factor is not None or autoencoder is not None:
        latent = latents(shape, cpu, factor or 4) if autoencoder is None else _taken(autoencoder, shape)
    elif any(path.startswith("latent.") for path in settings):
        raise UsageError("settings of latents belong to a model that has them: add --latent.")
    design = design_for(source, shape, preset, cpu, network, latent)
    design = changed(design, with_sampling_completed(design.sampling, settings))
    if design.adapters:
        raise UsageError(
            "adapters tune weights that were trained before: say whose, by --from RUN, or leave --adapters out."
        )
    return _ending(design, settings)


def _ending(design: Design, settings: Mapping[str, Any]) -> Design:
    """The design with no more steps of sampling than its schedule has. Raises UsageError for a training without an end."""
    schedule = design.schedule.build()
    if isinstance(schedule, Chain) and design.sampling.steps > len(schedule) and "sampling.steps" not in settings:
        design = changed(design, {"sampling.steps": len(schedule)})
    if design.training.steps is None and design.training.budget is None:
        raise UsageError("training needs an end: give a number of steps or a time budget.")
    return design


def _sampled_as_before(
    design: Design,
    model: ModelConfig | None,
    before: RunConfig | AutoencoderRunConfig | None,
    settings: Mapping[str, Any],
) -> Design:
    """The design with the way of sampling that the folder's model has, as by 'undiffuse sweep --keep', or its run was begun with.

    So what new models sample with does not reach those that go on.
    """
    kept = model.sampling if model is not None else before.design.sampling if isinstance(before, RunConfig) else None
    told = {path: value for path, value in settings.items() if path.split(".")[0] == "sampling"}
    return (
        design
        if kept is None
        else changed(design.model_copy(update={"sampling": kept}), with_sampling_completed(kept, told))
    )


def _taken(folder: Path, shape: tuple[int, ...]) -> LatentDesign:
    """Latents of a trained autoencoder."""
    autoencoder = load_autoencoder(folder, shape[0])
    if autoencoder.config.dims != len(shape) - 1:
        raise UsageError(
            f"the autoencoder in {folder} is for {autoencoder.config.dims} axes, and the data has {len(shape) - 1}."
        )
    return LatentDesign(autoencoder=autoencoder.config, source=str(folder))


def _before(folder: Path) -> RunConfig | AutoencoderRunConfig | None:
    """What the folder holds already: a run, the autoencoder of one that was stopped before anything else, or nothing."""
    return stored(folder / "config.json", RunConfig, OTHERWISE) or stored(
        folder / AUTOENCODER / "config.json", AutoencoderRunConfig, OTHERWISE
    )


def _split(
    before: RunConfig | AutoencoderRunConfig | None,
    config: DataConfig,
    data: Dataset,
    conditions: Mapping[str, Condition],
    seed: int,
) -> tuple[SplitConfig | None, Dataset]:
    """Which examples are held out: as what was there before has it, None for that of older code; the data, with notes of that."""
    if before is not None and before.split is None:
        changed_since = before.fingerprint != data.fingerprint()
        note = "this run held examples out by their rows, and the data has changed since: of those held out now it may have learned some"
        return None, replace(data, notes=(*data.notes, note)) if changed_since else data
    seed = seed if before is None or before.split is None else before.split.seed
    keys = keys_of(data, seed)
    split = drawn_split(keys, config.held_out, seed) if before is None or before.split is None else before.split
    for name, condition in (({"class": Condition(kind="class")} if data.classes else {}) | dict(conditions)).items():
        kind = CONDITIONS[condition.kind].config
        if kind.naming:
            with suppress(
                UsageError
            ):  # of a column that is missing or of another kind, which is told when conditions are fitted
                column = column_values(data, name, condition, np.arange(len(data)))
                split = with_names_kept(
                    split, keys, [[] if value is None else kind.names_of(value) for value in column]
                )
    copies, notes = len(data) - len(np.unique(keys)), data.notes
    if copies:
        said = f"{len(data):,} examples hold {copies:,} {'copy' if copies == 1 else 'copies'}"
        notes = (*notes, f"{said}: equal ones stay together, in training or held out")
    return split, replace(data, notes=notes)


def _refuse_other_run(folder: Path, config: RunConfig, override: bool) -> None:
    path = folder / CONFIG
    ours = (CACHE, AUTOENCODER)
    if (
        not path.exists()
        and folder.exists()
        and any(path.name not in ours and not is_leftover(path) for path in folder.iterdir())
    ):
        raise UsageError(f"{folder} is not empty and holds no run: {OTHERWISE}.")
    # what was trained on can not be held out any more, so which examples are stays as it was
    fixed = ("data.held_out", "design.training.seed") if config.split is None else ("data.held_out",)
    RunFolder(folder).refuse_other(
        config,
        OTHERWISE,
        FREE_TO_CHANGE,
        overridable=("design.training", "data", "fingerprint"),
        override=override,
        fixed=fixed,
    )


def default_name(source: str, start: str | Path | None = None) -> str:
    """The run's name when none is given: the data's, and whose weights it started from."""
    name = Path(os.path.abspath(Path(source).expanduser())).name.lstrip(".").split(".")[0] or "data"
    return f"{name}-from-{Path(start).resolve().name.removesuffix('.safetensors')}" if start else name
