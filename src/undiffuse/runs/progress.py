"""Training to the end: its progress bar, and what an interrupt does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from undiffuse.training.interrupts import stopping

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from undiffuse.training.loop import TrainingLoop, Update

SMOOTHING = 0.98  # of the loss that is shown
STEPS_COLUMN = "{task.fields[text]}"
REDRAWN = 0.2  # seconds after which a bar is drawn anew
LONG = 1.0  # seconds, from which work on data has a bar


class Trained(Protocol):
    """What is trained in a folder: a run, an autoencoder or a classifier."""

    folder: Path

    @property
    def loop(self) -> TrainingLoop:
        """Its weights, optimizer and step."""

    def save(self) -> None:
        """Writes a checkpoint and the model file."""


def train_to_end(
    updates: Iterator[Update], work: Trained, phase: str = "training", progress: bool = True
) -> tuple[int | None, int | None]:
    """Trains to the end; an interrupt ends the update that is under way and saves.

    phase: what the bar is called.   progress: whether to show one, on the terminal.
    Returns (the first step that was done, the signal that interrupted it), each None where there was none.
    """
    first = None
    with stopping() as stop, training_bar(work.loop.config.batch_size, phase) if progress else nullcontext() as show:
        for update in updates:
            first = update.step if first is None else first
            if show is not None:
                show(update)
            if stop:
                work.save()
                break
    return first, stop[0] if stop else None


@contextmanager
def training_bar(batch_size: int, phase: str) -> Iterator[Callable[[Update], None]]:
    """A bar of a training, as what is to be called with every update: examples a second, the loss and the time left.

    batch_size: examples of an update.
    """
    first, spent_before, loss, drawn = 0, 0.0, float("nan"), -1.0
    with progress_bar("{task.fields[rate]}", "loss {task.fields[loss]}", "{task.fields[left]} left") as bar:
        task = bar.add_task(phase, total=1.0, rate="", loss="…", left="…")

        def show(update: Update) -> None:
            nonlocal first, spent_before, loss, drawn
            if not first:
                first, spent_before = update.step, update.seconds
            loss = update.loss if loss != loss else SMOOTHING * loss + (1 - SMOOTHING) * update.loss
            if update.seconds - drawn > REDRAWN or update.done >= 1:
                examples, spent = (update.step - first) * batch_size, max(update.seconds - spent_before, 1e-3)
                bar.update(
                    task,
                    completed=update.done,
                    loss=f"{loss:.4f}",
                    rate=f"{examples / spent:,.0f} examples/s" if examples else "",
                    left=clock(update.seconds * (1 - update.done) / max(update.done, 1e-9)),
                )
                drawn = update.seconds

        yield show


@contextmanager
def progress_bar(*columns: str) -> Iterator[Progress]:
    """A bar with its phase, the share done, the given fields and the time left."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        *(TextColumn(column) for column in columns),
        transient=False,
    ) as bar:
        try:
            yield bar
        finally:
            for task in bar.tasks:
                if not task.completed:  # refused, or nothing to do: no bar of nothing stays
                    bar.remove_task(task.id)


@contextmanager
def data_bars() -> Iterator[None]:
    """Within it, work on data that is long has a bar each."""
    from undiffuse.data.watching import watched_by

    with progress_bar("{task.fields[left]}") as bar:

        def watcher(what: str, total: int) -> Callable[[int], None]:
            began = time.monotonic()
            task: list[TaskID] = []

            def done(count: int) -> None:
                spent = time.monotonic() - began
                if not task and spent > LONG and count < total:
                    task.append(bar.add_task(what, total=total, left=""))
                for each in task:
                    left = f"{clock(spent * (total - count) / max(count, 1))} left" if count < total else ""
                    bar.update(each, completed=count, left=left)

            return done

        with watched_by(watcher):
            yield


def steps_shown(bar: Progress, what: str, each: int | None = None) -> Callable[[int, int], None]:
    """Another line of a bar with the column STEPS_COLUMN, as what is to be called with (steps done, steps in all).

    each: steps of one batch, where there may be several: those of the batch are shown, and which batch it is.
    """
    task = bar.add_task(what, total=1, text="")

    def update(done: int, total: int) -> None:
        text, batches = f"{done} of {total} steps", total // (each or total)
        if each and batches > 1:
            batch = max(1, -(-done // each))
            text = f"{done - each * (batch - 1)} of {each} steps, batch {batch} of {batches}"
        bar.update(task, completed=done, total=total, text=text)

    return update


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def time_beside(within: tuple[float, float], whole: tuple[float, float]) -> str:
    """What saving and drawing took: seconds within the time of training, and in all; what is done at the end lies outside that time."""
    parts = list(zip(within, whole, ("saving", "drawing"), strict=True))
    inside = ", ".join(f"{clock(spent)} {what}" for spent, _, what in parts if round(spent))
    after = ", ".join(f"{clock(all_ - spent)} {what}" for spent, all_, what in parts)
    return (f" ({inside} of it)" if inside else "") + f", and {after} besides, at the end"
