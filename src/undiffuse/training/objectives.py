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

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level
from undiffuse.process.likelihood.bound import LOG_2, Decoder, per_dimension, step_term
from undiffuse.process.posteriors import DenoiserFn, Posterior
from undiffuse.process.predictions import Prediction

Weight = Callable[[Level], Tensor]
"""Level → the float64 weight of |x̂ - x_0|²."""


def unit_weight(prediction: Prediction) -> Weight:
    return lambda level: prediction.affine(level).c_out ** -2


def snr_weight() -> Weight:
    return lambda level: level.snr


def min_snr_weight(gamma: float = 5.0) -> Weight:
    return lambda level: level.snr.clamp(max=gamma)


def p2_weight(gamma: float = 1.0, k: float = 1.0) -> Weight:
    return lambda level: level.snr / (k + level.snr) ** gamma


def sigmoid_weight(b: float = 0.0) -> Weight:
    return lambda level: level.snr * torch.sigmoid(b - level.logsnr)


def edm_weight(sigma_data: float = 0.5) -> Weight:
    return lambda level: (level.sigma**2 + (level.alpha * sigma_data) ** 2) / (level.sigma * sigma_data) ** 2


WEIGHTS = ("unit", "snr", "min_snr", "p2", "sigmoid", "edm")


def make_weight(
    name: str, prediction: Prediction, sigma_data: float, gamma: float | None = None, bias: float | None = None
) -> Weight:
    """The weight called `name`. gamma (of min_snr and p2) and bias (of sigmoid): the papers' where None."""
    makers: dict[str, Callable[[], Weight]] = {
        "unit": lambda: unit_weight(prediction),
        "snr": snr_weight,
        "min_snr": lambda: min_snr_weight() if gamma is None else min_snr_weight(gamma),
        "p2": lambda: p2_weight() if gamma is None else p2_weight(gamma),
        "sigmoid": lambda: sigmoid_weight() if bias is None else sigmoid_weight(bias),
        "edm": lambda: edm_weight(sigma_data),
    }
    if name not in makers:
        raise UsageError(f"there is no loss weight {name!r}: choose one of {', '.join(WEIGHTS)}.")
    return makers[name]()


class Objective(ABC):
    @abstractmethod
    def __call__(self, denoise: DenoiserFn, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        """The loss of each example (B,). x, eps: (B, ...); level: one per example."""


def weighted_error(posterior: Posterior, x: Tensor, level: Level, weight: Weight) -> Tensor:
    """w |x̂ - x_0|², the mean over dimensions, (B,)."""
    return per_dimension((posterior.mean - x) ** 2) * weight(level).to(x)


@dataclass(frozen=True)
class Simple(Objective):
    weight: Weight

    def __call__(self, denoise: DenoiserFn, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        return weighted_error(denoise(add_noise(x, level, eps), level), x, level, self.weight)


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
    simple: Simple
    bound: VariationalBound
    share: float = 0.001

    def __call__(self, denoise: DenoiserFn, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        posterior = denoise(add_noise(x, level, eps), level)
        detached = replace(posterior, mean=posterior.mean.detach())
        bound = self.bound(lambda x_t, level: detached, x, eps, level)
        return weighted_error(posterior, x, level, self.simple.weight) + self.share * bound
