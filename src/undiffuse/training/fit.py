"""The one driver of a training: updates to the end, and hooks between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from undiffuse.training.hooks import Guarded, Hook, HookLike, as_hook, undisturbed
from undiffuse.training.loop import Batches, TrainingLoop, Update


def fit(
    loop: TrainingLoop, batches: Batches, hooks: Iterable[HookLike] = (), checkpoint: Hook | None = None
) -> Iterator[Update]:
    """Trains to the end, an update at a time; when one is handed out, the hooks that were due after it have been called.

    checkpoint: the hook that saves.  It is called before the others, and when one of these fails for the first time; a failure of its own
    ends the training.
    After the last update every hook is called once with `update.done` = 1, also where nothing was left to train (`update.loss` is NaN then).
    A consumer that stops early should save.
    Raises UsageError for something that is no hook, before the first update.
    """
    guarded = [Guarded(as_hook(hook), checkpoint) for hook in hooks]
    every: list[Hook] = [*guarded] if checkpoint is None else [checkpoint, *guarded]
    return _updates(loop, batches, every)


def _updates(loop: TrainingLoop, batches: Batches, hooks: list[Hook]) -> Iterator[Update]:
    last = Update(loop.step, 1.0, math.nan, math.nan, 0.0, loop.seconds, "fine")
    for update in loop.updates(batches):
        last = update
        if update.done < 1:
            for hook in hooks:
                if hook.due(update):
                    _call(hook, loop, update)
        yield update
        if update.done >= 1:
            break
    for hook in hooks:
        _call(hook, loop, replace(last, done=1.0))


def _call(hook: Hook, loop: TrainingLoop, update: Update) -> None:
    with undisturbed(loop):
        hook(loop, update)
