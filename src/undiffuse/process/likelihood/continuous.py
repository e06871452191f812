"""The variational bound in continuous time: infinitely many steps, an integral over the signal-to-noise ratio.

    -log p(x) <= KL(q(x_T | x) || prior) + 1/2 int_{SNR_T}^{SNR_0} E|x - x̂(x_t)|² dSNR - E log p(x | x_0)
                                                                          (Kingma et al. 2021, sections 3.5 and 5.1)

It depends on a schedule by its two ends alone.  For x ~ N(m, s²) and the exact denoiser the integral is
1/2 log((1 + s² SNR_0)/(1 + s² SNR_T)).  With lambda = log SNR, dSNR = SNR dlambda and the integrand is at most about
d/2, so lambda is what the integral is taken over.  It is cut into strata of equal width with one draw in each, which
leaves the estimate unbiased and lowers its variance, like the paper's own low-discrepancy levels.

The decoder is the posterior at the least noisy level, put into the bridge from there to the clean level: for an `ExactVariance`
spread the optimal Gaussian, for fixed ones a variance of sigma_0².  A chain takes part as the curve between its levels;
its network was trained at whole steps only.  A schedule that ends in pure noise is cut at LEAST_LOGSNR: the cut one
has a prior term of its own, so the bound stays a bound.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from undiffuse.process.bridges import Bridge
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level
from undiffuse.process.likelihood.bound import Bound, Decoder, per_dimension, prior_term, step_term
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.process.schedules import Schedule

LEAST_LOGSNR = -20.0


def levels_at(schedule: Schedule, logsnr: Tensor) -> Level:
    """The levels of a schedule at log-SNRs within its range, of their shape."""
    return schedule(schedule.at(logsnr).clamp(schedule.t_min, schedule.t_max))


def edges(schedule: Schedule, strata: int) -> Tensor:
    """Log-SNRs between the strata, float64 (strata + 1,), noisiest first."""
    least, most = schedule([schedule.t_max, schedule.t_min]).logsnr.tolist()
    return torch.linspace(max(least, LEAST_LOGSNR), most, strata + 1, dtype=torch.float64)


@torch.no_grad()
def continuous_bound(
    denoise: DenoiserFn,
    schedule: Schedule,
    x: Tensor,
    shares: Iterable[Tensor],
    noises: Iterable[Tensor],
    decoder: Decoder,
    strata: int,
) -> Bound:
    """The bound of x (B, ...) in nats/dim: `steps` has a row for each stratum, noisiest first, and the decoder's.

    shares: for each stratum where in it the levels lie, in (0, 1), (B,).    noises: strata + 1 standard normals (B, ...).
    """
    logsnrs, draws, terms = edges(schedule, strata), iter(noises), []
    for start, end, share in zip(logsnrs, logsnrs[1:], shares, strict=False):
        logsnr = start + share.cpu().double() * (end - start)
        level = levels_at(schedule, logsnr)
        error = per_dimension((denoise(add_noise(x, level, next(draws)), level).mean - x) ** 2)
        terms.append(0.5 * ((end - start) * logsnr.exp()).to(error) * error)
    least_noisy = levels_at(schedule, logsnrs[-1])
    bridge = Bridge.table(Level.of_rows([least_noisy, Level.clean()]))[0]
    terms.append(step_term(denoise, x, add_noise(x, least_noisy, next(draws)), least_noisy, bridge, decoder))
    return Bound(prior_term(x, levels_at(schedule, logsnrs[0])), torch.stack(terms))
