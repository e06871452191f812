"""Denoiser: a network + what it predicts + a spread = Denoise.

The one place where a network's output becomes a belief about x_0 (process/predictions.py, eq. 1).  The affine map is
evaluated in float32 or better whatever the network computes in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from undiffuse.conditioning.conditions import Conditions, Values
from undiffuse.process.levels import Level, meet
from undiffuse.process.posteriors import Denoise, Fixed, Learned, LearnedRange, Posterior, Spread
from undiffuse.process.predictions import Prediction

Variance = Literal["fixed_small", "fixed_large", "learned_range", "learned"]

FIXED = {"fixed_small": Fixed(0.0), "fixed_large": Fixed(1.0)}
LEARNED: dict[str, Callable[[Tensor], Spread]] = {"learned_range": LearnedRange, "learned": Learned}


class Denoiser(nn.Module):
    """(x_t, level, values) → Posterior.

    network:    (x, clock (B,), conditioning (B, width) or None) → output; twice the channels of x when the variance
                is learned, its second half then being the variance head.
    prediction: what the (first half of the) output means.
    conditions: embeds `values`; with none given, an unconditional model.
    """

    def __init__(self, network: nn.Module, prediction: Prediction, conditions: Conditions, variance: Variance) -> None:
        super().__init__()
        self.network, self.prediction, self.conditions, self.variance = network, prediction, conditions, variance

    def forward(self, x_t: Tensor, level: Level, values: Values | None = None) -> Posterior:
        return self._believed(x_t, level, self.conditions(values or {}))

    def _believed(self, x_t: Tensor, level: Level, conditioning: Tensor | None) -> Posterior:
        row = self.prediction.affine(level)
        clock = level.label.to(device=x_t.device, dtype=torch.float32).expand(len(x_t))
        F = self.network(meet(row.c_in, x_t) * x_t, clock, conditioning).to(
            torch.promote_types(x_t.dtype, torch.float32)
        )
        spread: Spread
        if self.variance in FIXED:
            spread = FIXED[self.variance]
        else:
            F, head = F.chunk(2, 1)
            spread = LEARNED[self.variance](head)
        return Posterior(meet(row.c_skip, x_t) * x_t + meet(row.c_out, x_t) * F, spread)

    def given(self, values: Values) -> Denoise:
        """The Denoise of one set of conditions, which are embedded once, here, and not at every step."""
        conditioning = self._embedded(values)
        return lambda x_t, level: self._believed(x_t, level, conditioning)

    def pair(self, values: Values) -> Callable[[Tensor, Level], tuple[Posterior, Posterior]]:
        """With and without the conditions, in one batched evaluation of the network: what guidance compares."""
        n = len(next(iter(values.values())))
        null = self.conditions.null(n, next(iter(values.values())).device)
        both = self._embedded({name: torch.cat([values[name], null[name]]) for name in values})

        def evaluate(x_t: Tensor, level: Level) -> tuple[Posterior, Posterior]:
            posterior = self._believed(torch.cat([x_t, x_t]), level, both)
            with_, without = posterior.mean.chunk(2)
            return Posterior(with_, _first_half(posterior.spread, n)), Posterior(without)

        return evaluate

    @torch.no_grad()
    def _embedded(self, values: Values) -> Tensor | None:
        return self.conditions(values)


def _first_half(spread: Spread, n: int) -> Spread:
    """The spread of the first n examples of a batch."""
    if isinstance(spread, LearnedRange):
        return LearnedRange(spread.v[:n])
    if isinstance(spread, Learned):
        return Learned(spread.log_value[:n])
    return spread
