"""How far long work on data is, told to whoever watches: a bar on the command line, nobody otherwise.

What reads data lies below what draws bars and does not know who asked, so the watcher is a variable of the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[str, int], Callable[[int], None]]
"""(what is done, of how many) → what is called with how many are done."""

_WATCHER: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Within it, long work on data is told to the watcher."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)


@contextmanager
def working_on(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Long work on data, such as "decoding"; gives what to call with how many of `total` are done."""
    watcher = _WATCHER.get()
    yield (lambda done: None) if watcher is None else watcher(what, total)
