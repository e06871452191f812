"""Objectives: what training minimises.

Simple   E[ w(t) |x̂ - x_0|² ].  Because x̂ - x_0 = c_out (F - F*), every loss on every prediction is a choice of the
         weight w, all of them functions of the level alone:

         unit       1/c_out²                     plain MSE of what the network predicts (DDPM's L_simple for noise)
         snr        SNR                          MSE of the noise, whatever is predicted
         min_snr    min(SNR, gamma)              Hang et al. 2023
         p2         SNR / (k + SNR)^gamma        Choi et al. 2022
         sigmoid    SNR · sigmoid(b - lambda)    Kingma & Gao 2023; Hoogeboom et al. 2024
         edm        (sigma² + alpha² sd²) / (sigma sd)²     Karras et al. 2022: unit for karras

Bound    the variational bound itself, T · L_{t-1} for a uniformly drawn t, in bits/dim (Ho et al. 2020, eq. 5).
Hybrid   Simple + 0.001 · Bound, the bound's mean detached so that it trains the variance alone
         (Nichol & Dhariwal 2021, eq. 16).

All take a `Denoise`, so they run on exact denoisers as well as on networks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from undiffuse.process.bridges import Bridge
from undiffuse.process.categories import Categories
from undiffuse.process.chains import Chain
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level
from undiffuse.process.likelihood.bound import LOG_2, Decoder, per_dimension, step_term
from undiffuse.process.posteriors import DenoiserFn, Posterior
from undiffuse.process.predictions import Prediction
from undiffuse.process.schedules import Schedule
from undiffuse.registry import Registry

Weight = Callable[[Level], Tensor]
"""Level → the float64 weight of |x̂ - x_0|²."""
OwnLoss = Callable[[DenoiserFn, Tensor, Tensor, Level, Weight], Tensor]
"""(denoise, x, eps, level, weight) → the loss of each example."""


def unit_weight(prediction: Prediction) -> Weight:
    """1/c_out²: the mean square error of what the network predicts."""
    return lambda level: prediction.affine(level).c_out ** -2


def snr_weight() -> Weight:
    """The SNR: the mean square error of eps, whatever is predicted."""
    return lambda level: level.snr


def min_snr_weight(gamma: float = 5.0) -> Weight:
    """The SNR, at most gamma (Hang et al. 2023)."""
    return lambda level: level.snr.clamp(max=gamma)


def p2_weight(gamma: float = 1.0, k: float = 1.0) -> Weight:
    """SNR / (k + SNR)^gamma (Choi et al. 2022)."""
    return lambda level: level.snr / (k + level.snr) ** gamma


def sigmoid_weight(bias: float = 0.0) -> Weight:
    """SNR · sigmoid(bias - log-SNR) (Kingma & Gao 2023)."""
    return lambda level: level.snr * torch.sigmoid(bias - level.logsnr)


def edm_weight(sigma_data: float = 0.5) -> Weight:
    """(sigma² + alpha² sd²)/(sigma sd)² with sd = sigma_data (Karras et al. 2022)."""
    return lambda level: (level.sigma**2 + (level.alpha * sigma_data) ** 2) / (level.sigma * sigma_data) ** 2


@dataclass(frozen=True)
class WeightEntry:
    """A loss weight by name.   make: it, from the constants it has.   constants: the fields of TrainingConfig, and of Design, among them."""

    make: Callable[..., Weight]
    constants: tuple[str, ...] = ()


LOSS_WEIGHTS: Registry[WeightEntry] = Registry(
    "loss weight",
    "undiffuse.loss_weights",
    {
        "unit": WeightEntry(unit_weight, ("prediction",)),
        "snr": WeightEntry(snr_weight),
        "min_snr": WeightEntry(min_snr_weight, ("gamma",)),
        "p2": WeightEntry(p2_weight, ("gamma",)),
        "sigmoid": WeightEntry(sigmoid_weight, ("bias",)),
        "edm": WeightEntry(edm_weight, ("sigma_data",)),
    },
)


def register_loss_weight(name: str, weight: Weight) -> None:
    """Makes a loss weight of one's own known as `name`, to `undiffuse.train(weight=name)`.

    weight: Level → the weight of |x̂ - x_0|² at each of its levels, float64, such as `lambda level: level.snr.sqrt()`.
    Raises UsageError for a name that is taken.
    """
    LOSS_WEIGHTS.register(name, WeightEntry(lambda: weight), weight)


def make_weight(
    name: str, prediction: Prediction, sigma_data: float, gamma: float | None = None, bias: float | None = None
) -> Weight:
    """The weight called `name`.

    sigma_data: standard deviation of the data, of edm.   gamma: of min_snr and p2.   bias: of sigmoid; None for the papers' values.
    Raises UsageError for an unknown name.
    """
    entry = LOSS_WEIGHTS[name]
    known = {"prediction": prediction, "sigma_data": sigma_data, "gamma": gamma, "bias": bias}
    return entry.make(**{constant: known[constant] for constant in entry.constants if known[constant] is not None})


class Objective(ABC):
    """What training minimises: a loss for each example."""

    @abstractmethod
    def __call__(self, denoise: DenoiserFn, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        """The loss of each example (B,). x, eps: (B, ...); level: one per example."""


def weighted_error(posterior: Posterior, x: Tensor, level: Level, weight: Weight) -> Tensor:
    """w |x̂ - x_0|², the mean over dimensions, (B,)."""
    return per_dimension((posterior.mean - x) ** 2) * weight(level).to(x)


@dataclass(frozen=True)
class Simple(Objective):
    """w(level) |x̂ - x_0|²; of categories, the cross-entropy, see process/categories.py."""

    weight: Weight
    categories: Categories | None = None

    def __call__(self, denoise: DenoiserFn, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        posterior = denoise(add_noise(x, level, eps), level)
        if self.categories is None:
            return weighted_error(posterior, x, level, self.weight)
        assert posterior.log_p is not None  # of a denoiser with the same categories
        squares = (posterior.mean - x) ** 2
        return self.categories.error(posterior.log_p, squares, x, self.weight(level).to(x).expand(len(x)))


@dataclass(frozen=True)
class VariationalBound(Objective):
    """chain: the one trained on; bridges: its table."""

    chain: Chain
    bridges: Bridge
    decoder: Decoder

    def __call__(self, denoise: DenoiserFn, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        bridge = self.bridges[self.chain.row(level)]
        term = step_term(denoise, x, add_noise(x, level, eps), level, bridge, self.decoder)
        return len(self.chain) * term / LOG_2


@dataclass(frozen=True)
class Hybrid(Objective):
    """The simple loss, and `share` times the bound with its mean detached, which trains the variance alone (Nichol & Dhariwal 2021, eq. 16)."""

    simple: Simple
    bound: VariationalBound
    share: float = 0.001

    def __call__(self, denoise: DenoiserFn, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        posterior = denoise(add_noise(x, level, eps), level)
        detached = replace(posterior, mean=posterior.mean.detach())
        bound = self.bound(lambda x_t, level: detached, x, eps, level)
        return weighted_error(posterior, x, level, self.simple.weight) + self.share * bound


@dataclass(frozen=True)
class ObjectiveEntry:
    """An objective by name.   make: it, from the simple one with the run's weight, the schedule, and the likelihood of the cleanest level.

    bound: whether it holds the variational bound, which is one over a discrete chain.   variance: whether it trains a learned variance, and
    needs one where it trains nothing else.
    """

    make: Callable[[Simple, Schedule, Decoder], Objective]
    bound: bool = False
    variance: Literal["none", "any", "learned"] = "none"


@dataclass(frozen=True)
class OwnObjective(Objective):
    """An objective of a user's own, with the run's weight."""

    loss: OwnLoss
    weight: Weight

    def __call__(self, denoise: DenoiserFn, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        return self.loss(denoise, x, eps, level, self.weight)


def _bound(schedule: Schedule, decoder: Decoder) -> VariationalBound:
    assert isinstance(schedule, Chain)  # Design refuses others
    return VariationalBound(schedule, Bridge.table(schedule.levels), decoder)


OBJECTIVES: Registry[ObjectiveEntry] = Registry(
    "objective",
    "undiffuse.objectives",
    {
        "simple": ObjectiveEntry(lambda simple, schedule, decoder: simple),
        "bound": ObjectiveEntry(lambda simple, schedule, decoder: _bound(schedule, decoder), True, "any"),
        "hybrid": ObjectiveEntry(
            lambda simple, schedule, decoder: Hybrid(simple, _bound(schedule, decoder)), True, "learned"
        ),
    },
)


def register_objective(name: str, loss: OwnLoss) -> None:
    """Makes an objective of one's own known as `name`, to `undiffuse.train(objective=name)`.

    loss: (denoise, x, eps, level, weight) → the loss of each example, (B,).   x, eps: examples and noise (B, C, *size); level: one for each;
    denoise(add_noise(x, level, eps), level).mean is x̂; weight(level): the run's weight of |x̂ - x_0|², float64 (B,).
    Raises UsageError for a name that is taken.
    """
    OBJECTIVES.register(name, ObjectiveEntry(lambda simple, schedule, decoder: OwnObjective(loss, simple.weight)), loss)
