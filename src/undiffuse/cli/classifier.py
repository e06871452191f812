"""undiffuse classifier RUN"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from undiffuse.cli import shared
from undiffuse.cli.declaring import declared
from undiffuse.cli.following import train_with_bar
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.runs.classifier import Reading

STEPS = 2000


def classifier(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder.")],
    class_: Annotated[
        str | None, Option("--class", metavar="COLUMN", help="Read this class; the run's when left out.")
    ] = None,
    number: Annotated[str | None, Option("--number", metavar="COLUMN", help="Read this number instead.")] = None,
    tags: Annotated[str | None, Option("--tags", metavar="COLUMN", help="Read these tags instead.")] = None,
    train_steps: Annotated[int | None, Option(help=f"Training updates; {STEPS} when neither is given.")] = None,
    budget: Annotated[
        Any, Option(parser=shared.seconds, metavar="DURATION", help="Train for so long: 90s, 15m.")
    ] = None,
    batch_size: Annotated[int, Option(help="Examples per update.")] = 128,
    lr: Annotated[float, Option(help="Learning rate.")] = 1e-3,
    seed: Annotated[int, Option(help="Seed of everything random.")] = 0,
    deterministic: Annotated[bool, Option("--deterministic", help="As of 'undiffuse train'.")] = False,
    device: Annotated[str | None, Option(help="cpu, cuda, …")] = None,
) -> None:
    """Train a classifier that knows noise on a run's own data and schedule, to guide its samples."""
    from undiffuse.conditioning.columns import condition_notes, with_files
    from undiffuse.config import parsed
    from undiffuse.models.devices import usable_device
    from undiffuse.models.file import load
    from undiffuse.runs.classifier import ClassifierRun
    from undiffuse.runs.data import run_data
    from undiffuse.system import as_file_name
    from undiffuse.training.settings import TrainingConfig

    asked = {"class": class_, "number": number, "tags": tags}
    if sum(value is not None for value in asked.values()) > 1:
        raise UsageError("a classifier reads one thing: give one of --class, --number and --tags.")
    found = declared({kind: [value] if value else None for kind, value in asked.items()})
    known = run_data(run, "give a run folder made by 'undiffuse train'")
    if not found and not known.conditions and known.data.labels is None and "class" not in known.data.columns:
        raise UsageError(
            f"{run} is unconditional and its data has no classes: say what to read, as in --class COLUMN or --number COLUMN."
        )
    if not found:
        found = {name: c for name, c in known.conditions.items() if c.kind == "class"} or declared({"class": ["class"]})
    name, target = next(iter(found.items()))
    model, data = load(run), with_files(known.data, found)
    described = {
        "steps": STEPS if train_steps is None and budget is None else train_steps,
        "budget": budget,
        "batch_size": batch_size,
        "learning_rate": lr,
        "seed": seed,
        "weight_decay": 0.05,
        "deterministic": deterministic,
    }
    training = parsed(TrainingConfig, described, "these settings of the training do not work")
    rows = known.training, known.held_out
    for note in condition_notes(data, {name: target}, rows[0]):
        shared.note(note)
    folder = run / as_file_name(f"classifier-{name}")
    work = ClassifierRun(folder, model.config, model.codec, data, rows, name, target, training, usable_device(device))
    work.check()  # complains before a bar is drawn
    parameters = work.trainer.flat.parameter.numel()
    what = name if name == target.kind else f"{target.kind} {name}"
    typer.echo(f"classifier {folder}: reads {what} off {len(rows[0]):,} noisy examples, {parameters:,} parameters")
    train_with_bar(work.updates(), work)
    readings = work.readings()
    for line in _table(readings, target.kind):
        typer.echo(line)
    if not readings:
        typer.echo(
            f"no held-out example says what {name} is, so where it can guide is not known: hold out more by 'undiffuse train --held-out'"
        )
    written = "the classifier, levels.json"
    if readings:
        _draw(folder, readings, target.kind, name)
        written += ", levels.png"
    typer.echo(f"wrote {folder}/: {written}")
    value = {"class": ["--class", "NAME"], "number": ["--number", f"{name}=VALUE"], "tags": ["--tags", f"{name}=NAME"]}[
        target.kind
    ]
    typer.echo(f"next: {shared.command('sample', run, '--classifier', folder, '--classifier-scale', 2, *value)}")


def _table(readings: list[Reading], kind: str) -> list[str]:
    score = "R²" if kind == "number" else "accuracy"
    lines = [f"{'σ/α':>9} {score:>9} {'± error':>9} {'chance':>8}"] if readings else []
    for r in readings:
        said = "can guide" if r.can_guide else "not surely better than chance"
        lines.append(f"{r.ratio:9.3g} {r.score:9.3f} {r.error:9.3f} {r.chance:8.3f}   {said}")
    useful = [r.ratio for r in readings if r.can_guide]
    if useful:
        lines.append(f"it can guide where σ/α is {min(useful):.3g} to {max(useful):.3g}")
    elif readings:
        lines.append(
            "it reads nothing at any noise level: train it for longer, or look whether the data says anything of this"
        )
    return lines


def _draw(folder: Path, readings: list[Reading], kind: str, name: str) -> None:
    from undiffuse.pictures.levels import readings as draw

    columns = zip(*((r.ratio, r.score, r.error, r.chance, r.can_guide) for r in readings), strict=True)
    ratio, score, error, chance, guides = (list(column) for column in columns)
    what = "R²" if kind == "number" else "accuracy"
    draw(
        folder / "levels.png",
        ratio,
        score,
        error,
        chance,
        guides,
        what,
        f"What the classifier reads of {name!r} off noisy examples",
    )
