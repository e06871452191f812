"""The forward process: how noise is added.

One jump      q(x_t | x_0) = N( alpha_t x_0, sigma_t² I )                                   (Ho et al. 2020, eq. 4)
One step      q(x_t | x_s) = N( (alpha_t/alpha_s) x_s, sigma_t² (1 - SNR_t/SNR_s) I )         (eq. 2 for neighbours)
A trajectory  the steps, one after another: x_0 → x_1 → … → x_T, each with noise of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from undiffuse.process.bridges import Bridge
from undiffuse.process.levels import Level, broadcast_to


def add_noise(x: Tensor, level: Level, eps: Tensor) -> Tensor:
    """x_t = alpha x_0 + sigma eps, in one jump. x, eps: (B, ...); level: one, or one per example."""
    return broadcast_to(level.alpha, x) * x + broadcast_to(level.sigma, x) * eps


def forward_step(x_s: Tensor, there: Level, here: Level, eps: Tensor) -> Tensor:
    """One step of the forward process, from the cleaner level `there` to `here`."""
    large = Bridge.between(here, there).large
    return broadcast_to(here.alpha / there.alpha, x_s) * x_s + broadcast_to(large.sqrt(), x_s) * eps


def forward_trajectory(x: Tensor, levels: Level, noises: Iterator[Tensor]) -> Iterator[Tensor]:
    """x_0, then x_t at every level of the table from the cleanest to the noisiest, step by step.

    levels: a table, noisiest first, ending in the clean level.  noises: one (B, ...) standard normal per step.
    """
    yield x
    for row in range(len(levels) - 2, -1, -1):
        x = forward_step(x, levels[row + 1], levels[row], next(noises))
        yield x
