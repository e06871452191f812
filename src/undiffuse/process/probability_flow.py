"""The probability-flow ODE in the angle, the one coordinate in which it is finite from pure noise to clean data.

    phi = atan2(sigma, alpha),    y = x_t / hypot(alpha, sigma),    dy/dphi = (alpha eps - sigma x̂) / hypot(alpha, sigma)    (1)

The ODE moves samples of one level to samples of another along one deterministic path (Song et al. 2021, eq. 13).  With
noise and x̂ exchanged for (x_t, x̂) by x_t = alpha x̂ + sigma eps, (1) is the derivative of y = cos(phi) x̂ + sin(phi) eps
with x̂ and eps held fixed: the velocity of Salimans & Ho (2022), for a schedule of any scaling.

Adaptive methods stop at levels that no table lists, so the schedule supplies the network's timestep there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.posteriors import DenoiserFn, Posterior
from undiffuse.process.schedules import Schedule


def angle_of(level: Level) -> Tensor:
    """phi, float64, 0 for the clean level and pi/2 for pure noise."""
    return torch.atan2(level.sigma, level.alpha)


def norm_of(level: Level) -> Tensor:
    """hypot(alpha, sigma): 1 for a variance-preserving schedule."""
    return torch.hypot(level.alpha, level.sigma)


def level_at(schedule: Schedule, phi: Tensor) -> Level:
    """The levels of a schedule at angles phi of any shape, the nearest ones where phi lies outside its range."""
    ends = angle_of(schedule([schedule.t_min, schedule.t_max]))
    inside = phi.detach().cpu().double().clamp(ends[0], ends[1])
    return schedule(schedule.at(-2 * torch.tan(inside).log()).clamp(schedule.t_min, schedule.t_max))


def times_as(x: Tensor) -> dict[str, torch.dtype] | None:
    """Options of torchdiffeq's adaptive methods for x on its device: they keep times in float64, which Apple's GPUs do not have."""
    return {"dtype": torch.float32} if x.device.type == "mps" else None


def velocity(denoise: DenoiserFn, schedule: Schedule, phi: Tensor, y: Tensor) -> tuple[Tensor, Posterior]:
    """dy/dphi at the angle phi, of the shape of y, and the posterior it follows from."""
    level = level_at(schedule, phi)
    norm = norm_of(level)
    x_t = y * broadcast_to(norm, y)
    posterior = denoise(x_t, level)
    on_eps, on_clean = broadcast_to(level.alpha / norm, y), broadcast_to(level.sigma / norm, y)
    return on_eps * posterior.eps(x_t, level) - on_clean * posterior.mean, posterior
