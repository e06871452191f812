"""Grids fitted to a model: levels where what it believes changes most, found from one dense trajectory.

A step that takes x̂ at level i for the whole stretch to j, as DDIM's does, misses the flow's point at j by

    e(i, j) = sigma_j ∫_i^j (x̂(s) - x̂(i)) d(alpha/sigma)                                                             (1)

(solvers/forms.py, the clean form), and by x̂(end) - x̂(i) where j is the clean level.  One dense trajectory per example
gives x̂ at every level of a fine mesh, and so every e(i, j) without another evaluation of the network.  The best grid of
n levels is the cheapest path of n stretches, each costing the root mean square of (1) over the examples in units of
hypot(alpha, sigma); dynamic programming finds it exactly (Chen et al. 2024, "On the trajectory regularity of ODE-based
diffusion sampling", section 4).  Sabour et al. 2024, "Align your steps", search for the same kind of grid with a bound on
the KL divergence of the SDE as the cost; for the flow's solvers that was several times worse, see docs/measurements/solvers.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.levels import Level
from undiffuse.sampling.loop import SamplerStep


def stretch_costs(trajectory: Iterable[SamplerStep], levels: Level) -> Tensor:
    """The cost of a stretch from each row of a table to each later one, the clean one included: float64 (rows, rows).

    trajectory: its steps along the whole table.   inf for a stretch that leads back, 0 for one that leads nowhere.
    """
    clean = torch.stack([step.x0.detach().cpu().double().flatten(1) for step in trajectory], 1)
    noisy = clean.shape[1]
    time = (levels.alpha / levels.sigma)[:noisy]
    pieces = (clean[:, 1:] + clean[:, :-1]) / 2 * time.diff()[:, None]
    integral = torch.cat([torch.zeros_like(clean[:, :1]), pieces.cumsum(1)], 1)
    scale = (levels.sigma / torch.hypot(levels.alpha, levels.sigma))[:noisy]
    costs = torch.full((noisy + 1, noisy + 1), float("inf"), dtype=torch.float64)
    for i in range(noisy):
        missed = integral[:, i:] - integral[:, i, None] - clean[:, i, None] * (time[i:] - time[i])[:, None]
        costs[i, i:noisy] = missed.pow(2).mean(2).mean(0).sqrt() * scale[i:]
    costs[:noisy, noisy] = (clean - clean[:, -1:]).pow(2).mean(2).mean(0).sqrt()
    costs[noisy, noisy] = 0
    return costs


def cheapest_path(costs: Tensor, stretches: int) -> list[int]:
    """The rows at which the cheapest path of `stretches` stretches, from the first row to the last, starts them.

    Raises UsageError where there are too few rows.
    """
    rows = len(costs)
    if not 1 <= stretches < rows:
        raise UsageError(f"a grid of {stretches} levels cannot be chosen from {rows - 1}: take fewer steps.")
    forward = costs.masked_fill(torch.eye(rows).bool(), float("inf"))
    least, choices = forward[:, -1], []
    for _ in range(stretches - 1):
        least, choice = (forward + least).min(1)
        choices.append(choice)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return path


def fitted_logsnrs(trajectory: Iterable[SamplerStep], levels: Level, steps: int) -> tuple[float, ...]:
    """The log-SNRs, ascending, of the best `steps` levels of a table, from a trajectory along all of it."""
    return tuple(levels.logsnr[cheapest_path(stretch_costs(trajectory, levels), steps)].tolist())
