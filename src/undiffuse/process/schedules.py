"""Noise schedules: what maps a time to a level.

A schedule is two choices.  The *curve* says how the log signal-to-noise ratio lambda falls with time; the *family*
says which (alpha, sigma) of that ratio is used, i.e. how x_t is scaled:

    family                alpha                    sigma                    constraint
    variance preserving   sqrt(sigmoid(lambda))    sqrt(sigmoid(-lambda))   alpha² + sigma² = 1
    variance exploding    1                        exp(-lambda/2)           alpha = 1
    flow                  sigmoid(lambda/2)        sigmoid(-lambda/2)       alpha + sigma = 1
    sub-VP                the root of              1 - alpha²               sigma = 1 - alpha²
                          alpha/(1-alpha²) = exp(lambda/2)

Because the family is a function of lambda, shifting the SNR of a schedule (for a higher resolution, say) keeps its
family and every label: it is lambda(t) + shift and nothing else.  `at` inverts the curve: at(schedule(t).logsnr) = t.
The discrete chains of the DDPM papers are in chains.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from undiffuse.process.levels import Level

Family = Callable[[Tensor], tuple[Tensor, Tensor]]


def variance_preserving(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) with alpha² + sigma² = 1, of the shape of the log-SNR."""
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()


def variance_exploding(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) with alpha = 1, of the shape of the log-SNR."""
    return torch.ones_like(logsnr), (-logsnr / 2).exp()


def flow(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) with alpha + sigma = 1, of the shape of the log-SNR."""
    return (logsnr / 2).sigmoid(), (-logsnr / 2).sigmoid()


def sub_variance_preserving(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """r alpha² + alpha - r = 0 with r = exp(lambda/2), solved in the form that does not cancel.

    1/r = exp(-lambda/2) is used instead of r, so that both ends stay finite: alpha = 2/(1/r + sqrt(1/r² + 4)), and
    sigma = alpha/r by the definition of r.
    """
    inverse = (-logsnr / 2).exp()
    alpha = 2 / (inverse + torch.sqrt(inverse**2 + 4))
    return alpha, torch.where(inverse.isinf(), 1.0, alpha * inverse)


class Schedule(ABC):
    """A noise schedule on the times [t_min, t_max]; noise grows with t.

    family: the (alpha, sigma) that belong to a log-SNR.
    """

    t_min: float
    t_max: float
    family: Family

    @abstractmethod
    def logsnr(self, t: Tensor) -> Tensor:
        """The curve: float64 log-SNR at float64 times of any shape; strictly decreasing."""

    @abstractmethod
    def at(self, logsnr: Tensor) -> Tensor:
        """The time, float64 of the same shape, at which the curve has this log-SNR."""

    def timestep(self, t: Tensor) -> Tensor:
        """What the network receives at times of any shape: 1000 t, or the index of a chain."""
        return 1000 * t

    def nearest(self, t: Tensor) -> Tensor:
        """The nearest times, of the same shape, that the schedule can be trained at: t itself, whole numbers for a chain."""
        return t.clamp(self.t_min, self.t_max)

    def time(self, share: Tensor) -> Tensor:
        """Times spread evenly: shares in (0, 1) of the schedule → times, before `nearest`."""
        return self.t_min + share * (self.t_max - self.t_min)

    def __call__(self, t: Tensor | Sequence[float] | float) -> Level:
        t = torch.as_tensor(t, dtype=torch.float64)
        alpha, sigma = self.family(self.logsnr(t))
        return Level(alpha, sigma, self.timestep(t))

    def shifted(self, shift: float) -> Schedule:
        """The same schedule with `shift` added to every log-SNR; negative values add noise.

        For images of side d, shift = 2 log(64/d) keeps the noise seen by a 64-pixel average the same
        (Hoogeboom et al. 2023, "simple diffusion", eq. 4).
        """
        return Shifted(self, shift)


@dataclass(frozen=True, eq=False)
class Shifted(Schedule):
    """A schedule whose log-SNR is another's plus a constant."""

    inner: Schedule
    shift: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "t_min", self.inner.t_min)
        object.__setattr__(self, "t_max", self.inner.t_max)
        object.__setattr__(self, "family", self.inner.family)

    def logsnr(self, t: Tensor) -> Tensor:
        return self.inner.logsnr(t) + self.shift

    def at(self, logsnr: Tensor) -> Tensor:
        return self.inner.at(logsnr - self.shift)

    def timestep(self, t: Tensor) -> Tensor:
        return self.inner.timestep(t)


@dataclass(frozen=True, eq=False)
class VP(Schedule):
    """The variance-preserving SDE, d beta linear in t (Song et al. 2021, eq. 32-33).

    alpha² = exp(-B), B(t) = t²(beta_max - beta_min)/2 + t beta_min, hence lambda = -log(exp(B) - 1).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0
    family = staticmethod(variance_preserving)

    def _B(self, t: Tensor) -> Tensor:
        return t**2 * (self.beta_max - self.beta_min) / 2 + t * self.beta_min

    def _time(self, B: Tensor) -> Tensor:
        slope = self.beta_max - self.beta_min
        return 2 * B / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * slope * B))

    def logsnr(self, t: Tensor) -> Tensor:
        B = self._B(t)
        return -B - torch.log(-torch.expm1(-B))

    def at(self, logsnr: Tensor) -> Tensor:
        return self._time(softplus(-logsnr, threshold=100.0))


@dataclass(frozen=True, eq=False)
class SubVP(Schedule):
    """The levels of the sub-VP SDE: alpha = exp(-B/2), sigma = 1 - exp(-B) (Song et al. 2021, eq. 29)."""

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0
    family = staticmethod(sub_variance_preserving)

    def logsnr(self, t: Tensor) -> Tensor:
        B = VP(self.beta_min, self.beta_max)._B(t)
        return -B - 2 * torch.log(-torch.expm1(-B))

    def at(self, logsnr: Tensor) -> Tensor:
        alpha, _ = sub_variance_preserving(logsnr)
        return VP(self.beta_min, self.beta_max)._time(-2 * alpha.log())


@dataclass(frozen=True, eq=False)
class VE(Schedule):
    """The variance-exploding SDE: sigma grows geometrically in t (Song et al. 2021, eq. 30)."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 0.0
    t_max: float = 1.0
    family = staticmethod(variance_exploding)

    def logsnr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_min) + t * math.log(self.sigma_max / self.sigma_min))

    def at(self, logsnr: Tensor) -> Tensor:
        return (-logsnr / 2 - math.log(self.sigma_min)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True, eq=False)
class EDM(Schedule):
    """Time is sigma itself (Karras et al. 2022, Table 1); the label is 1000 · c_noise = 250 ln sigma."""

    t_min: float = 0.002
    t_max: float = 80.0
    family = staticmethod(variance_exploding)

    def logsnr(self, t: Tensor) -> Tensor:
        return -2 * t.log()

    def at(self, logsnr: Tensor) -> Tensor:
        return (-logsnr / 2).exp()

    def timestep(self, t: Tensor) -> Tensor:
        return 250 * t.log()


@dataclass(frozen=True, eq=False)
class Cosine(Schedule):
    """alpha = cos(pi t/2), sigma = sin(pi t/2) in continuous time, cut where |lambda| reaches logsnr_max."""

    logsnr_max: float = 15.0
    family = staticmethod(variance_preserving)

    def __post_init__(self) -> None:
        edge = 2 / math.pi * math.atan(math.exp(-self.logsnr_max / 2))
        object.__setattr__(self, "t_min", edge)
        object.__setattr__(self, "t_max", 1 - edge)

    def logsnr(self, t: Tensor) -> Tensor:
        return -2 * torch.log(torch.tan(torch.pi * t / 2))

    def at(self, logsnr: Tensor) -> Tensor:
        return 2 / torch.pi * torch.atan((-logsnr / 2).exp())


@dataclass(frozen=True, eq=False)
class Flow(Schedule):
    """alpha = 1 - t, sigma = t: rectified flow, flow matching (Liu et al. 2023; Lipman et al. 2023).

    Ends in pure noise (alpha = 0 at t = 1), so noise prediction is undefined there.
    """

    t_min: float = 1e-3
    t_max: float = 1.0
    family = staticmethod(flow)

    def logsnr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - t.log())

    def at(self, logsnr: Tensor) -> Tensor:
        return (-logsnr / 2).sigmoid()


@dataclass(frozen=True, eq=False)
class FlowPolynomial(Schedule):
    """alpha = (1 - t)^power, sigma = 1 - alpha: the polynomial paths of flow matching.

    The PolynomialConvexScheduler of Lipman et al. 2024's library, whose time is 1 - t.  A power of 1 is `Flow`; a larger one spends more of its
    time in noise.  alpha = 0 at t = 1.
    """

    power: float = 2.0
    t_min: float = 1e-3
    t_max: float = 1.0
    family = staticmethod(flow)

    def logsnr(self, t: Tensor) -> Tensor:
        log_alpha = self.power * torch.log1p(-t)
        return 2 * (log_alpha - torch.log(-torch.expm1(log_alpha)))

    def at(self, logsnr: Tensor) -> Tensor:
        return -torch.expm1(logsigmoid(logsnr / 2) / self.power)


@dataclass(frozen=True, eq=False)
class LinearVP(Schedule):
    """alpha = 1 - t, sigma = sqrt(1 - alpha²): the variance-preserving path with a linear signal.

    The LinearVPScheduler of Lipman et al. 2024's library, whose time is 1 - t.  alpha = 0 at t = 1.
    """

    t_min: float = 1e-6  # where sigma is 1.4e-3: it rises as sqrt(2 t)
    t_max: float = 1.0
    family = staticmethod(variance_preserving)

    def logsnr(self, t: Tensor) -> Tensor:
        return 2 * torch.log1p(-t) - torch.log(t * (2 - t))

    def at(self, logsnr: Tensor) -> Tensor:
        return -torch.expm1(logsigmoid(logsnr) / 2)


@dataclass(frozen=True, eq=False)
class Laplace(Schedule):
    """Times uniform in t give a Laplace(mu, b) density of log-SNRs (Hang et al. 2024, Table 1).

    lambda(t) = mu - b sgn(1/2 - t) log(1 - 2|t - 1/2|), cut where |lambda - mu| reaches logsnr_max.
    """

    mu: float = 0.0
    b: float = 0.5
    logsnr_max: float = 10.0
    family = staticmethod(variance_preserving)

    def __post_init__(self) -> None:
        edge = math.exp(-self.logsnr_max / self.b) / 2
        object.__setattr__(self, "t_min", edge)
        object.__setattr__(self, "t_max", 1 - edge)

    def logsnr(self, t: Tensor) -> Tensor:
        tail = torch.minimum(t, 1 - t)
        return self.mu - self.b * torch.sign(0.5 - t) * torch.log(2 * tail)

    def at(self, logsnr: Tensor) -> Tensor:
        distance = (logsnr - self.mu) / self.b
        tail = (-distance.abs()).exp() / 2
        return torch.where(distance >= 0, tail, 1 - tail)


CONTINUOUS: dict[str, Callable[[], Schedule]] = {
    "vp": VP,
    "sub_vp": SubVP,
    "ve": VE,
    "edm": EDM,
    "cosine_continuous": Cosine,
    "flow": Flow,
    "flow_polynomial": FlowPolynomial,
    "linear_vp": LinearVP,
    "laplace": Laplace,
}
