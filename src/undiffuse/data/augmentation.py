"""Augmentation for small data: some examples are shifted by a step or so along each axis.

Every shifted example comes with its shift, which the model receives
(conditioning/augmentation.py).  What is shifted in at an edge repeats the edge.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shifted(x: Tensor, probability: float, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x (B, C, *size) with each example shifted, with `probability`, by -most … most places along each axis.

    Returns x and the shifts (B, axes), float, in units of `most`.  Draws come from a generator of the CPU.
    """
    axes = x.ndim - 2
    shifts = torch.randint(-most, most + 1, (len(x), axes), generator=generator)
    shifts *= torch.rand(len(x), 1, generator=generator) < probability
    which = shifts.any(1).nonzero()[:, 0]
    index = [which.reshape(-1, 1, *[1] * axes), torch.arange(x.shape[1]).reshape(1, -1, *[1] * axes)]
    for axis, n in enumerate(x.shape[2:]):
        place = (torch.arange(n) - shifts[which, axis, None]).clamp(0, n - 1)
        index.append(place.reshape(len(which), 1, *[n if other == axis else 1 for other in range(axes)]))
    moved = x.clone()
    moved[which.to(x.device)] = x[tuple(i.to(x.device) for i in index)]
    return moved, (shifts / most).to(x.device)
