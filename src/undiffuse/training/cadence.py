"""Cadence: when work beside training (a checkpoint, a preview) is due.

It is due `every` seconds after the last one ENDED, and later where it takes long: with w the seconds that the last one took, not
before w (1 - share)/share seconds of training have gone by, so that it never takes more than `share` of the time,

    w / (w + w (1 - share)/share) = share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SHARE = 0.05  # of the time, for each kind of work


class Cadence:
    """every: seconds between the end of one piece of work and the beginning of the next.   share: in (0, 1], the most of the time it may take.

    clock: seconds, always growing.   `spent` says how long all work has taken.
    """

    def __init__(self, every: float, share: float = SHARE, clock: Callable[[], float] = time.monotonic) -> None:
        self.every, self.share, self.clock = every, share, clock
        self.spent, self._last, self._ended = 0.0, 0.0, clock()

    @property
    def due(self) -> bool:
        """Whether it is time for the next piece of work."""
        return self.clock() - self._ended >= max(self.every, self._last * (1 - self.share) / self.share)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside a `with`, the work is done; its time counts also where it fails."""
        began = self.clock()
        try:
            yield
        finally:
            self._ended = self.clock()
            self._last = self._ended - began
            self.spent += self._last


@dataclass(frozen=True)
class Intervals:
    """How often a run writes a checkpoint and a grid of samples. Changes nothing of the run.

    checkpoint, preview: seconds from the end of one to the beginning of the next.   share: the most of the time that each of the two may
    take; where they are slow they are rarer.
    """

    checkpoint: float = 120.0
    preview: float = 60.0
    share: float = SHARE


DEFAULT_INTERVALS = Intervals()
