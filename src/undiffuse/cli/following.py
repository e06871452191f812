"""Following a training: its progress bar, and what an interrupt does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from undiffuse.cli import shared
from undiffuse.training.interrupts import stopping

if TYPE_CHECKING:
    from undiffuse.training.loop import TrainingLoop, Update

INTERRUPTED = 128
SMOOTHING = 0.98  # of the loss that is shown


class Work(Protocol):
    """What is trained in a folder."""

    folder: Path

    @property
    def trainer(self) -> TrainingLoop:
        """The loop that trains it."""

    def save(self) -> None:
        """Writes a checkpoint and what is made of it."""


def _rate(examples: int, seconds: float) -> str:
    """Of the updates after the first one, before which no time was taken."""
    return f"{examples / seconds:,.0f} examples/s" if examples else ""


def followed(updates: Iterator[Update], work: Work, phase: str = "training") -> int | None:
    """Trains to the end; returns the first step that was taken, None where nothing was left to do.

    An interrupt saves, says how to go on, and exits.
    """
    first, spent_before, loss, drawn = None, 0.0, float("nan"), -1.0
    with (
        stopping() as stop,
        shared.progress_bar("{task.fields[rate]}", "loss {task.fields[loss]}", "{task.fields[left]} left") as bar,
    ):
        task = bar.add_task(phase, total=1.0, rate="", loss="…", left="…")
        for update in updates:
            if first is None:
                first, spent_before = update.step, update.seconds
            loss = update.loss if loss != loss else SMOOTHING * loss + (1 - SMOOTHING) * update.loss
            if update.seconds - drawn > 0.2 or update.done >= 1:
                steps, spent = update.step - first + 1, max(update.seconds - spent_before, 1e-3)
                bar.update(
                    task,
                    completed=update.done,
                    loss=f"{loss:.4f}",
                    rate=_rate((steps - 1) * work.trainer.config.batch_size, spent),
                    left=shared.clock(update.seconds * (1 - update.done) / max(update.done, 1e-9)),
                )
                drawn = update.seconds
            if stop:
                work.save()
                break
    if stop:
        typer.echo(
            f"stopped and saved at step {work.trainer.step} in {work.folder}; the same command goes on from there."
        )
        raise typer.Exit(INTERRUPTED + stop[0])
    return first
