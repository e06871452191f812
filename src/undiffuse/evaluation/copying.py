"""Whether samples copy the training set: are they nearer to training examples than to held-out ones?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.evaluation.distances import nearest_neighbours


@dataclass(frozen=True)
class Copying:
    """share: of samples nearer to a training example than to a held-out one, 1/2 where nothing is copied.

    low, high: its 95 % interval (Wilson).   n: number of samples, ties left out.
    """

    share: float
    low: float
    high: float
    n: int


def copying(samples: Tensor, training: Tensor, held_out: Tensor) -> Copying:
    """Whether samples lie nearer to training than to held-out examples.

    The two sets must be equally many, or the larger is nearer by its size alone.  Raises UsageError otherwise.
    """
    if len(training) != len(held_out):
        raise UsageError(
            f"{len(training)} training examples are compared with {len(held_out)} held-out ones: take equally many."
        )
    to_training, _ = nearest_neighbours(samples, training)
    to_held_out, _ = nearest_neighbours(samples, held_out)
    differ = to_training != to_held_out
    n = int(differ.sum())
    share = ((to_training < to_held_out) & differ).sum().item() / max(n, 1)
    z = 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n) if n else 0.5
    half = z * ((share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5) / (1 + z**2 / n) if n else 0.5
    return Copying(share, centre - half, centre + half, n)
