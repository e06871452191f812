"""Guidance and clipping: wrappers Denoise -> Denoise.

Classifier-free guidance (Ho & Salimans 2022) extrapolates from the unconditional posterior through the conditional one,

    x̂ = x̂_u + s (x̂_c - x̂_u),        s = 1 plain conditional, s = 0 unconditional (the papers' w is s - 1).

It is linear in the noise estimate, so writing it for x̂ says the same thing at every level and is defined at pure noise.
Whatever two posteriors are compared, the rest is the same: an unconditional one, that of another ("negative") condition, or
that of a weaker model (Karras et al. 2024, autoguidance).  Large s brings too much contrast and too little variety.
Against that:

    interval    guide only where sigma/alpha lies in [low, high], and plainly elsewhere, at half the cost
                                                                                  (Kynkäänniemi et al. 2024)
    rescaled    shrink each example of x̂ to the standard deviation of x̂_c, by a share of the way   (Lin et al. 2024, eq. 15-16)
    projected   take from x̂_c - x̂_u the part along x̂_c, which is contrast, bound its length, and give it a momentum
                                                                      (Sadat et al. 2025, APG; momentum.py)
    nested      each condition with a scale of its own, x̂_0 + sum_k s_k (x̂_k - x̂_{k-1}), where x̂_k has the first k of them:
                p(x) p(c_1|x)^s_1 p(c_2|x, c_1)^s_2 …                               (Liu et al. 2022; Brooks et al. 2023, eq. 3)
    plus        CFG++: s in [0, 1], and the next step's noise is the unconditional one       (Chung et al. 2025, Algorithm 2)

Clipping keeps x̂ in the data's range; dynamic thresholding (Saharia et al. 2022, section 2.3) shrinks each example to
the p-quantile of its own |x̂| instead.  What is then taken for the noise in x_t is a convention on which published
code is split:

    re-derived   eps = (x_t - alpha x̂_clipped)/sigma    as OpenAI's code does
    kept         eps of the unclipped x̂                 as diffusers does by default

Re-derived is the default here: it is the pair (x̂, eps) that reproduces x_t, so every solver integrates one denoiser,
the clipped one, and stays exact for it.  With the kept eps the two halves of a step disagree about where x_t is, and every
solver first jumps to where they agree (solvers/base.py, eq. 1).  CFG++ is the same: guided x̂, unguided eps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.posteriors import DenoiserFn, Posterior
from undiffuse.registry import Registry
from undiffuse.sampling.momentum import Remembering, Running

Pair = Callable[[Tensor, Level], Sequence[Posterior]]
"""(x_t, level) -> the conditional and the unconditional posterior."""


def separate_pair(conditional: DenoiserFn, unconditional: DenoiserFn) -> Pair:
    """The pair of two denoisers evaluated one after the other."""
    return lambda x_t, level: (conditional(x_t, level), unconditional(x_t, level))


def classifier_free(pair: Pair, scale: float) -> DenoiserFn:
    """Classifier-free guidance by `scale`. The spread is the conditional one's."""

    def denoise(x_t: Tensor, level: Level) -> Posterior:
        with_, without = pair(x_t, level)
        return with_.with_mean(torch.lerp(without.mean, with_.mean, scale))

    return denoise


def composed(several: Pair, scales: Sequence[float]) -> DenoiserFn:
    """A scale for each condition.

    several: posteriors with more and more conditions, one more than there are scales.   The variance is the last one's.
    """

    def denoise(x_t: Tensor, level: Level) -> Posterior:
        beliefs = several(x_t, level)
        mean = beliefs[0].mean
        for scale, (before, after) in zip(scales, pairwise(beliefs), strict=True):
            mean = mean + scale * (after.mean - before.mean)
        return beliefs[-1].with_mean(mean)

    return denoise


def rescaled(pair: Pair, scale: float, share: float) -> DenoiserFn:
    """Guidance by `scale`, then x̂ shrunk towards the standard deviation of the conditional one by `share`, 0 … 1."""

    def denoise(x_t: Tensor, level: Level) -> Posterior:
        with_, without = pair(x_t, level)
        guided = torch.lerp(without.mean, with_.mean, scale)
        shrink = _deviation(with_.mean) / _deviation(guided).clamp(min=torch.finfo(guided.dtype).tiny)
        return with_.with_mean(guided * (1 + share * (shrink - 1)))

    return denoise


def projected(
    pair: Pair, scale: float, *, along: float = 0.0, norm_threshold: float = math.inf, running: Running | None = None
) -> DenoiserFn:
    """x̂_c + (scale - 1) Δ with Δ = x̂_c - x̂_u shortened to the length `longest` and its part along x̂_c multiplied by `along`.

    Lengths are Euclidean, over all numbers of an example.   running: what Δ is added to first, of the steps before.
    along = 1 and longest = inf: plain guidance.
    """

    def denoise(x_t: Tensor, level: Level) -> Posterior:
        with_, without = pair(x_t, level)
        difference, towards = with_.mean - without.mean, with_.mean
        difference = difference if running is None else running.added(difference)
        tiny = torch.finfo(difference.dtype).tiny
        if norm_threshold < math.inf:
            difference = difference * (norm_threshold / _norm(difference).clamp(min=norm_threshold))
        parallel = (
            (difference * towards).flatten(1).sum(1).reshape(-1, *[1] * (towards.ndim - 1))
            / (_norm(towards) ** 2).clamp(min=tiny)
            * towards
        )
        return with_.with_mean(with_.mean + (scale - 1) * (difference + (along - 1) * parallel))

    return denoise


def cfg_plus_plus(pair: Pair, scale: float) -> DenoiserFn:
    """CFG++: x̂ between the two by `scale` in [0, 1], continued with the unconditional noise."""

    def denoise(x_t: Tensor, level: Level) -> Posterior:
        with_, without = pair(x_t, level)
        return replace(with_, mean=torch.lerp(without.mean, with_.mean, scale), kept_eps=without.eps(x_t, level))

    return denoise


GuidanceMethod = Callable[[Pair], DenoiserFn]
"""What makes one Denoise of the two posteriors that are compared."""


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance.   rescale: the share by which x̂ is then shrunk, see `rescaled`."""

    scale: float
    rescale: float = 0.0

    def __call__(self, pair: Pair) -> DenoiserFn:
        return rescaled(pair, self.scale, self.rescale) if self.rescale else classifier_free(pair, self.scale)


@dataclass(frozen=True)
class AdaptiveProjected:
    """APG, see `projected`.   norm_threshold: None for any length.   momentum: the paper's beta, see momentum.py."""

    scale: float
    norm_threshold: float | None = None
    momentum: float = 0.0

    def __call__(self, pair: Pair) -> DenoiserFn:
        longest = math.inf if self.norm_threshold is None else self.norm_threshold
        if self.momentum:
            return Remembering(
                lambda running: projected(pair, self.scale, norm_threshold=longest, running=running), self.momentum
            )
        return projected(pair, self.scale, norm_threshold=longest)


@dataclass(frozen=True)
class CFGPlusPlus:
    """CFG++, see `cfg_plus_plus`."""

    scale: float

    def __call__(self, pair: Pair) -> DenoiserFn:
        return cfg_plus_plus(pair, self.scale)


@dataclass(frozen=True)
class GuidanceEntry:
    """A method of guidance by name.   make: the method, from scale=… and its settings, by name.

    settings: the fields of SamplingConfig that it has, with the names that `make` gives them.   bounds: of the scale.
    plain_at_one: whether the scale 1 is plain conditional sampling, which is then done at half the cost.
    keeps_noise: whether it continues with another noise than that of its x̂, which not every solver can.
    """

    make: Callable[..., GuidanceMethod]
    settings: Mapping[str, str] = field(default_factory=dict)
    bounds: tuple[float, float] = (-math.inf, math.inf)
    plain_at_one: bool = True
    keeps_noise: bool = False


GUIDANCE_METHODS: Registry[GuidanceEntry] = Registry(
    "guidance method",
    "undiffuse.guidance_methods",
    {
        "cfg": GuidanceEntry(ClassifierFree, {"guidance_rescale": "rescale"}),
        "apg": GuidanceEntry(AdaptiveProjected, {"apg_momentum": "momentum", "apg_norm_threshold": "norm_threshold"}),
        "cfg++": GuidanceEntry(CFGPlusPlus, bounds=(0.0, 1.0), plain_at_one=False, keeps_noise=True),
    },
)


def register_guidance(name: str, method: Callable[[Pair, float], DenoiserFn]) -> None:
    """Makes a method of guidance of one's own known as `name`, to `model.sample(guidance_method=name)`.

    method: (pair, scale) → the guided Denoise, as `classifier_free` is.   pair(x_t, level) gives the conditional and the unconditional
    posterior; scale 1 is plain conditional sampling, for which no method is called.
    Raises UsageError for a name that is taken.
    """
    GUIDANCE_METHODS.register(name, GuidanceEntry(lambda scale: lambda pair: method(pair, scale)), method)


def in_interval(guided: DenoiserFn, plain: DenoiserFn, low: float, high: float) -> DenoiserFn:
    """`guided` at levels with sigma/alpha in [low, high], `plain` at others; where examples differ in this, both are evaluated for all."""

    def denoise(x_t: Tensor, level: Level) -> Posterior:
        inside = (level.sigma_edm >= low) & (level.sigma_edm <= high)
        if inside.all() or not inside.any():
            return (guided if inside.all() else plain)(x_t, level)
        one, other, here = guided(x_t, level), plain(x_t, level), broadcast_to(inside, x_t) > 0
        kept = None if one.kept_eps is None else torch.where(here, one.kept_eps, other.eps(x_t, level))
        return replace(other, mean=torch.where(here, one.mean, other.mean), kept_eps=kept)

    return denoise


def _norm(x: Tensor) -> Tensor:
    """The length of each example, shaped to multiply it."""
    out: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1).reshape(-1, *[1] * (x.ndim - 1))
    return out


def _deviation(x: Tensor) -> Tensor:
    """The standard deviation of the numbers of each example, shaped to multiply it."""
    return x.flatten(1).std(1).reshape(-1, *[1] * (x.ndim - 1))


def _limited(denoise: DenoiserFn, limit: Callable[[Tensor], Tensor], keep_eps: bool) -> DenoiserFn:
    def limited(x_t: Tensor, level: Level) -> Posterior:
        posterior = denoise(x_t, level)
        eps = posterior.eps(x_t, level) if keep_eps else posterior.kept_eps
        return replace(posterior, mean=limit(posterior.mean), kept_eps=eps)

    return limited


def clipped(denoise: DenoiserFn, low: Tensor | float, high: Tensor | float, *, keep_eps: bool = False) -> DenoiserFn:
    """x̂ clipped to [low, high], numbers or one for each channel (C, 1, …)."""
    return _limited(denoise, lambda x: x.clamp(low, high), keep_eps)  # type: ignore[arg-type]


def dynamically_thresholded(
    denoise: DenoiserFn, quantile: float = 0.995, bound: float = 1.0, most: float = math.inf, *, keep_eps: bool = False
) -> DenoiserFn:
    """x̂ of each example clipped to ±q and scaled by bound/q, q the quantile of |x̂|, at least `bound` and at `most`."""

    def limit(x: Tensor) -> Tensor:
        q = x.abs().flatten(1).quantile(quantile, dim=1).clamp(min=bound, max=most).reshape(-1, *[1] * (x.ndim - 1))
        return x.clamp(-q, q) * (bound / q)

    return _limited(denoise, limit, keep_eps)
