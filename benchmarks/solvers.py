"""Which solver and grid need the fewest evaluations?  Distance to the flow's solution, on exact mixtures and trained models.

    python -m benchmarks.solvers [--model digits=runs/digits] [--model mnist=runs/mnist]

For each problem, number of network evaluations, solver and grid: the distance between where the solver ends and where the
probability-flow ODE ends, from the same noise; the median over examples of the root mean square over an example's numbers.
(A median: now and then an example falls to the other side of a divide between two modes, and a mean would show only that.)
Every solver is shown with whichever of the grids suits it best
at that number of evaluations; the default setting with its own grid alone.  A mixture's ODE is solved by DOP853 at 1e-10, a
model's by 300 steps of Heun, whose own error (against 150 steps) is printed.  Both solve the same problem as the samplers:
pure noise at the schedule's noisiest level, and x̂ at the end of its least noisy one.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from benchmarks.common import machine, table, write
from undiffuse.config import changed
from undiffuse.models.file import load
from undiffuse.process.betas import BETAS
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.process.oracles import Mixture
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import DenoiserFn
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.sampling.solvers.registry import Settings, make_solver

EVALUATIONS = (5, 6, 8, 10, 13, 16, 24)
SEED = 1  # the default was chosen on the mixtures of seed 0
GRIDS = ("trailing", "karras", "logsnr", "angle", "beta", "angle_beta")
SOLVERS = {
    "DDIM": ("ddim", None),
    "Heun (angle)": ("heun", None),
    "EDM Heun": ("edm", None),
    "DPM-Solver++ 2M": ("dpm++", 2),
    "DPM-Solver++ 3M": ("dpm++", 3),
    "DEIS-3": ("deis", 3),
    "LMS-4": ("lms", 4),
    "PLMS": ("plms", 4),
    "UniPC-2": ("unipc", 2),
    "UniPC-3": ("unipc", 3),
    "Adams-2": ("adams", 2),
    "Adams-3": ("adams", 3),
}


def mixture(dims: int, components: int, seed: int) -> Mixture:
    """Random components of unequal weights, in data of about the size of pixels in [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(components, dims, dtype=torch.float64, generator=g) * 0.6
    roots = torch.randn(components, dims, dims, dtype=torch.float64, generator=g) * 0.25 / dims**0.5
    weights = torch.rand(components, dtype=torch.float64, generator=g) + 0.2
    return Mixture(weights / weights.sum(), means, roots @ roots.mT + 1e-3 * torch.eye(dims, dtype=torch.float64))


def mixture_problem(dims: int, components: int) -> tuple[Schedule, DenoiserFn, Tensor, Tensor]:
    """The schedule, the exact denoiser, the noise, and where it ends."""
    schedule, exact = Chain(BETAS["cosine"](1000)), mixture(dims, components, SEED)
    z = standard_normal((dims,), 0, torch.arange(64)).double()
    first, last = schedule.levels[0], schedule.levels[-2]

    def slope(log_u: float, X: np.ndarray) -> np.ndarray:
        level = Level(
            torch.ones((), dtype=torch.float64), torch.tensor(math.exp(log_u), dtype=torch.float64), torch.zeros(())
        )
        at = torch.from_numpy(X.reshape(len(z), dims))
        return (at - exact(at, level).mean).numpy().ravel()

    ends = [float(first.sigma_edm.log()), float(last.sigma_edm.log())]
    X = solve_ivp(slope, ends, (z * first.sigma_edm).numpy().ravel(), method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    x_t = torch.from_numpy(X.reshape(len(z), dims)) * last.alpha
    return schedule, exact, z, exact(x_t, last).mean


def model_problem(path: str, n: int) -> tuple[Schedule, DenoiserFn, Tensor, Tensor]:
    model = load(path, "cpu")
    names = [model.classes[k % len(model.classes)] for k in range(n)] if model.classes else [None] * n
    denoise = model.denoiser_fn(
        {"class": names} if model.classes else {}, n, changed(SamplingConfig(), {"guidance": 1.0})
    )
    z = standard_normal(model.config.codec.shape, 0, torch.arange(n))
    ends = [walk(model.schedule, denoise, z, "heun", None, "uniform", steps) for steps in (150, 300)]
    print(f"{path}: the reference of 300 Heun steps is {distance(ends[0], ends[1]):.1e} from that of 150")
    return model.schedule, denoise, z, ends[1]


def walk(
    schedule: Schedule, denoise: DenoiserFn, z: Tensor, solver: str, order: int | None, grid: str, steps: int
) -> Tensor:
    levels = make_grid(schedule, grid, steps)
    x = broadcast_to(levels.sigma[0], z) * z
    return final(
        trajectory(
            x, denoise, levels, make_solver(solver, Settings(order=order), schedule), seed=0, index=torch.arange(len(z))
        )
    )


def distance(a: Tensor, b: Tensor) -> float:
    return (a - b).double().flatten(1).pow(2).mean(1).sqrt().median().item()


def measured(
    schedule: Schedule, denoise: DenoiserFn, z: Tensor, end: Tensor, progress: Callable[[str], None]
) -> list[dict]:
    rows = []
    for name, (solver, order) in SOLVERS.items():
        progress(name)
        per_step = make_solver(solver, Settings(order=order), schedule).evaluations
        for evaluations in EVALUATIONS:
            steps = (evaluations + per_step - 1) // per_step  # Heun's last step takes one evaluation
            for grid in GRIDS:
                error = distance(walk(schedule, denoise, z, solver, order, grid, steps), end)
                rows.append({"solver": name, "evaluations": evaluations, "grid": grid, "error": error})
    return rows


def said(problem: str, name: str) -> None:
    print(f"{problem}: {name} ...", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=RUN")
    parser.add_argument("-n", type=int, default=32, help="samples of a trained model")
    options = parser.parse_args()
    default = SamplingConfig(solver="adams", grid="angle_beta")  # the former default of new models
    problems = {"mixture of 5 in 2-D": mixture_problem(2, 5), "mixture of 20 in 64-D": mixture_problem(64, 20)}
    problems |= {name: model_problem(path, options.n) for name, path in (each.split("=", 1) for each in options.model)}
    results = {}
    for problem, parts in problems.items():
        rows = results[problem] = measured(*parts, progress=partial(said, problem))
        lines = []
        for name in SOLVERS:
            best = [
                min((r for r in rows if r["solver"] == name and r["evaluations"] == e), key=lambda r: r["error"])
                for e in EVALUATIONS
            ]
            lines.append([name, *(f"{r['error']:.4f} {r['grid']}" for r in best)])
        own = [
            r
            for e in EVALUATIONS
            for r in rows
            if (SOLVERS[r["solver"]][0], r["grid"], r["evaluations"]) == (default.solver, default.grid, e)
        ]
        own = [r for r in own if SOLVERS[r["solver"]][1] in (None, default.order or 3)]
        lines.append(["**the default**", *(f"**{r['error']:.4f}** {r['grid']}" for r in own)])
        print(f"\n### {problem}\n")
        print(table(["solver", *(f"{e} evaluations" for e in EVALUATIONS)], lines))
    write("solvers", {"n": options.n, "machine": machine(), "results": results})


if __name__ == "__main__":
    main()
