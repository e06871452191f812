"""Predictions: what the output F of a network means.

Whatever is predicted, the denoiser turns it into the clean estimate by one affine map (Karras et al. 2022, eq. 7),

    x̂ = c_skip · x_t + c_out · F( c_in · x_t ).                                                                  (1)

    predicts   target F*              c_skip                          c_out                            c_in
    x0         x                      0                               1                                1/h
    epsilon    eps                    1/alpha                         -sigma/alpha                     1/h
    v          alpha eps - sigma x    alpha/h²                        -sigma/h²                        1/h
    flow       eps - x                1/(alpha + sigma)               -sigma/(alpha + sigma)           1/h
    edm        see target             alpha sd²/k²                    sigma sd/k                       1/k
    posterior_mean  mu of q(x_s|x_t,x)  -on_xt/on_x                     1/on_x                           1

    h² = alpha² + sigma²,  k² = sigma² + alpha² sd²,  sd the standard deviation of the data.

`v` is Salimans & Ho 2022; `edm` is EDM's preconditioning with a signal coefficient alpha; `posterior_mean` is the
mu of DDPM (Ho et al. 2020, section 3.2), a statement about one chain, whose coefficients it therefore takes from that
chain's own bridges, found by the timestep.  A target needs no table of its own: substituting x_t = alpha x + sigma eps in
(1) and solving for F,

    F* = (1 - c_skip alpha)/c_out · x  -  c_skip sigma/c_out · eps,

and the error of F is the error of x̂ over c_out.

x̂ depends on x_t only through its signal-to-noise ratio and its direction.  So a network trained on one schedule
denoises at any level of another: evaluate it at its own level of the same SNR, with x_t brought to the scale it has there,

    x̂ = c_skip° · s x_t + c_out° · F( c_in° · s x_t, timestep° ),      s = hypot(alpha°, sigma°)/hypot(alpha, sigma),       (2)

where ° marks the network's level.  Levels outside the range it was trained on are evaluated at the nearest end.  (2) is again
an affine map, `Rescheduled`.

Networks of others have other inputs and timesteps.  What the network receives of the level can be changed without
touching what its output means (`Preconditioned`; c_in and c_noise are Karras et al. 2022's names, eq. 7): x_t may be passed as it
is, c_in = 1, and the timestep may be any

    c_noise = scale · v + shift,     v the level's timestep, or ln(sigma/alpha).                                              (3)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.probability_flow import angle_of, level_at, norm_of
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
    def affine(self, level: Level) -> Affine:
        """The coefficients of eq. (1) at a level, float64 of the level's shape."""

    def network_level(self, level: Level) -> Level:
        """The level that the network is evaluated at, and whose timestep it receives; of the level's shape."""
        return level

    def c_noise(self, level: Level) -> Tensor:
        """What the network receives as its timestep at a level, float64 of the level's shape."""
        return self.network_level(level).timestep

    def target(self, x: Tensor, eps: Tensor, level: Level) -> Tensor:
        """What the network should output for x_t = alpha x + sigma eps."""
        row = self.affine(level)
        on_x = (1 - row.c_skip * level.alpha) / row.c_out
        on_eps = -row.c_skip * level.sigma / row.c_out
        return broadcast_to(on_x, x) * x + broadcast_to(on_eps, x) * eps


def _one_over_norm(level: Level) -> Tensor:
    return 1 / torch.hypot(level.alpha, level.sigma)


@dataclass(frozen=True)
class X0Prediction(Prediction):
    """The network predicts x_0."""

    def affine(self, level: Level) -> Affine:
        one = torch.ones_like(level.alpha)
        return Affine(0 * one, one, _one_over_norm(level))


@dataclass(frozen=True)
class EpsilonPrediction(Prediction):
    """The network predicts eps."""

    def affine(self, level: Level) -> Affine:
        return Affine(1 / level.alpha, -level.sigma / level.alpha, _one_over_norm(level))


@dataclass(frozen=True)
class VPrediction(Prediction):
    """The network predicts v = alpha eps - sigma x_0 (Salimans & Ho 2022)."""

    def affine(self, level: Level) -> Affine:
        norm2 = level.alpha**2 + level.sigma**2
        return Affine(level.alpha / norm2, -level.sigma / norm2, norm2.rsqrt())


@dataclass(frozen=True)
class FlowPrediction(Prediction):
    """The network predicts eps - x_0, the velocity of rectified flow."""

    def affine(self, level: Level) -> Affine:
        total = level.alpha + level.sigma
        return Affine(1 / total, -level.sigma / total, _one_over_norm(level))


@dataclass(frozen=True)
class EDMPrediction(Prediction):
    """EDM's preconditioning (Karras et al. 2022, table 1).   sigma_data: standard deviation of the data, in the model's range."""

    sigma_data: float = 0.5

    def affine(self, level: Level) -> Affine:
        k2 = level.sigma**2 + (level.alpha * self.sigma_data) ** 2
        return Affine(level.alpha * self.sigma_data**2 / k2, level.sigma * self.sigma_data * k2.rsqrt(), k2.rsqrt())


@dataclass(frozen=True)
class PosteriorMeanPrediction(Prediction):
    """mu of the transition between neighbours of the chain the network was trained on."""

    chain: Chain
    bridges: Bridge

    def affine(self, level: Level) -> Affine:
        bridge = self.bridges[self.chain.row(level)]
        return Affine(-bridge.on_xt / bridge.on_x, 1 / bridge.on_x, torch.ones_like(bridge.on_x))


@dataclass(frozen=True)
class Rescheduled(Prediction):
    """The prediction of a network that was trained on another schedule, `trained_schedule`; eq. (2).

    The mean of a chain's transition exists at the chain's own levels alone, so the nearest of these is used.
    """

    inner: Prediction
    trained_schedule: Schedule

    def network_level(self, level: Level) -> Level:
        found = level_at(self.trained_schedule, angle_of(level))
        plain = self.inner.inner if isinstance(self.inner, Preconditioned) else self.inner
        if isinstance(plain, PosteriorMeanPrediction) and isinstance(self.trained_schedule, Chain):
            return self.trained_schedule.levels[self.trained_schedule.row(found)]
        return found

    def affine(self, level: Level) -> Affine:
        there = self.network_level(level)
        row, scale = self.inner.affine(there), norm_of(there) / norm_of(level)
        return Affine(scale * row.c_skip, row.c_out, scale * row.c_in)

    def c_noise(self, level: Level) -> Tensor:
        return self.inner.c_noise(self.network_level(level))


@dataclass(frozen=True)
class CNoise:
    """Eq. (3).   of: the timestep, "timestep", or ln(sigma/alpha), "log_sigma"."""

    of: Literal["timestep", "log_sigma"] = "timestep"
    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, level: Level) -> Tensor:
        return self.scale * (level.timestep if self.of == "timestep" else level.sigma_edm.log()) + self.shift


@dataclass(frozen=True)
class Preconditioned(Prediction):
    """A prediction by a network that receives c_noise, eq. (3), and x_t as it is where `unscaled`."""

    inner: Prediction
    noise: CNoise
    unscaled: bool = False

    def affine(self, level: Level) -> Affine:
        row = self.inner.affine(level)
        return replace(row, c_in=torch.ones_like(row.c_in)) if self.unscaled else row

    def c_noise(self, level: Level) -> Tensor:
        return self.noise(level)


PREDICTIONS = ("epsilon", "x0", "posterior_mean", "v", "flow", "edm")


def make_prediction(
    name: str,
    schedule: Schedule,
    sigma_data: float = 0.5,
    trained_schedule: Schedule | None = None,
    noise: CNoise | None = None,
    unscaled: bool = False,
) -> Prediction:
    """The prediction called `name` for networks used on `schedule`, and trained on `trained_schedule` where that is another.

    noise: what the network receives where that is not the level's timestep.   unscaled: whether it receives x_t as it is, c_in = 1.
    Raises UsageError where these contradict each other: noise, or ln(sigma/alpha), at alpha = 0, the mean off a chain, an unknown name.
    """
    if trained_schedule is not None:
        return Rescheduled(make_prediction(name, trained_schedule, sigma_data, None, noise, unscaled), trained_schedule)
    if noise is not None or unscaled:
        noise = noise or CNoise()
        if noise.of == "log_sigma" and schedule(schedule.t_max).alpha == 0:
            raise UsageError(
                "c_noise of log_sigma is infinite on a schedule that ends in pure noise: use the timestep, c_noise.of=timestep."
            )
        return Preconditioned(make_prediction(name, schedule, sigma_data), noise, unscaled)
    if name == "epsilon" and schedule(schedule.t_max).alpha == 0:
        raise UsageError(
            "predicting the noise is undefined on a schedule with zero terminal SNR, where x_t is nothing but noise: "
            "use prediction 'v' (or x0, flow, edm), or a schedule that keeps some signal."
        )
    if name == "posterior_mean":
        if not isinstance(schedule, Chain):
            raise UsageError(
                "prediction 'posterior_mean' is the mean of a chain's transition: use a discrete schedule with it."
            )
        return PosteriorMeanPrediction(schedule, Bridge.table(schedule.levels))
    simple = {
        "epsilon": EpsilonPrediction(),
        "x0": X0Prediction(),
        "v": VPrediction(),
        "flow": FlowPrediction(),
    }
    if name in simple:
        return simple[name]
    if name == "edm":
        return EDMPrediction(sigma_data)
    raise UsageError(f"there is no prediction {name!r}: choose one of {', '.join(PREDICTIONS)}.")
