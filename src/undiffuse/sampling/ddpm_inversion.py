"""DDPM inversion: the noise with which ancestral sampling arrives at a given example, exactly.

Ancestral sampling draws x_s = mean(x_t) + std(x_t) z at every step.  Whatever levels x_T, …, x_1, x_0 an example is said
to have passed through, the noises

    z = (x_s - mean(x_t)) / std(x_t)                                                                                  (1)

lead sampling through exactly these, so an example has been turned into (x_T, z_T, …, z_2).  Where its x_t come from is a
choice (both from the forward process alone, without a network):

    trajectory   the steps of the forward process, one after another: for a perfect model z is white noise, as in
                 sampling                                             (Wu & De la Torre 2023, the DPM-encoder of CycleDiffusion)
    independent  each level by a jump of its own, x_t = alpha x_0 + sigma eps_t: neighbours then differ more than in
                 sampling, so z is larger and holds more of the picture, which survives sampling under another
                 condition        (Huberman-Spiegelglas et al. 2024, edit-friendly DDPM inversion, Algorithm 1)

Into the clean level no noise is drawn, so the last step answers x̂.  What it misses, x_0 - x̂, is kept as `rest`.

Each z is taken against the x_t that the replay itself reaches, by the replay's own arithmetic, so rounding does not add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.bridges import Bridge
from undiffuse.process.forward import add_noise, forward_trajectory
from undiffuse.process.levels import Level
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.rng import NoiseStream
from undiffuse.sampling.noise import NoiseSequence
from undiffuse.sampling.solvers.ancestral import Ancestral
from undiffuse.sampling.solvers.base import constant_denoiser

Path = Literal["independent", "trajectory"]


@dataclass(frozen=True)
class RecordedNoise(NoiseSequence):
    """What leads `Ancestral()` from x_T to the example; the noise of `trajectory` in the one sampling loop.

    top: x at the first level, (B, ...).   noises: z of each step but the last, len(levels) - 2 of (B, ...).
    rest: to be added to where sampling ends, (B, ...).
    """

    top: Tensor
    noises: tuple[Tensor, ...]
    rest: Tensor

    def at(self, row: int, draw: int = 0) -> Tensor:
        """The noise (B, ...) of the step that leaves a row. There is one draw a row."""
        return self.noises[row]


def forward_path(x: Tensor, levels: Level, path: Path, seed: int, index: Tensor) -> Iterator[Tensor]:
    """x_T … x_1, x_0 of clean examples x (B, ...), one for each row of the table.

    Independent states are made one by one; a trajectory is made from its other end, so all of it is held.
    """

    def eps(row: int) -> Tensor:
        return standard_normal(x.shape[1:], seed, index, row, NoiseStream.RECORDING).to(x)

    steps = len(levels) - 1
    if path == "trajectory":
        yield from list(forward_trajectory(x, levels, map(eps, reversed(range(steps)))))[::-1]
    else:
        yield from (add_noise(x, level, eps(row)) for row, level in zip(range(steps), levels.rows(), strict=False))
        yield x


def ddpm_inversion(
    x: Tensor, denoise: DenoiserFn, levels: Level, *, path: Path = "independent", seed: int, index: Tensor
) -> RecordedNoise:
    """The recording of clean examples x (B, ...) along a table of levels. Gradients are not recorded.

    seed, index: of the forward path's noise, int64 (B,): which example of the seed each row of x is.
    """
    states, solver = forward_path(x, levels, path, seed, index), Ancestral()
    top = next(states)
    noises, here = list[Tensor](), top
    for bridge, level, row, target in zip(
        Bridge.table(levels).rows(), levels.rows(), solver.plan(levels), states, strict=False
    ):
        with torch.no_grad():
            belief = partial(constant_denoiser, denoise(here, level))
        mean = solver.step(here, belief, row, lambda draw: torch.zeros_like(x), None)
        if bridge.into_clean:
            return RecordedNoise(top, tuple(noises), x - mean.x)
        deviation = (mean.posterior.variance.log_variance(bridge, here) / 2).exp()
        noises.append((target - mean.x) / deviation)
        here = solver.step(here, belief, row, lambda draw: noises[-1], None).x
    raise UsageError("a recording needs a table of levels that ends in the clean one.")
