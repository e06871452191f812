"""Denoiser: a network + what it predicts + a variance = Denoise.

The one place where a network's output becomes a posterior of x_0 (process/predictions.py, eq. 1).  The affine map is
evaluated in float32 or better whatever the network computes in.  Conditions that go beside the noisy input are put there
here, unscaled, so that networks know nothing of them but their channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from undiffuse.conditioning.conditions import Conditions, EncodedConditions, NetworkConditioning
from undiffuse.networks.base import Network
from undiffuse.process.categories import Categories
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.posteriors import (
    DenoiserFn,
    FixedVariance,
    LearnedRangeVariance,
    LearnedVariance,
    Posterior,
    Variance,
)
from undiffuse.process.predictions import Prediction

VarianceKind = Literal["fixed_small", "fixed_large", "learned_range", "learned"]

FIXED = {"fixed_small": FixedVariance(0.0), "fixed_large": FixedVariance(1.0)}
LEARNED: dict[str, Callable[[Tensor], Variance]] = {
    "learned_range": LearnedRangeVariance,
    "learned": LearnedVariance,
}


class Denoiser(nn.Module):
    """(x_t, level, values) → Posterior.

    network:    see networks/base.py; with tokens where conditions enter by cross-attention.  It returns twice the channels of x_t
                when the variance is learned, the second half then being the variance head.
    prediction: what the (first half of the) output means.
    conditions: embeds `values`; with none given, an unconditional model.
    categories: which channels of x are categories, and how the network's answer is read there (process/categories.py).
    """

    def __init__(
        self,
        network: Network,
        prediction: Prediction,
        conditions: Conditions,
        variance: VarianceKind,
        categories: Categories | None = None,
    ) -> None:
        super().__init__()
        self.categories = categories
        self.network, self.prediction, self.conditions, self.variance = network, prediction, conditions, variance

    def untrained(self) -> dict[str, Tensor]:
        """What is not trained and yet part of a network of a user's own, frozen parameters and persistent buffers; of ours, nothing."""
        prefix = "network.module."
        return {prefix + name: value for name, value in self.network.untrained().items()}

    def buffers_to_store(self) -> dict[str, Tensor]:
        """Those of `untrained` that are buffers: a model file has the parameters anyway."""
        parameters = {name for name, _ in self.named_parameters()}
        return {name: value for name, value in self.untrained().items() if name not in parameters}

    def forward(self, x_t: Tensor, level: Level, values: EncodedConditions | None = None) -> Posterior:
        """The posterior of x_0 given x_t (B, *shape) at a level, one for all examples or one for each.   values: the encoded conditions."""
        return self._posterior(x_t, level, self.conditions(values or {}))

    def _posterior(self, x_t: Tensor, level: Level, conditioning: NetworkConditioning) -> Posterior:
        row = self.prediction.affine(level)
        timestep = self.prediction.c_noise(level).to(device=x_t.device, dtype=torch.float32).expand(len(x_t))
        x = broadcast_to(row.c_in, x_t) * x_t
        if conditioning.concat:
            x = torch.cat([x, *(at_every_position(channels, x) for channels in conditioning.concat)], 1)
        tokens = () if conditioning.tokens is None else (conditioning.tokens, conditioning.padding_mask)
        F = self.network(x, timestep, conditioning.embedding, *tokens).to(torch.promote_types(x_t.dtype, torch.float32))
        variance: Variance
        if self.variance in FIXED:
            variance = FIXED[self.variance]
        else:
            F, head = F.chunk(2, 1)
            variance = LEARNED[self.variance](head)
        mean = broadcast_to(row.c_skip, x_t) * x_t + broadcast_to(row.c_out, x_t) * F
        if self.categories is None:
            return Posterior(mean, variance)
        log_p = self.categories.log_probabilities(F, x_t, level)
        return Posterior(self.categories.means(log_p, mean), variance, log_p=log_p)

    def bind(self, values: EncodedConditions) -> DenoiserFn:
        """The Denoise of one set of conditions, which are embedded once, here, and not at every step.

        x̂ is 0 where an example knows nothing: where a sequence has ended, x_t is then noise alone, as it was in training.
        """
        conditioning = self._conditioning(values)
        return lambda x_t, level: _known_alone(self._posterior(x_t, level, conditioning), conditioning.known)

    def batched(self, sets: Sequence[EncodedConditions]) -> Callable[[Tensor, Level], list[Posterior]]:
        """The beliefs of several sets of conditions, in one batched evaluation of the network: what guidance compares."""
        n, count = len(next(iter(sets[0].values()))), len(sets)
        conditioning = self._conditioning({name: torch.cat([values[name] for values in sets]) for name in sets[0]})

        def evaluate(x_t: Tensor, level: Level) -> list[Posterior]:
            each = (
                Level(level.alpha.repeat(count), level.sigma.repeat(count), level.timestep.repeat(count))
                if level.alpha.ndim
                else level
            )
            posterior = _known_alone(self._posterior(torch.cat([x_t] * count), each, conditioning), conditioning.known)
            means = posterior.mean.chunk(count)
            return [
                Posterior(mean, _rows(posterior.variance, slice(k * n, (k + 1) * n))) for k, mean in enumerate(means)
            ]

        return evaluate

    @torch.no_grad()
    def _conditioning(self, values: EncodedConditions) -> NetworkConditioning:
        conditioning: NetworkConditioning = self.conditions(values)
        return conditioning


def at_every_position(channels: Tensor, x: Tensor) -> Tensor:
    """Channels (B, c) or (B, c, *other size) at every position of x (B, C, *size): copied, or resized."""
    if channels.ndim == 2:
        return channels.reshape(*channels.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]).to(x.dtype)
    if channels.shape[2:] != x.shape[2:]:
        channels = nn.functional.interpolate(
            channels, x.shape[2:], mode={3: "linear", 4: "bilinear", 5: "trilinear"}[x.ndim]
        )
    return channels.to(x.dtype)


def _known_alone(posterior: Posterior, known: Tensor | None) -> Posterior:
    """With x̂ = 0 where nothing is known; as it is where all is."""
    return posterior if known is None else posterior.with_mean(torch.where(known, posterior.mean, 0.0))


def _rows(variance: Variance, rows: slice) -> Variance:
    """The variance of some examples of a batch."""
    if isinstance(variance, LearnedRangeVariance):
        return LearnedRangeVariance(variance.v[rows])
    if isinstance(variance, LearnedVariance):
        return LearnedVariance(variance.log_value[rows])
    return variance
