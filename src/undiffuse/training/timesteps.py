"""Level samplers: at which noise levels to train.

A sampler is two choices.  Numbers u in (0, 1) are drawn independently, or stratified over the batch,
u_i = (i + u_0)/B mod 1, which estimates the same mean with less variance (Kingma et al. 2021, appendix I.1).  A density
turns u into a time through its inverse distribution function:

    uniform       t uniform on the schedule
    log_normal    ln(sigma/alpha) ~ N(mean, std²)                       (Karras et al. 2022, Table 1)
    logit_normal  logit(t), t on [0, 1], ~ N(mean, std²)                (Esser et al. 2024, section 3.1)
    loss_aware    p_t ∝ sqrt(E[L_t²]), importance-weighted by 1/(T p_t)       (Nichol & Dhariwal 2021, eq. 18)

The first three change what is minimised; loss_aware keeps the expected loss and lowers its variance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.chains import Chain
from undiffuse.process.schedules import Schedule

HISTORY = 10
UNIFORM_SHARE = 0.001
CONTINUOUS_BINS = 100


def draw_timesteps(n: int, stratified: bool, generator: torch.Generator) -> Tensor:
    """n numbers in (0, 1), float64 (n,)."""
    if not stratified:
        return torch.rand(n, dtype=torch.float64, generator=generator)
    first = torch.rand((), dtype=torch.float64, generator=generator)
    return (torch.arange(n, dtype=torch.float64) / n + first) % 1


class TimestepSampler(ABC):
    """Times to train at. `state` is what has been learned about the losses, saved with a run."""

    default = (0.0, 1.0)  # mean and std, of the densities that have them
    state: dict[str, Tensor]

    def __init__(
        self, schedule: Schedule, stratified: bool, mean: float | None = None, std: float | None = None
    ) -> None:
        self.schedule, self.stratified = schedule, stratified
        self.mean = self.default[0] if mean is None else mean
        self.std = self.default[1] if std is None else std
        self.state = {}

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(times (n,), importance weights (n,)), float64 on the CPU."""
        t, weight = self.quantile(draw_timesteps(n, self.stratified, generator))
        return self.schedule.nearest(t), weight

    @abstractmethod
    def quantile(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse distribution function: shares u (n,) in (0, 1) → (times, importance weights), (n,) each, float64."""

    def update(self, t: Tensor, losses: Tensor) -> None:  # noqa: B027 - most samplers learn nothing
        """Learns from the unweighted losses (n,) at the times t (n,) that were drawn."""


class Uniform(TimestepSampler):
    """Every time of the schedule equally often."""

    def quantile(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.time(u), torch.ones_like(u)


class LogNormal(TimestepSampler):
    """EDM's defaults, for data of standard deviation 0.5."""

    default = (-1.2, 1.2)

    def quantile(self, u: Tensor) -> tuple[Tensor, Tensor]:
        log_ratio = self.mean + self.std * torch.special.ndtri(u)
        return self.schedule.at(-2 * log_ratio), torch.ones_like(u)


class LogitNormal(TimestepSampler):
    """The logit of the time's share of the schedule is N(mean, std²) (Esser et al. 2024, section 3.1)."""

    default = (0.0, 1.0)

    def quantile(self, u: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))
        return self.schedule.time(share), torch.ones_like(u)


class LossAware(TimestepSampler):
    """One bin per level of a chain, 100 bins on continuous time; uniform until every bin has ten losses."""

    def __init__(
        self, schedule: Schedule, stratified: bool, mean: float | None = None, std: float | None = None
    ) -> None:
        super().__init__(schedule, stratified, mean, std)
        count = len(schedule) if isinstance(schedule, Chain) else CONTINUOUS_BINS
        self.state = {
            "losses": torch.zeros(count, HISTORY, dtype=torch.float64),
            "seen": torch.zeros(count, dtype=torch.int64),
        }

    def density(self) -> Tensor:
        """The probability of each bin, (bins,)."""
        losses, seen = self.state["losses"], self.state["seen"]
        count = len(seen)
        if (seen < HISTORY).any():
            return torch.full((count,), 1 / count, dtype=torch.float64)
        p = (losses**2).mean(1).sqrt()
        return (1 - UNIFORM_SHARE) * p / p.sum() + UNIFORM_SHARE / count

    def quantile(self, u: Tensor) -> tuple[Tensor, Tensor]:
        p = self.density()
        edges = p.cumsum(0)
        bin_ = torch.searchsorted(edges, u).clamp(max=len(p) - 1)
        within = ((u - (edges[bin_] - p[bin_])) / p[bin_]).clamp(0, 1)
        return self.schedule.time((bin_ + within) / len(p)), 1 / (len(p) * p[bin_])

    def update(self, t: Tensor, losses: Tensor) -> None:
        start, end = self.schedule.time(torch.tensor([0.0, 1.0], dtype=torch.float64))
        count = len(self.state["seen"])
        bins = ((t - start) / (end - start) * count).long().clamp(0, count - 1)
        for bin_, loss in zip(bins.tolist(), losses.cpu().double().tolist(), strict=True):
            slot = int(self.state["seen"][bin_]) % HISTORY
            self.state["losses"][bin_, slot] = loss
            self.state["seen"][bin_] += 1


LEVEL_SAMPLERS: dict[str, type[TimestepSampler]] = {
    "uniform": Uniform,
    "log_normal": LogNormal,
    "logit_normal": LogitNormal,
    "loss_aware": LossAware,
}


def make_timestep_sampler(
    name: str, schedule: Schedule, stratified: bool, mean: float | None = None, std: float | None = None
) -> TimestepSampler:
    """The sampler called `name`.

    stratified: spreads the times of a batch evenly.   mean, std: of the densities that have them; their paper's where None.
    Raises UsageError for an unknown name.
    """
    if name not in LEVEL_SAMPLERS:
        raise UsageError(f"there is no level sampler {name!r}: choose one of {', '.join(LEVEL_SAMPLERS)}.")
    return LEVEL_SAMPLERS[name](schedule, stratified, mean, std)
