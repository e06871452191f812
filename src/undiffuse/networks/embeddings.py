"""Embeddings of the timestep by sines and cosines of many frequencies.

Sinusoidal (Vaswani et al. 2017, section 3.5, as used for t by DDPM and ADM): the timestep t becomes half cosines and half sines
of frequencies from 1 down to 1/10000.  The two papers' codes differ in two details, and weights trained with one do not work
with the other, so both exist under their names:

    adm      cosines first, frequency i = 10000^(-i / half)
    ddpm     sines first,   frequency i = 10000^(-i / (half - 1))

Fourier (Tancik et al. 2020, as used for log(sigma) by NCSN++, Song et al. 2021, appendix C.1):

    fourier  sines first, of 2 pi w_i t with frequencies w_i drawn once from N(0, 16²), kept with the weights, never trained

The first two are for timesteps up to about 1000, the last for timesteps of about 1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Convention = Literal["adm", "ddpm", "fourier"]
FOURIER_SCALE = 16.0  # standard deviation of the frequencies


def sinusoidal_embedding(timestep: Tensor, width: int, convention: Convention = "adm") -> Tensor:
    """(B,) → float32 (B, width); an odd width is padded with one zero."""
    half = width // 2
    steps = half if convention == "adm" else max(half - 1, 1)
    exponent = torch.arange(half, dtype=torch.float32, device=timestep.device) / steps
    angle = timestep.float()[:, None] * torch.exp(-math.log(10000) * exponent)
    parts = [angle.cos(), angle.sin()] if convention == "adm" else [angle.sin(), angle.cos()]
    return torch.nn.functional.pad(torch.cat(parts, 1), (0, width - 2 * half))


def fourier_frequencies(width: int) -> nn.Parameter:
    """The (width / 2,) frequencies of a fourier embedding: stored as weights are, and frozen."""
    return nn.Parameter(FOURIER_SCALE * torch.randn(width // 2), requires_grad=False)


def fourier_embedding(timestep: Tensor, frequencies: Tensor, width: int) -> Tensor:
    """(B,) → float32 (B, width); an odd width is padded with one zero."""
    angle = timestep.float()[:, None] * (2 * math.pi * frequencies)
    return torch.nn.functional.pad(torch.cat([angle.sin(), angle.cos()], 1), (0, width % 2))


def time_embedding_mlp(frequencies: int, width: int) -> nn.Sequential:
    """From the sinusoidal embedding of the timestep to one of `width`, which may learn to distinguish levels."""
    return nn.Sequential(nn.Linear(frequencies, width), nn.SiLU(), nn.Linear(width, width))
