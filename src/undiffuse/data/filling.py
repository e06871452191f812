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
    mean = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[x.ndim]
    there = known.to(x)
    found = torch.zeros_like(x)
    for reach in reversed(REACHES):
        window = tuple(2 * min(reach, n - 1) + 1 for n in x.shape[2:])
        padding = tuple(n // 2 for n in window)
        share = mean(there, window, 1, padding)
        found = torch.where(share > 0, mean(x * there, window, 1, padding) / share.clamp(min=1e-9), found)
    return torch.where(known, x, found)
