"""Guidance and clipping: wrappers Denoise -> Denoise.

Classifier-free guidance (Ho & Salimans 2022) extrapolates from the unconditional belief through the conditional one,

    x̂ = x̂_u + s (x̂_c - x̂_u),        s = 1 plain conditional, s = 0 unconditional (the papers' w is s - 1).

It is linear in the noise estimate, so writing it for x̂ says the same thing at every level and is defined at pure noise.

Clipping keeps x̂ in the data's range; dynamic thresholding (Saharia et al. 2022, section 2.3) shrinks each example to
the p-quantile of its own |x̂| instead.  What is then taken for the noise in x_t is a convention on which published
code is split:

    re-derived   eps = (x_t - alpha x̂_clipped)/sigma    as OpenAI's code does
    kept         eps of the unclipped x̂                 as diffusers does by default

Re-derived is the default here: it is the pair (x̂, eps) that reproduces x_t, so every solver integrates one denoiser,
the clipped one, and stays exact for it.  With the kept eps the two halves of a step disagree about where x_t is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from undiffuse.process.levels import Level
from undiffuse.process.posteriors import Denoise, Posterior

Pair = Callable[[Tensor, Level], tuple[Posterior, Posterior]]
"""(x_t, level) -> the conditional and the unconditional posterior."""


def separately(conditional: Denoise, unconditional: Denoise) -> Pair:
    """The pair of two denoisers evaluated one after the other."""
    return lambda x_t, level: (conditional(x_t, level), unconditional(x_t, level))


def classifier_free(pair: Pair, scale: float) -> Denoise:
    """Classifier-free guidance by `scale`. The spread is the conditional one's."""

    def denoise(x_t: Tensor, level: Level) -> Posterior:
        with_, without = pair(x_t, level)
        return with_.with_mean(torch.lerp(without.mean, with_.mean, scale))

    return denoise


def _limited(denoise: Denoise, limit: Callable[[Tensor], Tensor], keep_eps: bool) -> Denoise:
    def limited(x_t: Tensor, level: Level) -> Posterior:
        posterior = denoise(x_t, level)
        eps = posterior.eps(x_t, level) if keep_eps else posterior.kept_eps
        return replace(posterior, mean=limit(posterior.mean), kept_eps=eps)

    return limited


def clipped(denoise: Denoise, low: Tensor | float, high: Tensor | float, *, keep_eps: bool = False) -> Denoise:
    """x̂ clipped to [low, high], numbers or one for each channel (C, 1, …)."""
    return _limited(denoise, lambda x: x.clamp(low, high), keep_eps)  # type: ignore[arg-type]


def dynamically_thresholded(
    denoise: Denoise, quantile: float = 0.995, bound: float = 1.0, *, keep_eps: bool = False
) -> Denoise:
    """x̂ of each example clipped to ±q and scaled by bound/q, q = max(bound, quantile of |x̂|)."""

    def limit(x: Tensor) -> Tensor:
        q = x.abs().flatten(1).quantile(quantile, dim=1).clamp(min=bound).reshape(-1, *[1] * (x.ndim - 1))
        return x.clamp(-q, q) * (bound / q)

    return _limited(denoise, limit, keep_eps)
