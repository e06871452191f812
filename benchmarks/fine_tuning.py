"""Is a trained model a better start than none, for little data?  The digits: trained on 0 to 7, then told 50 examples of 8 and 9.

    python -m benchmarks.fine_tuning [--seeds 3] [--steps 600] [--tuning 300]

For each seed a model with the preset's network is trained on the digits 0 to 7.  Then 50 examples of 8 and 9 are trained on in
three ways: from scratch, from that model (all weights), from it by low-rank adapters of rank 8.  Each way has the learning rate
that it has by default.  Reported is the error of x̂ on 200 other eights and nines, told their class, relative to the best linear
denoiser of the 50 (geometric mean over levels; averaged weights), after so many steps; and what became of the digits 0 to 7, that the
two tuned models were not shown again: their held-out error relative to that of the model they started from.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine, table, write
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_digits
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.runs.diffusion import Run
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals
from undiffuse.training.validation import ValidationSet, baseline_errors, relative

FEW, JUDGED = 50, 200
CHECKED = (0, 20, 50, 100, 200, 300)
WAYS = ("from scratch", "all weights", "adapters, rank 8")


def stored(folder: Path, name: str, values: np.ndarray, labels: np.ndarray) -> str:
    """An .npz of some digits, with the names of their classes, on the range 0 to 255."""
    path = folder / f"{name}.npz"
    np.savez(
        path,
        images=(values.astype(np.float32) * 255 / 16).round().astype(np.uint8),
        labels=np.array([f"digit {k}" for k in labels]),
    )
    return str(path)


def bank_of(model: Model, values: np.ndarray, labels: np.ndarray) -> ValidationSet:
    x = model.codec.encode((values.astype(np.float32) * 255 / 16).round())
    return ValidationSet.of(
        x, model.denoiser.conditions.encode({"class": [f"digit {k}" for k in labels]}, len(x)), model.schedule
    )


def errors(run: Run, bank: ValidationSet) -> torch.Tensor:
    denoiser = run.model.denoiser.eval()
    with run.loop.ema.swapped():
        found = bank.errors(denoiser.bind(bank.values))
    denoiser.train()
    return found


def one_seed(seed: int, steps: int, tuning: int) -> dict:
    data = open_digits()
    assert data.labels is not None
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(data))
    new = order[data.labels[order] >= 8]
    few, judged, known = new[:FEW], new[FEW : FEW + JUDGED], order[data.labels[order] < 8]
    kept, known = known[:JUDGED], known[JUDGED:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = {
            part: stored(folder, part, data.values[rows], data.labels[rows])
            for part, rows in (("known", known), ("few", few))
        }
        base = prepare(
            DataConfig(source=sources["known"], held_out=100.0),
            folder / "base",
            preset="digits",
            watch=Intervals(1e9, 1e9),
            settings={"training.seed": seed, "training.steps": steps, "training.budget": None},
        ).run()
        for _ in base.updates():
            pass
        before = load(folder / "base")
        bank = bank_of(before, data.values[kept], data.labels[kept])
        with torch.no_grad():
            old = bank.errors(before.denoiser.eval().bind(bank.values))
        found: dict = {
            "seed": seed,
            "base": base.measurements.scores()["ema"]["relative"],
            "error": {},
            "forgotten": {},
        }
        for way in WAYS:
            settings: dict[str, Any] = {"training.seed": seed, "training.steps": tuning, "training.budget": None}
            settings |= {"adapters": {"rank": 8}} if way.startswith("adapters") else {}
            start: dict[str, Any] = {"preset": "digits"} if way == "from scratch" else {"start": folder / "base"}
            run = prepare(
                DataConfig(source=sources["few"], held_out=0.0),
                folder / way,
                settings=settings,
                watch=Intervals(1e9, 1e9),
                **start,
            ).run()
            bank = bank_of(run.model, data.values[judged], data.labels[judged])
            against = baseline_errors(bank, run.model.codec.encode(run.training_data.values))
            curve = [relative(errors(run, bank), against)]
            for update in run.loop.updates(run.batch):
                if update.step in CHECKED:
                    curve.append(relative(errors(run, bank), against))
            found["error"][way] = curve
            if way != "from scratch":
                after = errors(run, bank_of(run.model, data.values[kept], data.labels[kept]))
                found["forgotten"][way] = (after / old).log().mean().exp().item()
        print(found, flush=True)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--tuning", type=int, default=300)
    options = parser.parse_args()
    where = machine()
    seeds = [one_seed(seed, options.steps, options.tuning) for seed in range(options.seeds)]
    checked = [step for step in CHECKED if step <= options.tuning]
    rows = []
    for way in WAYS:
        columns = [[seed["error"][way][k] for seed in seeds] for k in range(len(checked))]
        spread = [f" ± {stdev(column):.2f}" if len(column) > 1 else "" for column in columns]
        forgotten = f"{mean(seed['forgotten'][way] for seed in seeds):.2f}" if way != "from scratch" else "-"
        rows.append([way, *(f"{mean(column):.2f}{s}" for column, s in zip(columns, spread, strict=True)), forgotten])
    print(table(["way", *(f"{step} steps" for step in checked), "error on 0 to 7, to before"], rows))
    write(
        "fine_tuning",
        {"machine": where, "steps": options.steps, "tuning": options.tuning, "checked": checked, "seeds": seeds},
    )


if __name__ == "__main__":
    main()
