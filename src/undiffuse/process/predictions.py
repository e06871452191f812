"""Predictions: what the output F of a network means.

Whatever is predicted, the denoiser turns it into the clean estimate by one affine map (Karras et al. 2022, eq. 7),

    x̂ = c_skip · x_t + c_out · F( c_in · x_t ).                                                                  (1)

    predicts   target F*              c_skip                          c_out                            c_in
    clean      x                      0                               1                                1/h
    noise      eps                    1/alpha                         -sigma/alpha                     1/h
    velocity   alpha eps - sigma x    alpha/h²                        -sigma/h²                        1/h
    flow       eps - x                1/(alpha + sigma)               -sigma/(alpha + sigma)           1/h
    karras     see target             alpha sd²/k²                    sigma sd/k                       1/k
    mean       mean of q(x_s|x_t,x)   -on_xt/on_x                     1/on_x                           1

    h² = alpha² + sigma²,  k² = sigma² + alpha² sd²,  sd the standard deviation of the data.

`velocity` is Salimans & Ho 2022; `karras` is EDM's preconditioning with a signal coefficient alpha; `mean` is the
mu of DDPM (Ho et al. 2020, section 3.2), a statement about one chain, whose coefficients it therefore takes from that
chain's own bridges, found by the label.  A target needs no table of its own: substituting x_t = alpha x + sigma eps in
(1) and solving for F,

    F* = (1 - c_skip alpha)/c_out · x  -  c_skip sigma/c_out · eps,

and the error of F is the error of x̂ over c_out.

The belief x̂ depends on x_t only through its signal-to-noise ratio and its direction.  So a network trained on one schedule
denoises at any level of another: ask it at its own level of the same SNR, with x_t brought to the scale it has there,

    x̂ = c_skip° · s x_t + c_out° · F( c_in° · s x_t, label° ),      s = hypot(alpha°, sigma°)/hypot(alpha, sigma),       (2)

where ° marks the level that is asked.  Levels outside the range it was trained on are asked at the nearest end.  (2) is again
an affine map, `Translated`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.flow import angle_of, level_at, norm_of
from undiffuse.process.levels import Level, meet
from undiffuse.process.schedules import Schedule


@dataclass(frozen=True)
class Affine:
    """One row of the table above at a level: float64 coefficients of the level's shape."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


class Prediction(ABC):
    """What a network's output means."""

    @abstractmethod
    def affine(self, level: Level) -> Affine: ...

    def asked(self, level: Level) -> Level:
        """The level that the network is asked at, whose label its clock is told."""
        return level

    def target(self, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        """What the network should output for x_t = alpha x + sigma eps."""
        row = self.affine(level)
        on_x = (1 - row.c_skip * level.alpha) / row.c_out
        on_eps = -row.c_skip * level.sigma / row.c_out
        return meet(on_x, x) * x + meet(on_eps, x) * eps


def _one_over_norm(level: Level) -> Tensor:
    return 1 / torch.hypot(level.alpha, level.sigma)


@dataclass(frozen=True)
class Clean(Prediction):
    def affine(self, level: Level) -> Affine:
        one = torch.ones_like(level.alpha)
        return Affine(0 * one, one, _one_over_norm(level))


@dataclass(frozen=True)
class Noise(Prediction):
    def affine(self, level: Level) -> Affine:
        return Affine(1 / level.alpha, -level.sigma / level.alpha, _one_over_norm(level))


@dataclass(frozen=True)
class Velocity(Prediction):
    def affine(self, level: Level) -> Affine:
        norm2 = level.alpha**2 + level.sigma**2
        return Affine(level.alpha / norm2, -level.sigma / norm2, norm2.rsqrt())


@dataclass(frozen=True)
class FlowVelocity(Prediction):
    def affine(self, level: Level) -> Affine:
        total = level.alpha + level.sigma
        return Affine(1 / total, -level.sigma / total, _one_over_norm(level))


@dataclass(frozen=True)
class Karras(Prediction):
    sigma_data: float = 0.5

    def affine(self, level: Level) -> Affine:
        k2 = level.sigma**2 + (level.alpha * self.sigma_data) ** 2
        return Affine(
            level.alpha * self.sigma_data**2 / k2, level.sigma * self.sigma_data * k2.rsqrt(), k2.rsqrt()
        )


@dataclass(frozen=True)
class Mean(Prediction):
    """mu of the transition between neighbours of the chain the network was trained on."""

    chain: Chain
    bridges: Bridge

    def affine(self, level: Level) -> Affine:
        bridge = self.bridges[self.chain.row(level)]
        return Affine(-bridge.on_xt / bridge.on_x, 1 / bridge.on_x, torch.ones_like(bridge.on_x))


@dataclass(frozen=True)
class Translated(Prediction):
    """The prediction of a network that was trained on another schedule, its `clock`; eq. (2).

    The mean of a chain's transition exists at the chain's own levels alone, so there the nearest one is asked.
    """

    inner: Prediction
    clock: Schedule

    def asked(self, level: Level) -> Level:
        found = level_at(self.clock, angle_of(level))
        if isinstance(self.inner, Mean) and isinstance(self.clock, Chain):
            return self.clock.levels[self.clock.row(found)]
        return found

    def affine(self, level: Level) -> Affine:
        asked = self.asked(level)
        row, scale = self.inner.affine(asked), norm_of(asked) / norm_of(level)
        return Affine(scale * row.c_skip, row.c_out, scale * row.c_in)


PREDICTIONS = ("noise", "clean", "mean", "velocity", "flow", "karras")


def make_prediction(name: str, schedule: Schedule, sigma_data: float = 0.5, clock: Schedule | None = None) -> Prediction:
    """The prediction called `name` for networks used on `schedule`, and trained on `clock` where that is another.

    Raises UsageError where the two contradict each other: noise at alpha = 0, the mean off a chain, an unknown name.
    """
    if clock is not None:
        return Translated(make_prediction(name, clock, sigma_data), clock)
    if name == "noise" and schedule(schedule.t_max).alpha == 0:
        raise UsageError(
            "predicting the noise is undefined on a schedule with zero terminal SNR, where x_t is nothing but noise: "
            "use prediction 'velocity' (or clean, flow, karras), or a schedule that keeps some signal."
        )
    if name == "mean":
        if not isinstance(schedule, Chain):
            raise UsageError("prediction 'mean' is the mean of a chain's transition: use a discrete schedule with it.")
        return Mean(schedule, Bridge.table(schedule.levels))
    simple = {"noise": Noise(), "clean": Clean(), "velocity": Velocity(), "flow": FlowVelocity()}
    if name in simple:
        return simple[name]
    if name == "karras":
        return Karras(sigma_data)
    raise UsageError(f"there is no prediction {name!r}: choose one of {', '.join(PREDICTIONS)}.")
