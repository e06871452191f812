"""Health: what happens when a loss or a gradient stops being a number.

One bad update is skipped: nothing is zeroed and nothing of it reaches the weights.  Three in a row mean that the
weights themselves are past saving: they return to the last snapshot and the learning rate is halved.  After three such
rollbacks the run stops with a diagnosis, and no file has been overwritten with NaN.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from undiffuse.errors import Failure

SKIPS_BEFORE_ROLLBACK = 3
ROLLBACKS_BEFORE_STOP = 3


@dataclass
class Health:
    """Counts updates that were not finite.

    skipped: in all.   in_a_row: since the last finite one.   rollbacks: returns to earlier weights.
    """

    skipped: int = 0
    in_a_row: int = 0
    rollbacks: int = 0

    def check(self, loss: float, gradient_norm: float) -> Literal["fine", "skip", "rollback"]:
        """What to do with an update of this loss and gradient norm. Raises Failure."""
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self.in_a_row = 0
            return "fine"
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row < SKIPS_BEFORE_ROLLBACK:
            return "skip"
        self.in_a_row = 0
        self.rollbacks += 1
        if self.rollbacks > ROLLBACKS_BEFORE_STOP:
            what = "the loss" if not math.isfinite(loss) else "the gradient"
            raise Failure(
                f"training diverged: {what} was not a number {self.skipped} times, also after {ROLLBACKS_BEFORE_STOP} rollbacks to "
                "earlier weights at half the learning rate each. The last good checkpoint is untouched: lower the "
                "`learning_rate`, or look for values far outside the data's range."
            )
        return "rollback"
