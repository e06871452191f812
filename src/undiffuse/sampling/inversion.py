"""Inversion: from an example up the flow to the noise it would come from, and the way between two noises.

The probability-flow ODE has one path through every x_t, and the path can be followed both ways.  Following it up a table of
levels gives the x_T from which a deterministic solver leads back to the example (Song et al. 2021, DDIM, section 4.3):

    x_there = alpha_there x̂ + sigma_there eps,     (x̂, eps) at x_here, the cleaner of the two levels                 (1)

which is DDIM's step with the levels exchanged, and Euler's method in sigma/alpha.  The solvers' formulas (forms.py,
eq. 1) hold between any two levels, so each of them works upwards as it does downwards.  Up and down are not inverse to each other:
(1) uses eps at the clean end of a step, sampling at its noisy end.  Over n steps the two errors, of one sign, leave a
distance of order 1/n for DDIM and 1/n² for Heun.

The clean level itself has no eps, so x is taken to lie at the cleanest noisy level, x_t = alpha x; coming back, x̂ there
is the answer.  What this leaves, about that level's sigma/alpha, no number of steps removes: the table should end low.

Two noises are joined along the sphere (Shoemake 1985), because a Gaussian in d dimensions has its mass at radius sqrt(d)
and a straight line leaves it.  With theta the angle between a and b, over all coordinates of an example,

    direction(w) = ( sin((1-w) theta) a/|a| + sin(w theta) b/|b| ) / sin(theta),     |x(w)| = (1-w)|a| + w|b|.      (2)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.sampling.loop import SamplerStep
from undiffuse.sampling.solvers.base import Solver

SMALLEST_SINE = 1e-7  # of an angle, below which (2) loses its digits and the sphere is as good as flat


def upward(levels: Level) -> Level:
    """The noisy levels of a table, cleanest first."""
    return levels[torch.arange(len(levels) - 2, -1, -1)]


def at_lowest_noise(x: Tensor, levels: Level) -> Tensor:
    """Clean examples x (B, ...) taken to lie at the cleanest noisy level of a table."""
    return broadcast_to(levels.alpha[-2], x) * x


def invert(x: Tensor, denoise: DenoiserFn, levels: Level, solver: Solver) -> Iterator[SamplerStep]:
    """Inverts clean examples x (B, ...) up to the first level of a table: len(levels) - 2 steps, the last x is x_T.

    levels: as for sampling, noisiest first, ending in the clean level.   solver: a deterministic one of exponential.py.
    Gradients are not recorded.   Raises UsageError for a solver that draws noise.
    """
    if solver.stochastic:
        raise UsageError(
            "inversion follows the flow, which has no noise to draw: use a deterministic solver, such as 'heun'."
        )
    up, state = upward(levels), None
    rows, plan = up.rows(), solver.plan(up)
    x = at_lowest_noise(x, levels)
    for row in range(len(up) - 1):
        with torch.no_grad():
            step = solver.step(x, denoise, plan[row], _silent, state)
        yield SamplerStep(row, len(up) - 1, rows[row], x, step.posterior.mean, step.x, step.state)
        x, state = step.x, step.state


def _silent(draw: int) -> Any:
    raise AssertionError("a deterministic solver drew noise")


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Equation (2), example by example. a, b: (B, ...); share: 0 at a, 1 at b. Parallel, opposite or zero ones: the line."""
    u, v = a.cpu().double().flatten(1), b.cpu().double().flatten(1)  # not every device has float64
    norm_a, norm_b = u.norm(dim=1, keepdim=True), v.norm(dim=1, keepdim=True)
    theta = torch.acos((u * v).sum(1, keepdim=True).div(norm_a * norm_b).nan_to_num(1.0).clamp(-1, 1))
    sine = theta.sin()
    along = ((1 - share) * theta).sin() / norm_a * u + (share * theta).sin() / norm_b * v
    on_sphere = along / sine * torch.lerp(norm_a, norm_b, share)
    return torch.where(sine > SMALLEST_SINE, on_sphere, torch.lerp(u, v, share)).reshape(a.shape).to(a)
