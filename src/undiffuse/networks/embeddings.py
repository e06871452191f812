"""Sinusoidal embedding of the clock (Vaswani et al. 2017, section 3.5, as used for t by DDPM and ADM).

The clock t becomes half cosines and half sines of frequencies from 1 down to 1/10000.  The two papers' codes differ
in two details, and weights trained with one do not work with the other, so both exist under their names:

    adm    cosines first, frequency i = 10000^(-i / half)
    ddpm   sines first,   frequency i = 10000^(-i / (half - 1))
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Convention = Literal["adm", "ddpm"]


def sinusoidal_embedding(clock: Tensor, width: int, convention: Convention = "adm") -> Tensor:
    """(B,) → float32 (B, width); an odd width is padded with one zero."""
    half = width // 2
    steps = half if convention == "adm" else max(half - 1, 1)
    exponent = torch.arange(half, dtype=torch.float32, device=clock.device) / steps
    angle = clock.float()[:, None] * torch.exp(-math.log(10000) * exponent)
    parts = [angle.cos(), angle.sin()] if convention == "adm" else [angle.sin(), angle.cos()]
    return torch.nn.functional.pad(torch.cat(parts, 1), (0, width - 2 * half))


def clock_mlp(frequencies: int, width: int) -> nn.Sequential:
    """From the sinusoidal embedding of the clock to one of `width`, which may learn to tell levels apart."""
    return nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))
