"""A training in a folder, from its newest checkpoint to its end, saving on the way: what autoencoders and classifiers share.

A run of a diffusion model writes metrics and pictures between updates too, and has its own (run.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from undiffuse.training import checkpoints
from undiffuse.training.cadence import Cadence
from undiffuse.training.loop import Batches, TrainingLoop, Update


def fit(
    trainer: TrainingLoop, batches: Batches, state: Path, save: Callable[[], None], every: float
) -> Iterator[Update]:
    """Trains to the end, resuming from the newest checkpoint in `state`.   save: called every so many seconds, and at the end.

    A consumer that stops early should save.
    """
    found = checkpoints.newest(state)
    if found:
        trainer.resume(*found)
    saving = Cadence(every)
    for update in trainer.updates(batches):
        yield update
        if saving.due and update.done < 1:
            with saving.working():
                save()
    save()
