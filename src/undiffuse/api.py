"""What `import undiffuse` offers to train and to measure: the rooms wired together for Python."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch

from undiffuse.conditioning.base import Note
from undiffuse.conditioning.degradations import training_tasks
from undiffuse.conditioning.spec import Condition
from undiffuse.config import parsed
from undiffuse.data.config import DataConfig, share_or_count, sides
from undiffuse.data.dataset import Dataset
from undiffuse.data.items import as_dataset
from undiffuse.data.sources import HANDED_OVER, with_settings
from undiffuse.errors import UsageError
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.runs.choose_design import design_settings
from undiffuse.runs.folder import CONFIG
from undiffuse.runs.plan_file import PlanFile
from undiffuse.runs.prepare import Plan, default_name, prepare
from undiffuse.runs.progress import Trained, data_bars, train_to_end
from undiffuse.system import inside
from undiffuse.training.cadence import DEFAULT_INTERVALS, Intervals, parse_duration
from undiffuse.training.hooks import HookLike, as_hook
from undiffuse.training.loop import Update
from undiffuse.training.overrides import TrainingOverrides, training_paths

_log = logging.getLogger("undiffuse")


def train(
    data: Any = None,
    *,
    plan: str | Path | None = None,
    name: str | None = None,
    runs: str | Path = "runs",
    resume: bool | None = None,
    preset: str | None = None,
    network: str | None = None,
    schedule: str | None = None,
    prediction: str | None = None,
    variance_type: str | None = None,
    settings: Mapping[str, Any] | None = None,
    conditions: Mapping[str, Condition] | None = None,
    condition_dropout: float | None = None,
    table: str | Path | None = None,
    start: str | Path | None = None,
    adapter_rank: int | None = None,
    latent: int | str | Path | None = None,
    latent_steps: int | None = None,
    latent_budget: float | str | None = None,
    degradation: str | None = None,
    upscale_factor: int | None = None,
    augment: str | None = None,
    augment_probability: float | None = None,
    size: int | tuple[int, int] | None = None,
    fit: str | None = None,
    channels: str | None = None,
    variable: str | None = None,
    layout: str | None = None,
    range: tuple[float, float] | None = None,
    max_pixels: int | None = None,
    shrink: int | None = None,
    complex: bool | None = None,
    columns: Mapping[str, str] | None = None,
    relations: Sequence[str] = (),
    nodata: float | None = None,
    missing: str | Path | None = None,
    group: str | None = None,
    held_out: float | None = None,
    device: torch.device | str | None = None,
    change_settings: bool = False,
    download: bool = False,
    checkpoint_every: float | str = DEFAULT_INTERVALS.checkpoint,
    preview_every: float | str = DEFAULT_INTERVALS.preview,
    hooks: Iterable[HookLike] = (),
    progress: bool = False,
    **training: Unpack[TrainingOverrides],
) -> Model:
    """Trains on `data` in runs/<name> and returns the model; the same call again resumes. An interrupt (Ctrl-C) saves first.

    data: "digits", a folder of images, a .csv naming them, or a .npy, .npz or idx.gz file; or data in memory: an array, a tensor, or anything
    with a length whose items are read by their number, such as a list or a torch Dataset (data/items.py); the plan's when left out.
    plan: a plan.json to follow, as `undiffuse inspect` writes it; what else is given wins over it.
    name: of the run, the data's when left out.   runs: the folder of run folders.
    resume: True to go on with a run that is there, False to begin a new one, None for whichever it is.
    training: fields of TrainingConfig, such as steps=2000, budget="90s", batch_size=64, learning_rate=3e-4 or precision="bf16".

    Model. preset: such as "ddpm_cifar10".   network: "unet", "transformer", "mlp" or "autoencoder", of a size for the data.   schedule,
    prediction, variance_type: by name, in place of the preset's.   settings: any other field of Design by dotted path, such as
    {"schedule.beta_end": 0.01, "network.width": 64}.
    start: a run folder or model file whose weights to start from (fine-tuning).   adapter_rank: the rank of low-rank adapters to train instead.
    latent: to diffuse in an autoencoder's latents: 2, 4 or 8 positions along each axis in one, or a folder to take it from.
    latent_steps, latent_budget: updates, or the time, of the training of that autoencoder; a third of the budget when left out.

    Conditions. conditions: such as {"age": Condition(kind="number")}; the data's classes when None, and {} for an unconditional model.
    condition_dropout: the share of examples, from 0 to less than 1, whose conditions are left out in training.   table: a .csv, .tsv or
    .jsonl with more columns.   download: whether a text encoder may be fetched.
    degradation: what to restore, such as "inpaint,upscale:4,denoise".   upscale_factor: train a second stage that enlarges so many times.

    Small data. augment: changes of training examples, such as "shift,flip,rotate:15,scale:0.1,colour:0.1", which the model is told so that
    samples show none of them, or "mirror", which it is not told (data/augmentation.py); none but the preset's when left out.
    augment_probability: of each, 0.12 when left out.

    Data. size: to resize images to, one side or (height, width).   fit: how: "crop", "pad" or "stretch".   channels: "grey", "rgb" or
    "rgba".   variable: the array of a file of several, or "a,b" as channels.   layout: the axes of an array, such as "NHWC".
    range: the values of black and white, where it shall not be found from the values.
    max_pixels: open images of up to so many, beyond the limit that protects from harmful files.   shrink: average blocks of so many values
    along each axis.   complex: read complex numbers as two channels each, real and imaginary part.
    columns: of a table whose rows are the data, what columns are, where that is not found out, such as {"zip": "category"}.
    relations: what holds in every row of it, such as ["start < end", "total = a + b"].
    nodata: a value that means missing, as NaN always does.   missing: masks of what is missing, a folder of images or arrays named as the
    examples are, or one array (data/holes.py).
    held_out: for validation, a share of the examples below 1, or a whole number of them.   group: a column whose equal
    values stay together, in training or held out.

    Course. device: such as "cuda".   change_settings: go on in a folder of other training settings.   checkpoint_every, preview_every: as budget.
    hooks: called between updates, see training/hooks.py.   progress: show a progress bar.  The logger "undiffuse" has what happens.

    What reading the data decided comes as warnings, class Note.  Raises UsageError for anything that cannot be used, Failure where another
    process trains in the folder.
    """
    hooks = [as_hook(hook) for hook in hooks]
    file = None if plan is None else PlanFile.read(Path(plan))
    if file is not None:
        data, start = file.data.source if data is None else data, start or file.start
    source, dataset = _data(
        data,
        {} if file is None else file.data.model_dump(mode="json"),
        table=None if table is None else str(table),
        size=None if size is None else sides(size),
        fit=fit,
        channels=channels,
        variable=variable,
        layout=layout,
        range=range,
        max_pixels=max_pixels,
        shrink=shrink,
        complex=complex,
        columns=None if columns is None else dict(columns),
        relations=tuple(relations) or None,
        nodata=None if nodata is None else float(nodata),
        missing=None if missing is None else str(missing),
        group=group,
        held_out=None if held_out is None else share_or_count(held_out),
    )
    chosen = _settings(
        settings, training, {"schedule.name": schedule, "prediction": prediction, "variance_type": variance_type}
    )
    place = _latent(latent)
    prepared = partial(
        prepare,
        source,
        _folder(inside(Path(runs), name or _name(data, start)), resume),
        dataset=dataset,
        settings=design_settings(
            chosen,
            condition_dropout=condition_dropout,
            adapter_rank=adapter_rank,
            latent=place,
            latent_steps=latent_steps,
            latent_budget=latent_budget,
            augment=augment,
            augment_probability=augment_probability,
        ),
        preset=preset,
        network=network,
        conditions=file.conditions if conditions is None and file is not None else _declared(conditions),
        latent=place,
        start=start,
        tasks=training_tasks(degradation, upscale_factor),
        override=change_settings,
        device=device,
        download=download,
        watch=Intervals(parse_duration(checkpoint_every), parse_duration(preview_every)),
        planned=None if file is None else file.design,
    )
    with data_bars() if progress else nullcontext():
        work = prepared()
    return _trained(work, hooks, progress, device)


def _data(data: Any, planned: Mapping[str, Any], **described: Any) -> tuple[DataConfig, Dataset | None]:
    """What a run's configuration says of the data; the data itself where it is in memory.   planned: what a plan says of it."""
    if data is None:
        raise UsageError(
            'say what to train on, such as undiffuse.train("photos"), or undiffuse.train(plan="plan.json").'
        )
    kind = type(data).__name__
    in_file = isinstance(data, str | Path)
    source = {"source": str(data) if in_file else f"{HANDED_OVER}{kind}"}
    content = {**planned, **source, **{name: value for name, value in described.items() if value is not None}}
    config = parsed(DataConfig, content, "these settings of the data do not work")
    if in_file:
        return config, None
    return config, with_settings(
        as_dataset(data, kind, layout=config.layout, parts=config.complex, config=config), config
    )


def _name(data: Any, start: str | Path | None) -> str:
    """Of a run that is given none."""
    return default_name(str(data), start) if isinstance(data, str | Path) else type(data).__name__.lower()


def _folder(folder: Path, resume: bool | None) -> Path:
    """The run's folder. Raises UsageError where a run is, or is not, there against `resume`."""
    there = (folder / CONFIG).exists()
    if resume is not None and resume != there:
        raise UsageError(
            f"{folder} holds no run to resume: leave resume out, or give the name of one."
            if resume
            else f"{folder} holds a run: give another name, or leave resume out to go on with it."
        )
    return folder


def _settings(
    settings: Mapping[str, Any] | None, training: Mapping[str, Any], named: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings of a Design by dotted path."""
    if not isinstance(settings, Mapping | None):
        raise UsageError(f"settings are given by dotted path, as {{'prediction': 'epsilon'}}, and not as {settings!r}.")
    chosen = training_paths(training, train) | {path: value for path, value in named.items() if value is not None}
    return chosen | dict(settings or {})


def _declared(conditions: Mapping[str, Condition] | None) -> Mapping[str, Condition] | None:
    """The conditions. Raises UsageError for anything but a mapping from names to Condition."""
    if conditions is None or (
        isinstance(conditions, Mapping) and all(isinstance(each, Condition) for each in conditions.values())
    ):
        return conditions
    raise UsageError(
        f"conditions are declared by name, as {{'age': undiffuse.Condition(kind='number')}}, and not as {conditions!r}."
    )


def _latent(latent: object) -> int | Path | None:
    """The factor or the folder of an autoencoder."""
    if not isinstance(latent, int | str | Path | None):
        raise UsageError(f"latent is 2, 4 or 8, or the folder of an autoencoder, and not {latent!r}.")
    return Path(latent) if isinstance(latent, str) else latent


def _trained(plan: Plan, hooks: Sequence[HookLike], progress: bool, device: torch.device | str | None) -> Model:
    """Trains what is planned, and loads the model."""
    for note in plan.data.notes:
        warnings.warn(note, Note, stacklevel=3)
    first = plan.autoencoder()
    if first is not None:
        _log.info(first.description())
        _finish(first, first.updates(), "autoencoder", progress)
    run = plan.run()
    _log.info(run.description())
    first_step = _finish(run, run.updates(hooks), "training", progress)
    _log.info("trained %d steps in %.1f seconds; %s", run.loop.step, run.loop.seconds, run.measurements.verdict())
    if first_step is None:
        _log.info("this run is already trained for that long: give more steps, or a larger budget, to go on")
    return load(run.folder, device)


def _finish(work: Trained, updates: Iterator[Update], phase: str, progress: bool) -> int | None:
    """Trains to the end; returns the first step that was done. An interrupt saves and then acts as usual."""
    first, signal_ = train_to_end(updates, work, phase, progress)
    if signal_ is not None:
        _log.warning(
            "stopped and saved at step %d in %s; the same call goes on from there", work.loop.step, work.folder
        )
        signal.raise_signal(signal_)
    return first
