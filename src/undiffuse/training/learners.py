"""What the training loop trains: a network, and its loss on noised examples.

A denoiser minimises an objective, and what its network charges for each pass, such as an autoencoder's divergence; a classifier
(classifier.py) the cross-entropy of what is to be read off a noisy example.  Both see the same forward process, and the
loop does not know which it is.

Of an example with holes only the known numbers are trained on (MissDiff, Ouyang et al. 2023, eq. 5).  With m = 1 where a number is
known, 0 where it is missing, the loss is that of the answer m x̂ + (1 - m) x, which is right where nothing is known: of any objective no
gradient comes from there.  Each known number counts alike, whichever example it is in.  x_t is alpha x + sigma eps everywhere, and x holds
there what data/filling.py puts.

Samples are told that all is known, which no example with holes is.  So a share of the examples, TOLD_WHOLE, is told the same in training, with what
stands for its missing numbers, while the loss stays that of the known ones: else the network has to guess what so many known numbers mean at
the clean levels, where it errs by chance (docs/measurements/holes.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor, nn

from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.conditioning.known import KNOWN, KnownCondition
from undiffuse.models.denoiser import Denoiser
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import LearnedRangeVariance, LearnedVariance, Posterior
from undiffuse.training.objectives import Objective

TOLD_WHOLE = 0.3  # of examples with holes
AS_WHOLE = "as whole"  # beside the conditions of a batch: which examples these are

Computing = Callable[[], AbstractContextManager[object]]
"""The precision that a network is evaluated in; losses are not."""


class Learner(ABC):
    """module: whose parameters are trained."""

    module: nn.Module

    @property
    def draws(self) -> bool:
        """Whether the network draws from torch's global generator, which is then seeded for every step."""
        modules = list(self.module.modules())
        return any(isinstance(m, nn.Dropout) and m.p > 0 for m in modules) or any(
            getattr(m, "draws", False) for m in modules
        )

    def untrained(self) -> dict[str, Tensor]:
        """What belongs to the network as its weights do, and is not trained: buffers and frozen parameters of a user's own."""
        return {}

    @abstractmethod
    def prepared(self, values: EncodedConditions, generator: torch.Generator) -> EncodedConditions:
        """The encoded conditions of a batch, (B, …) each, as this step uses them: dropped, or with a degradation drawn."""

    @abstractmethod
    def losses(self, x: Tensor, eps: Tensor, level: Level, values: EncodedConditions, computing: Computing) -> Tensor:
        """The loss of each example (B,). x, eps: (B, ...); level: one per example."""


class DenoiserLearner(Learner):
    """A denoiser with an objective, its conditions dropped now and then."""

    def __init__(self, denoiser: Denoiser, objective: Objective) -> None:
        self.module = self.denoiser = denoiser
        self.objective = objective

    def prepared(self, values: EncodedConditions, generator: torch.Generator) -> EncodedConditions:
        values = self.denoiser.conditions.dropped(values, generator)
        module = known_condition(self.denoiser)
        if module is None or module.config.length is not None:  # where sequences end, samples are told too
            return values
        whole = torch.rand(len(values[KNOWN]), generator=generator) < TOLD_WHOLE
        return {**values, AS_WHOLE: whole.to(values[KNOWN].device)}

    def untrained(self) -> dict[str, Tensor]:
        return self.denoiser.untrained()

    def losses(self, x: Tensor, eps: Tensor, level: Level, values: EncodedConditions, computing: Computing) -> Tensor:
        costs: list[Tensor] = []
        module = known_condition(self.denoiser)
        known = None if module is None else values[KNOWN].expand_as(x)
        if module is not None and AS_WHOLE in values:
            told, whole = module.null_token().to(x.device), values[AS_WHOLE].reshape(-1, *[1] * (x.ndim - 1))
            values = {name: value for name, value in values.items() if name != AS_WHOLE}
            values[KNOWN] = torch.where(whole, told, values[KNOWN])

        def denoise(x_t: Tensor, level: Level) -> Posterior:
            with computing():
                posterior: Posterior = self.denoiser(x_t, level, values)
            cost = self.denoiser.network.pop_auxiliary_loss()
            costs.extend([] if cost is None else [cost / x[0].numel()])  # per dimension, as objectives are
            return posterior if known is None else right_where_missing(posterior, x, known)

        return sum(costs, self.objective(denoise, x, eps, level))


def known_condition(denoiser: Denoiser) -> KnownCondition | None:
    """What tells a model which numbers of an example are known, where it was trained on examples with holes."""
    return next((module for _, module in denoiser.conditions.items() if isinstance(module, KnownCondition)), None)


def right_where_missing(posterior: Posterior, x: Tensor, known: Tensor) -> Posterior:
    """A posterior of x (B, …) whose mean is x where it is not known, bool (B, …), and from which no gradient comes there."""
    variance = posterior.variance
    if isinstance(variance, LearnedRangeVariance):
        variance = LearnedRangeVariance(torch.where(known, variance.v, variance.v.detach()))
    elif isinstance(variance, LearnedVariance):
        variance = LearnedVariance(torch.where(known, variance.log_value, variance.log_value.detach()))
    return replace(posterior, mean=torch.where(known, posterior.mean, x), variance=variance)
