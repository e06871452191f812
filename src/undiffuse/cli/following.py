"""Following a training: its progress bar, and what is told after an interrupt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from undiffuse.runs.progress import Trained, train_to_end

if TYPE_CHECKING:
    from undiffuse.training.loop import Update

INTERRUPTED = 128


def train_with_bar(updates: Iterator[Update], work: Trained, phase: str = "training") -> int | None:
    """Trains to the end; returns the first step that was taken, None where nothing was left to do.

    An interrupt saves, says how to go on, and exits.
    """
    first, signal = train_to_end(updates, work, phase)
    if signal is not None:
        typer.echo(
            f"stopped and saved at step {work.trainer.step} in {work.folder}; the same command goes on from there."
        )
        raise typer.Exit(INTERRUPTED + signal)
    return first
