"""One model for several tasks against a model for each, and against a model that was trained for none of them. Handwritten digits.

    python -m benchmarks.multi_task runs

Trains, each with what `undiffuse train digits` chooses but for a number of updates, of 64 digits: one model of all four tasks (4 N updates), one
model for each alone (N updates, so the four together cost what the one does), and one of no task (4 N), which solves them as
inverse problems (`undiffuse.solving`) and denoises by its own process.  Judged on 150 held-out digits, corrupted the same way for all:

    sample      PSNR of one answer
    mean        PSNR of the mean of 4 answers (of x̂ where the model denoises by its own process), near the best that can be known
    class       how often the 3 nearest real digits say the original's class of one answer

and, of two stages, the Fréchet distance of samples to all digits: a first stage of 4×4 and a second of 8×8 (2 N updates each) against
one of 8×8 (4 N), the second with and without noise conditioning augmentation.  Three seeds; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import machine, table, write
from undiffuse import editing, solving, tasks
from undiffuse.corruptions import Corruption, Tasks, described, second_stage
from undiffuse.data.sources import DataConfig, digits
from undiffuse.evaluation.distances import frechet_distance, neighbour_classes
from undiffuse.model import Model, load
from undiffuse.prepare import prepare
from undiffuse.run import Watch

TASKS = "inpaint,upscale:2,deblur:1,denoise"
HELD_OUT, JUDGED, ANSWERS, SEEDS, AUGMENTATION = 297, 150, 4, (0, 1, 2), 0.1
HIDDEN = (0.3, 0.7)


def corruptions() -> dict[str, Corruption]:
    found = described(TASKS)
    return found | {"inpaint": found["inpaint"].model_copy(update={"hidden": HIDDEN}), "denoise": found["denoise"].model_copy(update={"noise": (0.3, 0.9)})}


def trained(folder: Path, updates: int, seed: int, chosen: dict[str, Corruption] | None = None, shrink: int | None = None) -> Model:
    settings = {"training.steps": updates, "training.budget": None, "training.seed": seed, "training.batch_size": 64, "training.learning_rate": 2e-3}
    plan = prepare(DataConfig(source="digits", held_out=float(HELD_OUT), shrink=shrink), folder, settings=settings, watch=Watch(1e9, 1e9), tasks=chosen)
    for _ in plan.run().updates():
        pass
    return load(folder)


def judged(truth: Tensor, sample: Tensor, best: Tensor, labels: Tensor, real: Tensor, classes: Tensor) -> dict[str, tuple[float, float]]:
    """One answer for each input, and the estimate of least error → mean and standard error of each score over inputs."""

    def psnr(values: Tensor) -> Tensor:
        return -10 * ((values - truth) / 16).flatten(1).double().square().mean(1).clamp(min=1e-6).log10()

    found = {
        "sample": psnr(sample), "mean": psnr(best),
        "class": (neighbour_classes(sample.flatten(1), real.flatten(1), classes) == labels).double(),
    }  # fmt: skip
    return {name: (each.mean().item(), each.std().item() / math.sqrt(len(each))) for name, each in found.items()}


def zero_shot(model: Model, name: str, task: Corruption, seen: tasks.Seen) -> Tensor:
    """Answers of a model that was trained for no task."""
    values, n = seen.values, ANSWERS
    if name == "inpaint":
        assert seen.known is not None
        return solving.inpaint(model, values, ~seen.known, n).values
    if name.startswith("upscale"):
        return solving.upscale(model, values[:, :, ::2, ::2], 2, n).values
    if name.startswith("deblur"):
        return solving.deblur(model, values, 1.0, n).values
    raise ValueError(name)


def denoised(model: Model, seen: tasks.Seen) -> tuple[Tensor, Tensor]:
    """By the model itself, down from where the noise is: one answer of each, and x̂."""
    codec, levels = model.codec, seen.shown[:, -1].flatten(1)[:, 0].tolist()
    noisy = seen.shown[:, :-2] * codec.scale + codec.offset
    found = [editing.restore(model, noisy[k : k + 1], level=level, seed=k, steps=20) for k, level in enumerate(levels)]
    return torch.cat([each.sample for each in found]), torch.cat([each.mean for each in found])


def first_and_mean(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Of answers (inputs, n, …)."""
    return answers[:, 0], answers.mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--updates", type=int, default=300, help="N")
    options = parser.parse_args()
    where, N = machine(), options.updates
    data = digits()
    real, classes = torch.from_numpy(data.values).float(), torch.from_numpy(data.labels)
    log, rows = options.runs / "multi_task.json", list[dict[str, Any]]()
    options.runs.mkdir(parents=True, exist_ok=True)
    rows = json.loads(log.read_text()) if log.exists() else []

    def add(**row: Any) -> None:
        rows.append(row)
        log.write_text(json.dumps(rows))
        print(row, flush=True)

    for seed in SEEDS:
        at = options.runs / f"seed{seed}"
        if any(row["seed"] == seed and row["model"] == "done" for row in rows):
            continue
        rows = [row for row in rows if row["seed"] != seed]
        held = data.split_rows(float(HELD_OUT), seed)[1][:JUDGED]
        truth, labels = real[held], classes[held]
        chosen = corruptions()
        multi = trained(at / "multi", 4 * N, seed, chosen)
        plain = trained(at / "plain", 4 * N, seed)
        for name, task in chosen.items():
            single = trained(at / name.replace(":", ""), N, seed, {name: task})
            seen = tasks.simulated(multi, truth, name, seed=1000)
            answers = {
                "one for all tasks": first_and_mean(tasks.made_of(multi, seen, ANSWERS).values),
                "one for this task": first_and_mean(tasks.made_of(single, seen, ANSWERS).values),
                "trained for none": denoised(plain, seen) if name == "denoise" else first_and_mean(zero_shot(plain, name, task, seen)),
            }  # fmt: skip
            for model, values in answers.items():
                add(seed=seed, task=name, model=model, **judged(truth, *values, labels, real, classes))
        small = trained(at / "small", 2 * N, seed, shrink=2)
        stages = {
            "second stage, with augmentation": (trained(at / "second", 2 * N, seed, {"upscale:2": second_stage(2)}), AUGMENTATION),
            "second stage, without": (trained(at / "second-plain", 2 * N, seed, described("upscale:2")), 0.0),
        }  # fmt: skip
        asked = [data.classes[k % 10] for k in range(600)]
        first = small.sample(600, {"class": asked}, seed=1)
        made = {name: tasks.upscaled(model, first, noise=noise, conditions={"class": asked}, seed=1) for name, (model, noise) in stages.items()}
        made["one stage"] = plain.sample(600, {"class": asked}, seed=1)
        for name, values in made.items():
            distance = frechet_distance(values.flatten(1) / 16, real.flatten(1) / 16)
            right = (neighbour_classes(values.flatten(1), real.flatten(1), classes) == torch.tensor([k % 10 for k in range(600)])).double().mean().item()
            add(seed=seed, task="cascade", model=name, frechet=distance, accuracy=right)
        add(seed=seed, task="", model="done")
    report(rows, where, N)


def report(rows: list[dict[str, Any]], where: dict[str, Any], updates: int) -> None:
    """Means over seeds, with standard errors over seeds."""

    def over(values: list[float], form: str) -> str:
        return f"{np.mean(values):{form}} ± {np.std(values, ddof=1) / math.sqrt(len(values)):{form}}"

    cells = []
    for task in Tasks(corruptions()).names:
        for model in dict.fromkeys(row["model"] for row in rows if row["task"] == task):
            of = [row for row in rows if row["task"] == task and row["model"] == model]
            scores = [over([row[score][0] for row in of], form) for score, form in (("sample", ".2f"), ("mean", ".2f"), ("class", ".1%"))]
            cells.append([task, model, *scores])
    print(table(["task", "model", "sample, dB", "mean of 4, dB", "class kept"], cells))
    cascade = [row for row in rows if row["task"] == "cascade"]
    print(table(["samples of", "Fréchet distance", "class asked for"], [
        [model, over([r["frechet"] for r in cascade if r["model"] == model], ".3f"), over([r["accuracy"] for r in cascade if r["model"] == model], ".1%")]
        for model in dict.fromkeys(row["model"] for row in cascade)
    ]))  # fmt: skip
    write("multi_task", {"machine": where, "updates": updates, "held_out": HELD_OUT, "rows": rows})


if __name__ == "__main__":
    main()
