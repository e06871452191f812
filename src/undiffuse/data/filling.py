"""What stands for missing numbers in x while a network is trained: the mean of what is known around them.

    x_i = sum_j m_j x_j / sum_j m_j      over the places j at most 1 from i along each axis, else at most 3, else 0

with m = 1 where a number is known: normalised convolution (Knutsson & Westin 1993) with a box.  The network is told that these numbers
are none, and is not trained on them; but a network that has only seen examples with holes is then less surprised by one without
(docs/measurements/holes.md).  Rows of tables have no places around, so theirs are 0, the mean of floats.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

REACHES = (1, 3)  # places


def filled_from_around(x: Tensor, known: Tensor) -> Tensor:
    """x (B, C, *size), 0 where it is not known, bool (B, C or 1, *size), with these places filled in."""
    there, found = known.to(x), torch.zeros_like(x)
    for reach in reversed(REACHES):
        share = _box_sum(there, reach)
        found = torch.where(share > 0, _box_sum(x * there, reach) / share.clamp(min=1), found)
    return torch.where(known, x, found)


def _box_sum(x: Tensor, reach: int) -> Tensor:
    """The sum of the values (B, C, *size) at most so many places away along each axis, axis by axis."""
    for axis in range(2, x.ndim):
        n = x.shape[axis]
        padded = F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [reach, reach])
        x = padded.narrow(axis, 0, n).clone()
        for start in range(1, 2 * reach + 1):
            x += padded.narrow(axis, start, n)
    return x
