"""Hooks: what is done between the updates of a training, such as a checkpoint, a preview, or anything of a user's own.

    @Every(steps=100)
    def report(loop, update):
        print(update.step, update.loss)

A hook looks on: it changes nothing of the training.  Update `step` is a function of the weights and of (seed, step), see
loop.py, and `undisturbed` puts back what else a hook may have touched: torch's generators, the mode of the network, and where
its gradients lie.  A hook that raises is reported, after everything that was trained is saved, and training goes on.
"""

from __future__ import annotations

import inspect
import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from undiffuse.conditioning.base import Note
from undiffuse.errors import UsageError
from undiffuse.training.cadence import Cadence
from undiffuse.training.loop import TrainingLoop, Update


@runtime_checkable
class Hook(Protocol):
    """Something that is done between updates: any object with these two methods. `Every` makes one of a function."""

    def due(self, update: Update) -> bool:
        """Whether it is to be called after this update. Asked after every update, so it should be quick."""

    def __call__(self, loop: TrainingLoop, update: Update) -> object:
        """Does it. At the end of training it is called once more, due or not, with `update.done` = 1."""


HookLike = Hook | Callable[[TrainingLoop, Update], object]
"""A hook, or a function (loop, update), which is called after every update."""


class FunctionHook:
    """A hook made of a function by `Every`.   name: what it is called where it fails."""

    def __init__(self, function: Callable[[TrainingLoop, Update], object], cadence: Cadence, name: str) -> None:
        self.function, self.cadence, self.name = function, cadence, name

    def due(self, update: Update) -> bool:
        """As its cadence has it."""
        return self.cadence.due(update.step)

    def __call__(self, loop: TrainingLoop, update: Update) -> object:
        """Calls the function; the time that it takes counts for its cadence."""
        with self.cadence.working():
            return self.function(loop, update)


class Every:
    """How often a function (loop, update) is called, as a decorator or as in Every(seconds=60)(function).

    steps: after updates whose number is a multiple of this.   seconds: not before so long after the last call ended.
    share: in (0, 1], the most of the time that it may take; where it is slow, it is called less often.
    name: what it is called where it fails; that of the function when None.
    Raises UsageError for values outside these ranges.
    """

    def __init__(self, *, steps: int = 1, seconds: float = 0.0, share: float = 1.0, name: str | None = None) -> None:
        if not (isinstance(steps, int) and steps > 0 and seconds >= 0 and 0 < share <= 1):
            raise UsageError(
                f"a hook is called every 1 or more steps, 0 or more seconds, for a share of the time in (0, 1], and not every "
                f"{steps!r} steps, {seconds!r} seconds, for {share!r}."
            )
        self.steps, self.seconds, self.share, self.name = steps, seconds, share, name

    def __call__(self, function: Callable[[TrainingLoop, Update], object]) -> FunctionHook:
        """The hook."""
        cadence = Cadence(self.seconds, self.share, steps=self.steps)
        return FunctionHook(function, cadence, self.name or _name(function))


def at_end(function: Callable[[TrainingLoop, Update], object], name: str | None = None) -> FunctionHook:
    """A hook that is called at the end of training alone."""
    return Every(seconds=math.inf, name=name)(function)


def as_hook(hook: HookLike) -> Hook:
    """A hook as it is, a function as one that is called after every update. Raises UsageError for anything else."""
    if not callable(hook):
        raise UsageError(
            f"a hook is a function (loop, update), as in undiffuse.Every(steps=100)(function), and not {hook!r}."
        )
    try:
        inspect.signature(hook).bind(None, None)
    except TypeError as error:
        raise UsageError(f"the hook {_name(hook)!r} is called as hook(loop, update), and cannot be: {error}.") from None
    except ValueError:  # one without a signature, such as a built-in
        pass
    return hook if isinstance(hook, Hook) else Every()(hook)


class Guarded:
    """A hook whose failures do not end the training.

    checkpoint: called when the hook fails for the first time, before that is reported.
    """

    def __init__(self, hook: Hook, checkpoint: Hook | None) -> None:
        self.hook, self.checkpoint, self.failed = hook, checkpoint, False

    def due(self, update: Update) -> bool:
        """Whether the hook is due; not where it fails to say so."""
        try:
            return self.hook.due(update)
        except Exception as error:
            self._report(error)
            return False

    def __call__(self, loop: TrainingLoop, update: Update) -> None:
        """Calls the hook. Raises nothing but what is no Exception (an interrupt), and what the checkpoint raises."""
        try:
            self.hook(loop, update)
        except Exception as error:
            if self.checkpoint is not None and not self.failed:
                with undisturbed(loop):
                    self.checkpoint(loop, update)
            self.failed = True
            self._report(error)

    def _report(self, error: Exception) -> None:
        saved = "" if self.checkpoint is None else "; all that was trained is saved"
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        warnings.warn(
            f"the hook {_name(self.hook)!r} failed ({type(error).__name__}: {error}; {where}){saved}, and training goes on",
            Note,
            stacklevel=2,
        )


@contextmanager
def undisturbed(loop: TrainingLoop) -> Iterator[None]:
    """Inside a `with`, anybody may look at a training; afterwards it goes on as if nobody had.

    Torch's global generators, whether gradients are recorded, the network in evaluation mode, and its gradients where the loop keeps
    them are as they were.
    """
    devices = [loop.device] if loop.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            yield
        finally:
            loop.learner.module.eval()
            loop.flat.attach()


def _name(hook: Any) -> str:
    """What a hook or a function is called."""
    return str(getattr(hook, "name", None) or getattr(hook, "__name__", None) or type(hook).__name__)
