"""Following a training: its progress bar, and what is printed after an interrupt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from undiffuse.cli import shared
from undiffuse.runs.progress import Trained, clock, time_beside, train_to_end

if TYPE_CHECKING:
    from undiffuse.runs.autoencoder import AutoencoderRun
    from undiffuse.runs.diffusion import Run
    from undiffuse.training.loop import Update

INTERRUPTED = 128
WRITTEN = ("metrics.jsonl", "samples/", "condition_sensitivity.png", "adapters/")


def train_with_bar(updates: Iterator[Update], work: Trained, phase: str = "training") -> int | None:
    """Trains to the end; returns the first step that was taken, None where nothing was left to do.

    An interrupt saves, says how to go on, and exits.
    """
    first, signal = train_to_end(updates, work, phase)
    if signal is not None:
        step = work.loop.step
        typer.echo(f"stopped and saved at step {step} in {work.folder}; the same command goes on from there.")
        raise typer.Exit(INTERRUPTED + signal)
    return first


def follow(run: Run) -> None:
    """Trains with a progress bar; says where everything is, first and last."""
    from undiffuse.models.file import MODEL_FILE

    typer.echo(run.description())
    for line in [] if run.plan is None else run.plan.lines():
        typer.echo(f"  {line}")
    within = (0.0, 0.0)

    def watched() -> Iterator[Update]:
        nonlocal within
        for update in run.updates():
            within = run.spent
            yield update

    first = train_with_bar(watched(), run)
    besides = time_beside(within, run.spent) if first else ""
    if first is None:
        typer.echo("this run is already trained for that long: give more --train-steps or --budget to go on.")
    resumed, ended = "resumed; " if first and first > 1 else "", run.measurements.verdict()
    steps = f"{run.loop.step:,} step{'s' * (run.loop.step != 1)}"
    typer.echo(f"{resumed}trained {steps} in {clock(run.loop.seconds)}{besides}; {ended}")
    named = {"the model": MODEL_FILE} | {name: name for name in WRITTEN}
    written = [name for name, path in named.items() if (run.folder / path).exists()]
    typer.echo(f"wrote {run.folder}/: {', '.join(written)}")
    stages = [task for task in run.config.design.degradations.values() if task.kind == "upscale" and task.noise[1]]
    if stages:
        enlarge = shared.command("sample", "BASE", "--upscaler", run.folder)
        typer.echo(f"next: {enlarge}  for a BASE of examples {stages[0].factor} times smaller")
    else:
        following = ["restore", run.folder, "data:0", "--simulate"] if run.tasks else ["sample", run.folder]
        typer.echo(f"next: {shared.command(*following)}")


def follow_autoencoder(work: AutoencoderRun) -> None:
    """Trains the autoencoder of a run of latents; says what it leaves to reach."""
    from undiffuse.evaluation.autoencoder import reconstruction_quality

    typer.echo(work.description())
    if work.pretrained:
        list(work.updates())  # none: its latents are measured
    else:
        train_with_bar(work.updates(), work, "autoencoder")
    typer.echo(reconstruction_quality(work).description())
