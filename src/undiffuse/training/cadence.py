"""Cadence: when work beside training (a checkpoint, a preview, a hook of anybody's) is due.

It is due `seconds` after the last one ENDED, and later where it takes long: with w the seconds that the last one took, not
before w (1 - share)/share seconds of training have gone by, so that it never takes more than `share` of the time,

    w / (w + w (1 - share)/share) = share.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from undiffuse.errors import UsageError

SHARE = 0.05  # of the time, for each kind of work
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(duration: float | str) -> float:
    """ "90s", "15m", "2h", "1.5d", or a number of seconds → seconds. Raises UsageError for anything else, and for less than nothing."""
    if isinstance(duration, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", duration.strip())
        found = float(match[1]) * UNITS[match[2]] if match else math.nan
    else:
        found = float(duration) if isinstance(duration, int | float) else math.nan
    if not 0 < found < math.inf:
        raise UsageError(
            f"{duration!r} is no duration: write one like 90s, 15m, 2h or 1d, or a number of seconds above 0."
        )
    return found


class Cadence:
    """When work is due, and how long all of it has taken, `spent` in seconds.

    seconds: from the end of one piece of work to the beginning of the next.   share: in (0, 1], the most of the time it may take.
    clock: seconds, always growing.   steps: it is due only after updates whose number is a multiple of this.
    """

    def __init__(
        self, seconds: float = 0.0, share: float = SHARE, clock: Callable[[], float] = time.monotonic, steps: int = 1
    ) -> None:
        self.seconds, self.share, self.clock, self.steps = seconds, share, clock, steps
        self.spent, self._last, self._ended = 0.0, 0.0, clock()

    def due(self, step: int = 0) -> bool:
        """Whether it is time for the next piece of work.   step: how many updates are done."""
        if step % self.steps:
            return False
        return self.clock() - self._ended >= max(self.seconds, self._last * (1 - self.share) / self.share)

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
