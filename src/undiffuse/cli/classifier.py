"""undiffuse classifier RUN"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument

from undiffuse.cli import shared
from undiffuse.cli.conditions import declared
from undiffuse.cli.following import train_with_bar
from undiffuse.cli.options import opt
from undiffuse.errors import UsageError

CLASSIFIER_STEPS = 2000


def classifier(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder.")],
    class_: Annotated[
        str | None, opt("Read this class; the run's when left out.", None, "--class", metavar="COLUMN")
    ] = None,
    number: Annotated[str | None, opt("Read this number instead.", metavar="COLUMN")] = None,
    tags: Annotated[str | None, opt("Read these tags instead.", metavar="COLUMN")] = None,
    train_steps: Annotated[int | None, opt(f"Training updates; {CLASSIFIER_STEPS} when neither is given.")] = None,
    budget: Annotated[Any, opt("Train for so long: 90s, 15m.", parse=shared.seconds)] = None,
    batch_size: Annotated[int, opt("Examples per update.")] = 128,
    lr: Annotated[float, opt("Learning rate.")] = 1e-3,
    seed: Annotated[int, opt("Seed of everything random.")] = 0,
    deterministic: Annotated[bool, opt("As of 'undiffuse train'.", None, "--deterministic")] = False,
    device: Annotated[str | None, opt("cpu, cuda, …")] = None,
) -> None:
    """Train a classifier that knows noise on a run's own data and schedule, to guide its samples."""
    from undiffuse.conditioning.columns import condition_notes, with_files
    from undiffuse.config import parsed
    from undiffuse.models.devices import usable_device
    from undiffuse.models.file import load
    from undiffuse.runs.classifier import ClassifierRun, draw_readings, readings_table
    from undiffuse.runs.data import run_data
    from undiffuse.system import as_file_name
    from undiffuse.training.settings import TrainingConfig

    columns = {"class": class_, "number": number, "tags": tags}
    if sum(value is not None for value in columns.values()) > 1:
        raise UsageError("a classifier reads one thing: give one of --class, --number and --tags.")
    found = declared({kind: [value] if value else None for kind, value in columns.items()})
    known = run_data(run, "give a run folder made by 'undiffuse train'")
    if not found and not known.conditions and known.data.labels is None and "class" not in known.data.columns:
        raise UsageError(
            f"{run} is unconditional and its data has no classes: say what to read, as in --class COLUMN or --number COLUMN."
        )
    if not found:
        found = {name: c for name, c in known.conditions.items() if c.kind == "class"} or declared({"class": ["class"]})
    name, target = next(iter(found.items()))
    model, data = load(run), with_files(known.data, found)
    ends = {"steps": CLASSIFIER_STEPS if train_steps is None and budget is None else train_steps, "budget": budget}
    described = {"batch_size": batch_size, "learning_rate": lr, "weight_decay": 0.05, "seed": seed}
    described |= ends | {"deterministic": deterministic}
    training = parsed(TrainingConfig, described, "these settings of the training do not work")
    rows = known.training, known.held_out
    for note in condition_notes(data, {name: target}, rows[0]):
        shared.note(note)
    folder = run / as_file_name(f"classifier-{name}")
    work = ClassifierRun(folder, model.config, model.codec, data, rows, name, target, training, usable_device(device))
    work.check()  # complains before a bar is drawn
    typer.echo(work.description())
    train_with_bar(work.updates(), work)
    readings = work.readings()
    if readings:
        typer.echo(readings_table(readings, target.kind))
        draw_readings(folder / "levels.png", readings, target.kind, name)
    else:
        why = f"no held-out example says what {name} is, so where it can guide is not known"
        typer.echo(f"{why}: hold out more by 'undiffuse train --held-out'")
    typer.echo(f"wrote {folder}/: the classifier, levels.json{', levels.png' if readings else ''}")
    value = {"class": ["--class", "NAME"], "number": ["--number", f"{name}=VALUE"], "tags": ["--tags", f"{name}=NAME"]}
    guided = ["sample", run, "--classifier", folder, "--classifier-scale", 2, *value[target.kind]]
    typer.echo(f"next: {shared.command(*guided)}")
