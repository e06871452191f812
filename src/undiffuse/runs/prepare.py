"""Preparing a run: open the data, choose a design, make the data ready, and so have a plan of the run.

Everything is checked against everything else, and against what the folder holds already, before anything is written.  A run of latents
has its autoencoder trained first, in the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from undiffuse.conditioning.base import checked_name
from undiffuse.conditioning.columns import condition_notes
from undiffuse.conditioning.conditions import CONDITIONS
from undiffuse.conditioning.degradations import Degradation, Degradations
from undiffuse.conditioning.known import KNOWN
from undiffuse.conditioning.pictures import ImageConfig
from undiffuse.conditioning.spec import Condition
from undiffuse.config import changed
from undiffuse.data.codec import CodecConfig
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.inspection.duplicates import Duplicates
from undiffuse.data.ranges import colours, has_alpha, range_note
from undiffuse.data.readers.row_table import without_columns
from undiffuse.data.sequences import LENGTH
from undiffuse.data.sources import of_images, open_data
from undiffuse.data.table_rows import FILE_COLUMNS
from undiffuse.data.tables import fingerprints, offers, refuse_missing
from undiffuse.errors import UsageError
from undiffuse.models.devices import usable_device
from undiffuse.runs.autoencoder import AutoencoderRun, AutoencoderRunConfig, is_trained, load_latents
from undiffuse.runs.choose_design import choose_design, with_end
from undiffuse.runs.codecs import refuse_outside, run_codec
from undiffuse.runs.conditions import declared_for, network_conditions
from undiffuse.runs.design import Design, RunConfig
from undiffuse.runs.diffusion import Run
from undiffuse.runs.existing import AUTOENCODER, CACHE, ExistingRun
from undiffuse.runs.fine_tuning import PretrainedModel, fine_tuned_design, load_pretrained, open_for
from undiffuse.runs.plan_file import PlanFile
from undiffuse.runs.prepared import MADE_FROM_X, Prepared, encode_conditions, hold_out
from undiffuse.runs.presets import PRESETS
from undiffuse.system import refuse_held
from undiffuse.training.cadence import DEFAULT_INTERVALS, Intervals
from undiffuse.training.objectives import OBJECTIVES


@dataclass(frozen=True)
class Plan:
    """A run about to be made: `autoencoder()` where it is one of latents, then `run()`.   base: the model that it starts from.

    given, declared: what was asked for: settings by dotted path, and whether conditions were declared.
    chosen_by: whose the design is, "the preset digits" or "the plan"; None where it follows from the data.
    """

    folder: Path
    config: RunConfig
    prepared: Prepared
    device: torch.device
    watch: Intervals
    base: PretrainedModel | None = None
    given: frozenset[str] = frozenset()
    declared: bool = False
    chosen_by: str | None = None

    @property
    def data(self) -> Dataset:
        """The data, with notes on how it was read."""
        return self.prepared.data

    @property
    def codec(self) -> CodecConfig:
        """The codec of the data."""
        return self.prepared.codec

    def autoencoder(self) -> AutoencoderRun | None:
        """The training of the autoencoder, None where there is none to train any more."""
        if self.config.design.latent is None:
            return None
        config = AutoencoderRunConfig(
            design=self.config.design.latent,
            codec=self.codec,
            fingerprint=self.config.fingerprint,
            split=self.config.split,
            held_out=self.config.data.held_out,
            seed=self.config.design.training.seed,
        )
        folder, rows = self.folder / AUTOENCODER, (self.prepared.training, self.prepared.held_out)
        return None if is_trained(folder, config) else AutoencoderRun(folder, config, self.data, rows, self.device)

    def run(self) -> Run:
        """The run. Raises UsageError where the autoencoder is still to be trained."""
        if self.base:
            latents = self.base.latents(self.codec.shape, self.device)
        else:
            latents = (
                None if self.config.design.latent is None else load_latents(self.folder / AUTOENCODER, self.device)
            )
        return Run(
            self.folder, self.config, self.prepared, self.device, self.watch, latents, self.base, PlanFile.of(self)
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
    device: torch.device | str | None = None,
    watch: Intervals = DEFAULT_INTERVALS,
    download: bool = False,
    latent: int | Path | None = None,
    start: str | Path | None = None,
    tasks: Mapping[str, Degradation] | None = None,
    dataset: Dataset | None = None,
    planned: Design | None = None,
    duplicates: Duplicates | None = None,
) -> Plan:
    """A run in `folder`: new, or to be taken up where it was.

    settings: fields of Design by dotted path, replacing the preset's.   network: unet, transformer, mlp or autoencoder, of a size
    for the data, instead of the preset's.   conditions: by name; the data's classes, where it has any, when None, and {} for an
    unconditional model.   download: whether a text encoder may be fetched.
    latent: how many positions along each axis one latent stands for, or a folder to take the autoencoder from; None for a model of
    the data itself.
    tasks: degradations that the model is trained to restore, by the name of the task, see conditioning/degradations.py.
    start: a run folder or model file whose weights to start from, whose network and latents stay, see fine_tuning.py.
    dataset: what `data` describes, where it is in memory already.   duplicates: its copies, where they are known already.
    planned: the design of a plan, to which the settings are applied, instead of a preset's.
    Raises UsageError where the folder holds a run of another configuration, unless `override` says to go on with the new
    training settings or data.
    """
    for place in (folder, folder / AUTOENCODER):  # before the data is read, which may take long
        refuse_held(place)
    device = usable_device(device)
    settings = dict(settings or {})
    if tasks:
        settings["degradations"] = {name: task.model_dump(mode="json") for name, task in tasks.items()}
    base = load_pretrained(start) if start else None
    if base and any(each is not None for each in (preset, network, latent)):
        raise UsageError(
            "a fine-tuning keeps the network, and the latents, of the model it starts from: leave `preset`, `network` and `latent` out."
        )
    if planned is not None and any(each is not None for each in (preset, network, latent)):
        raise UsageError(
            "a plan says what is trained: edit its design, and leave `preset`, `network` and `latent` out."
        )
    existing = ExistingRun.read(folder)
    if isinstance(existing.config, RunConfig):  # which resized images so, and nobody is asked about it
        data = data.model_copy(update={"exact_resize": existing.config.data.exact_resize})
    source, dataset = _open(data, base) if dataset is None else (data, dataset)
    if base:
        design = fine_tuned_design(base.config, settings, planned)
    elif planned is not None:
        design = changed(planned, settings)
    else:
        cpu = device.type == "cpu"
        rows = None if dataset.table is None else len(dataset)
        design = choose_design(source.source, dataset.shape, settings, preset, cpu, network, latent, rows)
    if design.adapters and base is None:
        raise UsageError(
            "adapters tune weights that were trained before: say whose, by `start`, or leave `adapter_rank` out."
        )
    design = with_end(design, settings)
    declared, dataset = _declared(conditions, dataset, base)
    _refuse_contradictions(design, declared, dataset)
    dataset = without_columns(dataset, [condition.column or name for name, condition in declared.items()])
    design = existing.keep_sampling(design, settings)
    config, prepared = _prepared(source, dataset, design, declared, existing, base, override, download, duplicates)
    whose = None if preset is None and source.source not in PRESETS else f"the preset {preset or source.source}"
    whose = "the plan" if planned is not None else whose
    return Plan(folder, config, prepared, device, watch, base, frozenset(settings), conditions is not None, whose)


def _open(data: DataConfig, base: PretrainedModel | None) -> tuple[DataConfig, Dataset]:
    """The data, and the settings that it is read by. Raises UsageError as `open_data` does."""
    if data.layout is not None and (data.source == "digits" or of_images(data)):
        raise UsageError(
            f"the layout {data.layout} says what the axes of an array are, and {data.source} is none: leave it out."
        )
    return open_for(base.config, data) if base else (data, open_data(data))


def _noted(data: Dataset, *notes: str) -> Dataset:
    """The data with more notes."""
    return replace(data, notes=(*data.notes, *notes)) if notes else data


def _declared(
    conditions: Mapping[str, Condition] | None, data: Dataset, base: PretrainedModel | None
) -> tuple[dict[str, Condition], Dataset]:
    """The conditions as declared, or the data's classes; the data, with a note on columns that are not used."""
    if conditions is None:
        unread = [LENGTH] if data.padded else []
        unused = [name for name in data.columns if name not in (*FILE_COLUMNS, *unread)]
        unused = [] if data.classes or data.table else unused
        if unused:
            data = _noted(
                data,
                f"the model is not conditioned on {', '.join(unused)}: declare conditions, such as the class {unused[0]}, if it should be",
            )
        known = base is not None and "class" in base.config.conditions
        if len(data.classes) == 1 and not known:
            data = _noted(
                data, f"all examples that have a class have the same, {data.classes[0]}, so that is no condition"
            )
        conditions = {"class": Condition(kind="class")} if len(data.classes) > (0 if known else 1) else {}
        conditions |= {LENGTH: Condition(kind="number")} if data.padded else {}
    for name in conditions:
        checked_name(name)
    return declared_for(base.config, conditions) if base else dict(conditions), data


def _refuse_contradictions(design: Design, declared: Mapping[str, Condition], data: Dataset) -> None:
    """Raises UsageError for conditions that do not go with the design, or that the data does not have."""
    _refuse_with_holes(design, declared, data)
    clashing = [name for name in MADE_FROM_X if design.degradations and name in declared]
    if clashing:
        raise UsageError(
            f"training on degradations makes a condition {clashing[0]!r} itself: give yours another name, with {clashing[0]} as its column."
        )
    if design.degradations and design.latent is not None:
        raise UsageError(
            "tasks by training show parts of examples, which latents are not made of: leave `latent` or `degradation` out."
        )
    if data.table is not None and (
        OBJECTIVES[design.training.objective].bound or design.variance_type.startswith("learned")
    ):
        raise UsageError(
            "the bound is of numbers with Gaussian noise, and rows of a table have categories: take the objective simple and a fixed variance."
        )
    refuse_missing(data, {name: (c.kind, c.column or name) for name, c in declared.items()})


def _refuse_with_holes(design: Design, declared: Mapping[str, Condition], data: Dataset) -> None:
    """Raises UsageError for what examples with holes cannot be used for."""
    if data.known is None:
        return
    if KNOWN in declared:
        raise UsageError(
            f"training on examples with holes makes a condition {KNOWN!r} itself: give yours another name, with {KNOWN} as its column."
        )
    if design.latent is not None:
        raise UsageError(
            "numbers are missing in the examples, and an autoencoder needs whole ones: leave `latent` out, or fill them in by 'restore' first."
        )
    if design.degradations:
        raise UsageError(
            "numbers are missing in the examples, and a `degradation` is made from whole ones: leave it out; 'restore' fills holes all the same."
        )


def _prepared(
    source: DataConfig,
    data: Dataset,
    design: Design,
    declared: Mapping[str, Condition],
    existing: ExistingRun,
    base: PretrainedModel | None,
    override: bool,
    download: bool,
    duplicates: Duplicates | None,
) -> tuple[RunConfig, Prepared]:
    """The configuration of the run, and its data made ready. Raises UsageError where the folder holds another run."""
    model, legacy = existing.model, existing.legacy
    rows = hold_out(existing.config, source, data, declared, design.training.seed, duplicates)
    training, data = rows.training, _noted(data, *rows.notes)
    read = {c.column or name for name, c in declared.items()}
    unread = [note for column, note in offers(data) if column not in read]
    data = _noted(data, *unread, *condition_notes(data, declared, training))
    refuse_outside(model, data, source.range)
    of = None if base is None else base.config
    codec = run_codec(data, training, of, model, existing.folder, legacy=legacy)
    if codec.kind == "integer" and data.low is None and model is None and not legacy:
        known = data.known
        if known is not None and known.shape[1] > 1:
            known = colours(known, data.mode)
        text = range_note(colours(data.values, data.mode), codec.low[0], codec.high[0], known)
        data = _noted(data, *([text] if text else []))
    pictures = {c.column or name: CONDITIONS[c.kind].config.pictures for name, c in declared.items()}
    config = RunConfig(
        measured_on="all" if legacy else "training",
        data=source,
        fingerprint=data.fingerprint(),
        examples=len(data),
        split=rows.split,
        design=design,
        conditions=dict(declared),
        start=base.start if base else None,
        fingerprints=fingerprints(data, pictures),
    )
    existing.refuse_other(config, override, existing.changes(data, config))
    degradations = Degradations(design.degradations) if design.degradations else None
    if degradations:
        degradations.check(data.shape)
    conditions = network_conditions(
        data, declared, design, training, of, model, existing.folder, download=download, legacy=legacy
    )
    latents = design.latent is not None or (of is not None and of.latent is not None)
    design.augment.check(data.shape, data.shape[0] - has_alpha(data.mode), latents=latents)
    for name, condition in conditions.items():
        if design.augment.moves and isinstance(condition, ImageConfig):
            _refuse_immovable(name, condition, data)
    values = encode_conditions(data, declared, conditions, existing.folder / CACHE)
    prepared = Prepared(data, training, rows.held_out, codec, declared, conditions, values, degradations, rows.keys)
    prepared.balanced(design.training)
    return config, prepared


def _refuse_immovable(name: str, condition: ImageConfig, data: Dataset) -> None:
    """Raises UsageError for pictures that cannot be moved along with the examples: of other axes, or of another aspect."""
    sizes = condition.shape[1:], data.shape[1:]
    alike = len(sizes[0]) == len(sizes[1]) and len({n / m for n, m in zip(*sizes, strict=True)}) == 1
    if not alike:
        shown = " and ".join("×".join(map(str, size)) for size in sizes)
        raise UsageError(
            f"the pictures {name!r} would have to move along with examples that are augmented, and their sides differ, {shown}: give them the "
            "same proportions, or leave the augmentation out."
        )


def default_name(source: str, start: str | Path | None = None) -> str:
    """The run's name when none is given: the data's, and whose weights it started from."""
    name = Path(os.path.abspath(Path(source).expanduser())).name.lstrip(".").split(".")[0] or "data"
    return f"{name}-from-{Path(start).resolve().name.removesuffix('.safetensors')}" if start else name
