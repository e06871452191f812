"""An exponential moving average of the weights, with a warm-up.

    average ← average + (1 - d_n)(weights - average),    d_n = min(decay, (1 + n)/(10 + n))

Early on the average follows the weights instead of dragging the random initial ones along, the cause of averaged
samples that are noise while the raw ones are fine.  Only parameters are averaged: buffers and schedule constants are
not weights, and averaging them corrupts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from undiffuse.training.flat import Flat


class EMA:
    """The average of a module's parameters. The module itself is never written to, except inside `swapped`."""

    def __init__(self, flat: Flat, decay: float = 0.9999) -> None:
        self.decay = decay
        self.updates = 0
        self.flat = flat
        self.buffer = flat.parameter.detach().clone()
        self.values = flat.views(self.buffer)

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the weights of today, one update's share."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.buffer.lerp_(self.flat.parameter, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The module with the averaged weights, inside a `with`; its own weights are back afterwards, come what may.

        Tensors are exchanged, not copied, so nothing is rounded and nothing is lost.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self.flat.named.items():
            parameter.data, self.values[name] = self.values[name], parameter.data

    def load(self, values: dict[str, Tensor], updates: int) -> None:
        """Takes up an average: tensors by the names of the parameters, of their shapes, and the number of updates it is of."""
        for name, value in self.values.items():
            value.copy_(values[name])
        self.updates = updates
