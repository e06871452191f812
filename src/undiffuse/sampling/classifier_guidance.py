"""Guidance by a gradient: of a classifier that knows noise, or of any function of x_t or of x̂.

By Bayes' rule the score of x_t given y is that of x_t plus a gradient (Dhariwal & Nichol 2021, section 4; Song et al.
2021, eq. 14), which a scale s sharpens,

    grad log p(x_t | y) = grad log p(x_t) + s · grad log p(y | x_t),                                                      (1)

and since x̂ = (x_t + sigma² grad log p(x_t))/alpha (Tweedie's formula), in two forms, both of ADM:

    score   x̂ + s · sigma²/alpha · g                for any solver: its Algorithm 2, eps - s sigma g, written for x̂
    mean    mean + s · variance · g                 of an ancestral step: its Algorithm 1, eq. 10

with g = grad log p(y | x_t) at x_t.  (Algorithm 1 is derived with g at the mean; the released code takes it at x_t, and so
does this.)  As there, x̂ is clipped first and guided then.  In the score form it is clipped once more, which the released
code does not: sigma²/alpha is so large near pure noise that whatever a network answers there, where it cannot know
anything, would throw x̂ far out of the data's range, and deterministic solvers do not come back from there.  For the same
reason a guide may be kept to the levels where its classifier is better than chance (docs/measurements/conditions.md has numbers).

A function of the clean example instead of x_t is evaluated at x̂(x_t) and differentiated through the network, which
costs a backward pass (Chung et al. 2023, DPS, eq. 7; Bansal et al. 2024, eq. 4).

Gradients are taken in the precision of x_t.  At pure noise, alpha = 0, x_t is independent of y, so nothing is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process import derivatives
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.posteriors import DenoiserFn, Posterior
from undiffuse.sampling.solvers.ancestral import Ancestral
from undiffuse.sampling.solvers.base import NoiseSource, Solver, Step, constant_denoiser

LogLikelihood = Callable[[Tensor, Level, Tensor], Tensor]
"""(x, level, index (B,)) → (B,), differentiable in x: the log-likelihood of what each example shall be.   index: of the n examples."""


@dataclass(frozen=True)
class Guide:
    """What pulls samples by a gradient.

    function: see LogLikelihood; x is in the model's range.   scale: s of eq. 1.   of: the noisy "x_t", or the "clean" x̂.
    form: "score", or "mean" for ancestral sampling.   interval: of sigma/alpha where it pulls.
    """

    function: LogLikelihood
    scale: float = 1.0
    of: Literal["x_t", "clean"] = "x_t"
    form: Literal["score", "mean"] = "score"
    interval: tuple[float, float] = (0.0, math.inf)

    def pulls(self, level: Level) -> Tensor:
        """Whether it pulls, bool of the shape of the level; never at pure noise."""
        return (level.alpha > 0) & (level.sigma_edm >= self.interval[0]) & (level.sigma_edm <= self.interval[1])

    def __post_init__(self) -> None:
        if self.form == "mean" and self.of == "clean":
            raise UsageError(
                "a function of the clean example guides in the form 'score': choose that, or a function of x_t."
            )

    def gradient(self, x_t: Tensor, level: Level, index: Tensor) -> Tensor:
        """scale · grad of a function of x_t."""
        with derivatives.with_graph():
            x = x_t.detach().requires_grad_()
            (g,) = torch.autograd.grad(self.function(x, level, index).sum(), x)
        return self.scale * g


def by_score(denoise: DenoiserFn, guides: Sequence[Guide], index: Tensor) -> DenoiserFn:
    """The Denoise with the pull of every guide added, in the score form.   index: of the examples, (B,)."""

    def guided(x_t: Tensor, level: Level) -> Posterior:
        pulling = [guide for guide in guides if guide.pulls(level).any()]
        if not pulling:
            return denoise(x_t, level)
        clean = [guide for guide in pulling if guide.of == "clean"]
        if clean:
            posterior, pull = _through(denoise, clean, x_t, level, index)
        else:
            posterior, pull = denoise(x_t, level), torch.zeros_like(x_t)
        for guide in pulling:
            if guide.of == "x_t":
                pull = pull + torch.where(
                    broadcast_to(guide.pulls(level), x_t) > 0, guide.gradient(x_t, level, index), 0
                )
        return posterior.moved(
            broadcast_to(torch.where(level.alpha > 0, level.sigma**2 / level.alpha, 0), x_t) * pull, level
        )

    return guided


def _through(
    denoise: DenoiserFn, guides: Sequence[Guide], x_t: Tensor, level: Level, index: Tensor
) -> tuple[Posterior, Tensor]:
    """The posterior, and the gradient of functions of its mean with respect to x_t."""
    with derivatives.with_graph():
        x = x_t.detach().requires_grad_()
        posterior = denoise(x, level)
        total = torch.zeros((), device=x.device)
        for guide in guides:
            total = (
                total
                + guide.scale * (guide.function(posterior.mean, level, index) * guide.pulls(level).to(x.device)).sum()
            )
        (pull,) = torch.autograd.grad(total, x)
    return posterior.detached(), pull


@dataclass(frozen=True)
class MeanGuided(Solver):
    """Ancestral sampling with the mean of every step moved by variance · gradient, evaluations and noise as before."""

    inner: Ancestral
    guides: tuple[Guide, ...]
    index: Tensor
    stochastic: bool = True

    def plan(self, levels: Level) -> Sequence[Any]:
        return self.inner.plan(levels)

    def step(self, x_t: Tensor, denoise: DenoiserFn, row: Any, noise: NoiseSource, state: Any) -> Step:
        here, bridge = row.move.here, row.move.bridge
        posterior = denoise(x_t, here)
        pulling = [guide for guide in self.guides if guide.pulls(here)]
        if not pulling:
            return self.inner.step(x_t, partial(constant_denoiser, posterior), row, noise, state)
        variance = self.inner.log_variance(posterior, row, x_t).exp()
        pull = torch.stack([guide.gradient(x_t, here, self.index) for guide in pulling]).sum(0)
        moved = posterior.moved(variance * pull / broadcast_to(bridge.on_x, x_t), here)
        return self.inner.step(x_t, partial(constant_denoiser, moved), row, noise, state)
