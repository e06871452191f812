"""Do methods for inverse problems draw from p(x | y)?  On Gaussian data, where that is known.

    python -m benchmarks.posteriors

Signals of 16 numbers, correlated over about 3 places, variance 1/4; x̂ is exact.  Three things are seen: the first half, exactly;
averages of 4 and a blur of radius 1, with noise of 0.05.  For each method, over all directions in which the posterior is not a point:

    mean      distance of the samples' mean from the posterior's, root mean square, in the posterior's standard deviations
    spread    standard deviation of the samples over the posterior's, root mean square; 1 is right
    misfit    root mean square of y - A x, in units of the noise (of 0.05 where there is none)

4,000 draws each, so about 0.02 of the first two is chance.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import machine, table, write
from undiffuse.process.levels import Level
from undiffuse.process.operators import Blur, Downsample, Mask
from undiffuse.process.oracles import Mixture
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import Posterior
from undiffuse.process.schedules import CONTINUOUS
from undiffuse.sampling.grids import make_grid, resampled
from undiffuse.sampling.inverse_problems import DPS, Measurement, RePaint, moment_matching, replacement
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.solvers.ancestral import Ancestral
from undiffuse.sampling.solvers.base import Solver
from undiffuse.sampling.solvers.registry import Settings, make_solver

N, DRAWS, NOISE, PRIOR = 16, 4000, 0.05, 0.25
SCHEDULE = CONTINUOUS["vp"]()
PLACES = torch.arange(N, dtype=torch.float64)
S = PRIOR * torch.exp(-((PLACES[:, None] - PLACES) ** 2) / (2 * 1.5**2)) + 1e-4 * torch.eye(N, dtype=torch.float64)
DATA = Mixture.gaussian(torch.zeros(N, dtype=torch.float64), S)
KNOWN = (PLACES < N / 2)[None]
TASKS: dict[str, tuple[Any, float]] = {
    "mask": (Mask(KNOWN), 0.0),
    "upscale": (Downsample(4), NOISE),
    "deblur": (Blur(1.0), NOISE),
}


def clean(x_t: Tensor, level: Level) -> Posterior:
    return Posterior(DATA(x_t.flatten(1), level).mean.reshape(-1, 1, N))


def truth(seen: Measurement) -> tuple[Tensor, Tensor, Tensor]:
    """The posterior's mean (N,), covariance, and an orthonormal basis (N, k) of the directions in which it is not a point."""
    A = seen.operator(torch.eye(N, dtype=torch.float64)[:, None]).flatten(1).T
    gain = S @ A.T @ torch.linalg.pinv(A @ S @ A.T + seen.noise**2 * torch.eye(len(A), dtype=torch.float64), rtol=1e-10)
    covariance = S - gain @ A @ S
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    return gain @ seen.y[0].flatten(), covariance, vectors[:, values > 1e-5]


def methods(seen: Measurement) -> dict[str, tuple[Any, Solver, Level]]:
    steps, fine = make_grid(SCHEDULE, "angle_beta", 16), make_grid(SCHEDULE, "angle_beta", 50)
    flow, ancestral = make_solver("adams", Settings(), SCHEDULE), Ancestral(0.0)
    exact = {
        f"exact, {k} iterations{', doubt 0' if not doubt else ''}": (
            moment_matching(clean, seen, k, PRIOR, doubt),
            flow,
            steps,
        )
        for k, doubt in ((3, 0.01), (3, 0.0), (16, 0.0))
    }
    found: dict[str, tuple[Any, Solver, Level]] = {
        "replace": (replacement(clean, seen, PRIOR), flow, steps),
        "pigdm": (moment_matching(clean, seen, 0, PRIOR), flow, steps),
        **exact,
        **{f"dps, zeta {zeta:g}": (clean, DPS(ancestral, seen, zeta), fine) for zeta in (0.28, 0.5, 2.0)},
    }
    if isinstance(seen.operator, Mask):
        for length, times in ((1, 1), (10, 5), (1, 20)):
            name = f"repaint, jumps of {length}, {times} times" if times > 1 else "repaint, walked once"
            found[name] = (clean, RePaint(ancestral, seen), resampled(fine, length, times))
    return found


def main() -> None:
    where, rows, index = machine(), [], torch.arange(DRAWS)
    example = DATA.sample(1, torch.Generator().manual_seed(0)).reshape(1, 1, N)
    for task, (operator, noise) in TASKS.items():
        y = operator(example)
        y = y + noise * torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(1))
        seen = Measurement(operator, y.expand(DRAWS, *y.shape[1:]), noise)
        mean, covariance, basis = truth(seen)
        deviation = (basis * (covariance @ basis)).sum(0).sqrt()
        for name, (denoise, solver, levels) in methods(seen).items():
            start = time.perf_counter()
            x = standard_normal((1, N), 0, index).double() * levels.sigma[0]
            end = final(trajectory(x, denoise, levels, solver, seed=0, index=index))
            along = (end.flatten(1) - mean) @ basis / deviation
            misfit = seen.residual(end).square().mean().sqrt().item() / NOISE
            rows.append(
                {
                    "task": task,
                    "method": name,
                    "mean": along.mean(0).square().mean().sqrt().item(),
                    "misfit": misfit,
                    "spread": along.var(0).mean().sqrt().item(),
                    "seconds": time.perf_counter() - start,
                }
            )
    print(
        table(
            ["task", "method", "mean", "spread", "misfit"],
            [[r["task"], r["method"], f"{r['mean']:.2f}", f"{r['spread']:.2f}", f"{r['misfit']:.2f}"] for r in rows],
        )
    )
    write("posteriors", {"machine": where, "draws": DRAWS, "results": rows})


if __name__ == "__main__":
    main()
