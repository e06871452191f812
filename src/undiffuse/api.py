"""What `import undiffuse` offers: the rooms wired together for Python."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from undiffuse.conditioning.base import Note
from undiffuse.conditioning.degradations import parse_tasks
from undiffuse.conditioning.spec import Condition
from undiffuse.config import parsed
from undiffuse.data.sources import DataConfig, share_or_count, sides
from undiffuse.errors import UsageError
from undiffuse.models.devices import usable_device
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.runs.prepare import default_name, prepare
from undiffuse.system import inside
from undiffuse.training.cadence import DEFAULT_INTERVALS, Intervals
from undiffuse.training.interrupts import stopping
from undiffuse.training.loop import Update


def train(
    data: str | Path,
    *,
    name: str | None = None,
    runs: str | Path = "runs",
    settings: Mapping[str, Any] | None = None,
    preset: str | None = None,
    network: str | None = None,
    conditions: Mapping[str, Condition] | None = None,
    table: str | None = None,
    latent: int | str | Path | None = None,
    start: str | Path | None = None,
    adapters: int | None = None,
    tasks: str | None = None,
    size: int | tuple[int, int] | None = None,
    fit: str = "crop",
    channels: str | None = None,
    layout: str | None = None,
    range: tuple[float, float] | None = None,
    max_pixels: int | None = None,
    shrink: int | None = None,
    held_out: float | None = None,
    device: torch.device | str | None = None,
    override: bool = False,
    download: bool = False,
    checkpoint_every: float = DEFAULT_INTERVALS.checkpoint,
    preview_every: float = DEFAULT_INTERVALS.preview,
    **training: Any,
) -> Model:
    """Trains on `data` in runs/<name> and returns the model; the same call again resumes. An interrupt (Ctrl-C) saves.

    training: fields of TrainingConfig, such as steps=2000, budget=90.0 or learning_rate=3e-4.
    settings: any other field of Design by dotted path, such as {"prediction": "epsilon"}.   network: see `prepare`.
    conditions: such as {"age": Condition(kind="number")}; the data's classes when left out.   table: see DataConfig.
    start: a run folder or model file whose weights to start from.   adapters: the rank of low-rank adapters to train instead of these.
    tasks: to make examples of what is left of them, such as "inpaint,upscale:4,denoise".
    latent: to diffuse in an autoencoder's latents: 2, 4 or 8 positions along each axis in one, or a folder to take it from.
    size: to resize images to, one side or (height, width).   fit: how: crop, pad or stretch.   channels: grey, rgb or rgba.
    layout: the axes of an array, such as "NHWC".   range: what whole numbers black and white are, where the values shall not say it.
    max_pixels: open images of up to so many, beyond the limit that protects from harmful files.
    shrink: average blocks of so many values along each axis.
    held_out: for validation, a share of the examples below 1, or a whole number of them.   device: such as "cuda".
    override: go on in a folder of other training settings.   download: whether a text encoder may be fetched.
    checkpoint_every, preview_every: seconds of training.

    What reading the data decided is said in warnings, class Note.  Raises UsageError for anything that cannot be used.
    """
    if not isinstance(data, str | Path):
        raise UsageError(
            f"data are named by where they lie, and this is a {type(data).__name__}: write them to a file, as by numpy.savez('data.npz', x=…, y=…), "
            "and give its name."
        )
    _refuse_undeclared(conditions)
    if not isinstance(settings, Mapping | None):
        raise UsageError(f"settings are given by dotted path, as {{'prediction': 'noise'}}, and not as {settings!r}.")
    chosen = {f"training.{key}": value for key, value in training.items()} | dict(settings or {})
    if adapters is not None:
        chosen = {"adapters": {"rank": adapters}} | chosen
    if "steps" in training and "budget" not in training:
        chosen["training.budget"] = None
    described_ = {
        "source": str(data),
        "table": None if table is None else str(table),
        "size": None if size is None else sides(size),
        "fit": fit,
        "channels": channels,
        "layout": layout,
        "range": range,
        "max_pixels": max_pixels,
        "shrink": shrink,
        **({} if held_out is None else {"held_out": share_or_count(held_out)}),
    }
    source = parsed(DataConfig, described_, "these settings of the data do not work")
    if not isinstance(latent, int | str | Path | None):
        raise UsageError(f"latent is 2, 4 or 8, or the folder of an autoencoder, and not {latent!r}.")
    factor, autoencoder = (
        (latent, None) if isinstance(latent, int) else (None, None if latent is None else Path(latent))
    )
    plan = prepare(
        source,
        inside(Path(runs), name or default_name(str(data), start)),
        settings=chosen,
        preset=preset,
        network=network,
        conditions=conditions,
        factor=factor,
        autoencoder=autoencoder,
        start=start,
        tasks=parse_tasks(tasks) if tasks else None,
        override=override,
        device=usable_device(device),
        download=download,
        watch=Intervals(checkpoint_every, preview_every),
    )
    for note in plan.data.notes:
        warnings.warn(note, Note, stacklevel=2)
    first = plan.autoencoder()
    if first is not None:
        _finished(first.updates(), first.save)
    run = plan.run()
    _finished(run.updates(), run.save)
    return load(run.folder, device)


def _refuse_undeclared(conditions: object) -> None:
    """Raises UsageError for conditions that are no mapping from names to Condition."""
    if conditions is None or (
        isinstance(conditions, Mapping) and all(isinstance(each, Condition) for each in conditions.values())
    ):
        return
    raise UsageError(
        f"conditions are declared by name, as {{'age': undiffuse.Condition(kind='number')}}, and not as {conditions!r}."
    )


def _finished(updates: Iterator[Update], save: Callable[[], None]) -> None:
    """Trains to the end. An interrupt ends the update that is under way, saves, and then acts as usual."""
    with stopping() as stop:
        for _ in updates:
            if stop:
                save()
                break
    if stop:
        signal.raise_signal(stop[0])
