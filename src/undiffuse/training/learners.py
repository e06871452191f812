"""What the training loop trains: a network, and its loss on noised examples.

A denoiser minimises an objective, and what its network charges for each pass, such as an autoencoder's divergence; a classifier
(classifier.py) the cross-entropy of what is to be read off a noisy example.  Both see the same forward process, and the
loop does not know which it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.models.denoiser import Denoiser
from undiffuse.process.levels import Level
from undiffuse.process.posteriors import Posterior
from undiffuse.training.objectives import Objective

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
        return self.denoiser.conditions.dropped(values, generator)

    def untrained(self) -> dict[str, Tensor]:
        return self.denoiser.untrained()

    def losses(self, x: Tensor, eps: Tensor, level: Level, values: EncodedConditions, computing: Computing) -> Tensor:
        costs: list[Tensor] = []

        def denoise(x_t: Tensor, level: Level) -> Posterior:
            with computing():
                posterior: Posterior = self.denoiser(x_t, level, values)
            cost = self.denoiser.network.pop_auxiliary_loss()
            costs.extend([] if cost is None else [cost / x[0].numel()])  # per dimension, as objectives are
            return posterior

        return sum(costs, self.objective(denoise, x, eps, level))
