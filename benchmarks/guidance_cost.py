"""What guidance costs: a sampling step with it against one without, on the demo's model.

    python -m benchmarks.guidance_cost [--rounds 60]

Time of a step of the default solver, guided ways and the plain one in turn, medians; the weights do not matter.  Promised are
at most 2.05 times the plain step inside the guidance interval and 1.05 times outside it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import machine, table, write
from benchmarks.overhead import alternated
from undiffuse.data.config import DataConfig
from undiffuse.runs.prepare import prepare

BATCHES = (16, 64, 256)
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain again": {},
    "classifier-free, 2": {"guidance": 2.0},
    "rescaled": {"guidance": 2.0, "guidance_rescale": 0.7},
    "projected": {"guidance": 2.0, "guidance_method": "apg"},
    "CFG++": {"guidance": 0.6, "guidance_method": "cfg++"},
    "outside the interval": {"guidance": 2.0, "guidance_interval": [1e5, 1e6]},
}


def stepper(model: Any, n: int, how: dict[str, Any]) -> Callable[[], None]:
    state: dict[str, Any] = {"moments": iter(())}

    def step() -> None:
        for _ in state["moments"]:
            return
        state["moments"] = model.trajectory(
            n, {"class": [str(k % 10) for k in range(n)]}, grid="uniform", steps=1000, **how
        )
        next(state["moments"])

    step()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    where, rows = machine(), []
    with tempfile.TemporaryDirectory() as folder:
        model = prepare(DataConfig(source="digits"), Path(folder) / "r").run().model
    model.denoiser.eval()
    for n in BATCHES:
        took = alternated([stepper(model, n, how) for how in WAYS.values()], options.rounds)
        rows.append(
            {"batch": n}
            | {name: seconds / took[0] for name, seconds in zip(WAYS, took, strict=True)}
            | {"plain_ms": took[0] * 1e3}
        )
    print(
        table(
            ["batch", "plain step", *list(WAYS)[1:]],
            [[r["batch"], f"{r['plain_ms']:.2f} ms", *(f"{r[name]:.3f}×" for name in list(WAYS)[1:])] for r in rows],
        )
    )
    write("guidance_cost", {"machine": where, "rounds": options.rounds, "rows": rows})


if __name__ == "__main__":
    main()
