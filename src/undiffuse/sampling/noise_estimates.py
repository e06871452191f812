"""How much noise is in an example?  y = x + u eps, with u = sigma/alpha unknown.

Wavelet     needs no model.  The finest diagonal Haar coefficients, differences along every axis divided by sqrt(2), are
            noise of standard deviation u wherever the picture is smooth, and the median does not mind the edges:

                u = median |d| / 0.6745                                  (Donoho & Johnstone 1994)     (1)

            All shifts of the coefficients are used.  Texture and tiny pictures have fine detail of their own and are
            taken for noise: it overestimates.  A flat area clipped to black has none: it underestimates.

Likelihood  uses the model.  The density p_u of y obeys the heat equation, d p_u / d(u²) = ½ laplacian p_u, and Tweedie's
            formula says x̂ - y = u² grad log p_u.  With J the Jacobian of x̂(y), therefore

                d log p_u(y) / d log u  =  |y - x̂|²/u² + tr J - d.                                                 (2)

            The noise level of highest likelihood is where this crosses zero from above: where what the model removes
            is as large as the noise it should remove, less the noise it cannot separate from the picture (tr J coordinates'
            worth).  Leaving tr J out finds far too little noise.  (2) is summed over a table of levels to tell the
            highest peak from others.  tr J = E v'Jv for random signs v (Hutchinson 1990).

            White noise of d coordinates cannot be measured better than to 1/sqrt(2 d) of itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process import derivatives
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.rng import NoiseStream

MEDIAN_OF_NORMAL = 0.6744897501960817  # of its absolute value


def by_wavelet(y: Tensor) -> Tensor:
    """Equation (1) for each example. y: (B, C, *size), every axis of size at least 2. Returns (B,), in the units of y."""
    if min(y.shape[2:]) < 2:
        raise UsageError(
            f"examples of shape {tuple(y.shape[1:])} have an axis without neighbours: estimate their noise by likelihood."
        )
    for axis in range(2, y.ndim):
        y = y.diff(dim=axis) / 2**0.5
    return y.flatten(1).abs().median(1).values / MEDIAN_OF_NORMAL


def by_likelihood(y: Tensor, denoise: DenoiserFn, levels: Level, *, probes: int = 4, seed: int = 0) -> Tensor:
    """The u of highest likelihood for each example of y (B, ...), float64 (B,), between the table's ends.

    denoise: unclipped, since a clipped x̂ obeys no Tweedie's formula.   levels: noisy ones, noisiest first, evenly
    spaced in log u; equation (2) is a straight line between them.
    """
    ratio = levels.sigma_edm
    slope = torch.stack([_slope(y, denoise, level, probes, seed) for level in levels.rows()]).flip(0)
    at = ratio.log().flip(0)[:, None]
    rises = (slope[1:] + slope[:-1]) / 2 * (at[1:] - at[:-1])
    highest = torch.cat([torch.zeros_like(slope[:1]), rises.cumsum(0)]).argmax(0)
    return torch.stack([_crossing(at[:, 0], slope[:, k], int(row)) for k, row in enumerate(highest)]).exp()


def _slope(y: Tensor, denoise: DenoiserFn, level: Level, probes: int, seed: int) -> Tensor:
    """Equation (2) at one level, float64 (B,), on the CPU."""
    alpha, ratio = broadcast_to(level.alpha, y), float(level.sigma_edm)
    with derivatives.with_graph():
        x_t = (alpha * y).detach().requires_grad_()
        mean = denoise(x_t, level).mean
        trace = torch.zeros(len(y), dtype=torch.float64)
        for probe in range(probes):
            one = torch.zeros(1, dtype=torch.int64, device=y.device)
            signs = standard_normal(y.shape[1:], seed, one, probe, NoiseStream.NOISE_LEVEL_PROBE).sign()
            (pulled,) = torch.autograd.grad((mean * signs).sum(), x_t, retain_graph=probe + 1 < probes)
            trace += (alpha * pulled * signs).flatten(1).sum(1).cpu().double() / probes
    removed = ((y - mean.detach()) ** 2).flatten(1).sum(1).cpu().double()
    return removed / ratio**2 + trace - y[0].numel()


def _crossing(at: Tensor, slope: Tensor, row: int) -> Tensor:
    """Where the slope falls through zero next to the table's highest row; that row where it does not, at the ends."""
    for low in (row, row - 1):
        if 0 <= low < len(at) - 1 and slope[low] >= 0 > slope[low + 1]:
            return torch.lerp(at[low], at[low + 1], slope[low] / (slope[low] - slope[low + 1]))
    return at[row]
