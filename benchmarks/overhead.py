"""What the loops around the network cost, on the demo model, against the bare network timed in the same run.

    python -m benchmarks.overhead [--rounds 150]

Training: an update of `TrainingLoop` (batch, noise, loss, clipping, AdamW, average, bookkeeping) against the bare network on
inputs of the same shape: forward and backward alone, and with a plain AdamW step, which no training does without.  Sampling: a step of the trajectory against the network's evaluations
alone.  The two are called in turn; medians.  Also the time `import undiffuse` adds to `import torch`, and the
share of a plain matrix product's rate that the training step reaches.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import machine, table, write
from undiffuse.data.config import DataConfig
from undiffuse.runs.diffusion import Run
from undiffuse.runs.prepare import prepare
from undiffuse.sampling.loop import SamplerStep
from undiffuse.sampling.noise import Independent

WARM_UP, SAMPLES = 10, 64


def alternated(calls: Sequence[Callable[[], None]], rounds: int) -> list[float]:
    """Median seconds of each call; the calls take turns."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(WARM_UP + rounds):
        for f, took in zip(calls, times, strict=True):
            began = time.perf_counter()
            f()
            took.append(time.perf_counter() - began)
    return [median(took[WARM_UP:]) for took in times]


def training(run: Run, rounds: int) -> dict[str, Any]:
    updates = run.loop.updates(run.batch)
    twin = copy.deepcopy(run.model.denoiser)
    network, conditions = twin.network, twin.conditions
    x, values = run.batch(0)
    timestep = torch.rand(len(x)) * 1000

    parameters = [*network.parameters(), *conditions.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)

    def update() -> None:
        next(updates)

    def bare() -> None:
        optimizer.zero_grad()
        network(x, timestep, conditions(values).embedding).square().mean().backward()

    def with_adamw() -> None:
        bare()
        optimizer.step()

    next(updates)
    with FlopCounterMode(display=False) as counter:
        bare()
    ours, alone, with_step = alternated([update, bare, with_adamw], rounds)
    return {
        "update_ms": ours * 1e3,
        "bare_ms": alone * 1e3,
        "with_adamw_ms": with_step * 1e3,
        "images_per_second": len(x) / ours,
        "overhead": ours / alone - 1,
        "overhead_over_adamw": ours / with_step - 1,
        "flops": counter.get_total_flops(),
    }


def matmul_rate(size: int = 1024) -> float:
    """FLOP/s of a plain matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    times = []
    for _ in range(12):
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2 * size**3 / median(times)


def sampling(run: Run, rounds: int, **settings: Any) -> dict[str, Any]:
    model = run.model
    model.denoiser.eval()
    solver = model.config.sampling.model_copy(update=settings).build_solver(model.schedule)
    conditions = {"class": [str(k % 10) for k in range(SAMPLES)]}
    values = model.denoiser.conditions.encode(conditions, SAMPLES)
    x, timestep = torch.randn(SAMPLES, *model.config.codec.shape), torch.full((SAMPLES,), 500.0)
    own: dict[str, Any] = {"grid": "uniform", "steps": 1000} | settings
    state: dict[str, Iterator[SamplerStep]] = {"steps": iter(())}

    def step() -> None:
        for _ in state["steps"]:
            return
        # a new trajectory of 1000 steps, long enough that starting it is not what is measured
        state["steps"] = model.trajectory(SAMPLES, conditions, **(own))
        next(state["steps"])

    with torch.no_grad():
        embedding = model.denoiser.conditions(values).embedding

    @torch.no_grad()
    def bare() -> None:
        for _ in range(solver.evaluations):
            model.denoiser.network(x, timestep, embedding)

    def noise() -> None:
        draws._rows(0, 0)

    step()
    # noise is made for many rows at once, in a step that a median does not see: its share is added
    draws = Independent(x, 0, torch.arange(SAMPLES), 1000)
    (ours, alone), (chunk,) = alternated([step, bare], rounds), alternated([noise], 20)
    amortised = chunk / min(draws.count, 1000) if solver.stochastic else 0.0
    model.denoiser.train()
    return {
        "step_ms": (ours + amortised) * 1e3,
        "noise_ms": amortised * 1e3,
        "bare_ms": alone * 1e3,
        "overhead": (ours + amortised) / alone - 1,
    }


def imports(times: int = 7) -> dict[str, float]:
    def seconds(code: str) -> float:
        took = list[float]()
        for _ in range(times):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            took.append(time.perf_counter() - began)
        return median(took)

    torch_alone = seconds("import torch")
    return {
        "torch": torch_alone,
        "added_by_import_undiffuse": seconds("import torch, undiffuse") - torch_alone,
        "added_by_load_and_train": seconds("import torch, undiffuse; undiffuse.load; undiffuse.train") - torch_alone,
        "help": seconds(
            "import sys; sys.argv = ['undiffuse', '--help']\nfrom undiffuse.cli.main import main\ntry: main()\nexcept SystemExit: pass"
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150)
    rounds = parser.parse_args().rounds
    where = machine()
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(
            DataConfig(source="digits", held_out=297.0), Path(folder) / "r", settings={"training.budget": 1e6}
        ).run()
        trained = training(run, rounds)
        rate = matmul_rate()
        trained["share_of_matmul"] = trained["flops"] / (trained["bare_ms"] / 1e3) / rate
        sampled = {
            name: sampling(run, rounds, **s)
            for name, s in {
                name: {"solver": name} for name in ("adams", "ddim", "heun", "unipc", "ddpm", "dpm++_sde")
            }.items()
        }
    took = imports()
    update = f"{trained['update_ms']:.2f}"
    rows = [
        [
            "training update, over forward and backward",
            update,
            f"{trained['bare_ms']:.2f}",
            f"{trained['overhead']:+.1%}",
        ],
        [
            "training update, over these and AdamW",
            update,
            f"{trained['with_adamw_ms']:.2f}",
            f"{trained['overhead_over_adamw']:+.1%}",
        ],
    ]
    rows += [
        [
            f"sampling step, {name}, {SAMPLES} images",
            f"{r['step_ms']:.2f}",
            f"{r['bare_ms']:.2f}",
            f"{r['overhead']:+.1%}",
        ]
        for name, r in sampled.items()
    ]
    print(table(["what", "ms", "bare network, ms", "overhead"], rows))
    print(
        f"training: {trained['images_per_second']:,.0f} images/s; the bare network reaches {trained['share_of_matmul']:.0%} of a plain matrix product's {rate / 1e9:.0f} GFLOP/s"
    )
    print(
        f"import: torch {took['torch']:.2f} s, undiffuse adds {took['added_by_import_undiffuse']:.2f} s, everything {took['added_by_load_and_train']:.2f} s; --help {took['help']:.2f} s"
    )
    write(
        "overhead", {"machine": where, "training": trained, "sampling": sampled, "imports": took, "matmul_flops": rate}
    )


if __name__ == "__main__":
    main()
