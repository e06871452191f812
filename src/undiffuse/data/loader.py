"""The loader: which examples make up which batch, as a function of (seed, step) alone.

Batch `step` takes positions step·B … step·B + B - 1 of an endless sequence of epochs, each a permutation of the data
drawn from (seed, epoch), or what balancing makes of one (balancing.py).  No state, so a resumed run gets exactly the batches
it would have had, nothing is skipped at the end of an epoch, and the global order does not depend on who reads which part of a batch.

What is too large to be kept encoded is read from its array, which may lie on disk, while the step before is computed: a thread
of its own gathers the next AHEAD batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from undiffuse.data.balancing import BalancedOrder
from undiffuse.data.codec import Codec
from undiffuse.data.dataset import Dataset
from undiffuse.rng import GeneratorStream, permuted

FLOAT = 4  # bytes
AHEAD = 2  # batches


def batch_indices(n: int, batch_size: int, seed: int, step: int, balanced: BalancedOrder | None = None) -> np.ndarray:
    """The rows of batch `step` of a data set of n examples, int64 (batch_size,).   balanced: in place of all alike."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = positions // n
    rows_of = partial(_permutation, n) if balanced is None else balanced.epoch
    return np.concatenate([rows_of(seed, int(epoch))[positions[epochs == epoch] % n] for epoch in np.unique(epochs)])


@lru_cache(maxsize=4)
def _permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    return permuted(GeneratorStream.ORDER, n, seed, epoch)


class Rows(Protocol):
    """What is known of each example, by its number: a tensor, or an object that makes the rows of a batch on demand."""

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, made."""

    @property
    def device(self) -> torch.device:
        """Where the rows are made."""

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


class Loader:
    """Batches (x, the rows of `values`) of a data set on a device; kept encoded there where that is small.

    rows: of the data set, those to train on; all when None.   values: what is known of each of them besides, a row for each, by name;
    what is small is kept on the device as well.   balanced: the order of balanced groups of these rows.
    """

    KEPT_ENCODED = 2**28  # bytes of x, not counting the values that it is made of

    def __init__(
        self,
        data: Dataset,
        codec: Codec,
        batch_size: int,
        seed: int,
        device: torch.device,
        values: Mapping[str, Rows] | None = None,
        rows: np.ndarray | None = None,
        balanced: BalancedOrder | None = None,
    ) -> None:
        self.balanced = balanced
        self.data, self.codec, self.batch_size, self.seed, self.device = data, codec, batch_size, seed, device
        self.rows = np.arange(len(data)) if rows is None else rows
        small = len(self.rows) * math.prod(codec.shape) * FLOAT <= self.KEPT_ENCODED
        self.encoded = codec.encode_parts(data.values, rows, device, known=data.known) if small else None
        self.values = {name: self._placed(value) for name, value in (values or {}).items()}
        self._reader = None if small else ThreadPoolExecutor(1, "loader")
        self._ahead: dict[int, Future[Tensor]] = {}

    def _placed(self, value: Rows) -> Rows:
        return value[torch.arange(len(self.rows))].to(self.device) if value.nbytes <= self.KEPT_ENCODED else value

    def _gathered(self, step: int) -> Tensor:
        """Stored values of a batch, in the memory of the host; pinned where they go to a GPU."""
        rows = batch_indices(len(self.rows), self.batch_size, self.seed, step, self.balanced)
        values = self.codec.config.carried(self.data.values[self.rows[rows]])
        return values.pin_memory() if self.device.type == "cuda" else values

    def _read(self, step: int, reader: ThreadPoolExecutor) -> Tensor:
        """Stored values of a batch; the next ones are gathered meanwhile."""
        wanted = range(step, step + 1 + AHEAD)
        self._ahead = {k: self._ahead.get(k) or reader.submit(self._gathered, k) for k in wanted}
        return self._ahead[step].result()

    def __call__(self, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        rows = batch_indices(len(self.rows), self.batch_size, self.seed, step, self.balanced)
        index = torch.from_numpy(rows).to(self.device)
        if self._reader is None:
            assert self.encoded is not None  # one of the two
            x = self.encoded[index]
        else:  # encoded on the device; the range was looked at when the codec was made
            values = self._read(step, self._reader)
            known = None if self.data.known is None else self.data.known[self.rows[rows]]
            placed = values.to(self.codec.config.placed(self.device), non_blocking=True)
            x = self.codec.encode(placed, limited=False, known=known).to(self.device)
        return x, {name: value[index.to(value.device)].to(self.device) for name, value in self.values.items()}
