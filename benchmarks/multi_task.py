"""One model for several tasks against a model for each, and against a model that was trained for none of them.

    python -m benchmarks.multi_task digits runs/digits --seeds 3 --tasks inpaint,upscale:2,deblur:1,denoise --cascade 2 --learning-rate 2e-3
    python -m benchmarks.multi_task MNIST/train-images-idx3-ubyte.gz runs/mnist --updates 400 --cascade 4 --tasks inpaint,upscale:4,deblur:1.5,denoise
    python -m benchmarks.multi_task emoji/captions.csv runs/emoji --updates 400 --size 32 --tasks inpaint,upscale:4,colorize,deblur:1.5,denoise

Trains, each with what `undiffuse train DATA` chooses but for a number of updates, of 64 examples: one model of all K tasks
(K N updates), one model for each alone (N updates, so the K together cost what the one does), and one of no task (K N), which
solves them as inverse problems (`undiffuse.models.inverse_problems`) and denoises by its own process.  Judged on 150 held-out examples, corrupted the same
way for all:

    sample      PSNR of one answer
    mean        PSNR of the mean of 4 answers (of x̂ where the model denoises by its own process), near the best that can be known
    class       of data with classes: how often the 3 nearest training examples say the original's class of one answer

and, of two stages, the Fréchet distance of 600 samples to all examples, over the first 64 principal components of their values: a first stage
of `--cascade` times smaller examples (K N updates), and a second one that gets what is left of the multiplications that one stage of the full
size takes for K N updates; the second with and without noise conditioning augmentation.  `--stages` measures these alone, and keeps what else there
is.  The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import RESULTS, machine, table, write
from undiffuse.conditioning.degradations import (
    AddNoise,
    Deblur,
    Degradation,
    Inpaint,
    Upscale,
    parse_tasks,
    second_stage,
)
from undiffuse.data.codec import fitted_codec
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources import open_data
from undiffuse.evaluation.distances import frechet_distance, neighbour_classes
from undiffuse.models import denoising, inverse_problems, restoration
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.networks.building import build_network
from undiffuse.runs.prepare import prepare
from undiffuse.runs.presets import design_for
from undiffuse.training.cadence import Intervals

HELD_OUT, JUDGED, ANSWERS, SAMPLES, COMPONENTS, AUGMENTATION = 297, 150, 4, 600, 64, 0.1
MULTI, SINGLE, NONE = "one for all tasks", "one for this task", "trained for none"


def corruptions(text: str) -> dict[str, Degradation]:
    """Of the tasks, hiding and noise neither little nor nearly all."""
    bounds: dict[type[Degradation], dict[str, tuple[float, float]]] = {
        Inpaint: {"hidden": (0.3, 0.7)},
        AddNoise: {"noise": (0.3, 0.9)},
    }
    return {name: task.model_copy(update=bounds.get(type(task), {})) for name, task in parse_tasks(text).items()}


@dataclass(frozen=True)
class Bench:
    """What all models of a seed have in common."""

    data: DataConfig
    folder: Path
    seed: int
    learning_rate: float | None

    def trained(
        self, name: str, updates: int, chosen: dict[str, Degradation] | None = None, shrink: int | None = None
    ) -> Model:
        settings: dict[str, Any] = {
            "training.steps": updates,
            "training.budget": None,
            "training.seed": self.seed,
            "training.batch_size": 64,
        }
        settings |= {"training.learning_rate": self.learning_rate} if self.learning_rate else {}
        data, folder = self.data.model_copy(update={"shrink": shrink}), self.folder / name.replace(":", "")
        for _ in prepare(data, folder, settings=settings, watch=Intervals(1e9, 60.0), tasks=chosen).run().updates():
            pass
        return load(folder)


def multiplications(source: str, shape: Sequence[int], told: int = 0) -> int:
    """Of the network that is chosen for such examples, told so many channels beside them: for one example, forward."""
    network = build_network(design_for(source, shape).network, shape[0] + told, shape[0], shape[1:], False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, shape[0] + told, *shape[1:]), torch.zeros(1))
    return counter.get_total_flops()


def zero_shot(model: Model, task: Degradation, seen: restoration.Observation) -> Tensor:
    """Answers (inputs, n, …) of a model that was trained for no task."""
    values, n = seen.values, ANSWERS
    if isinstance(task, Inpaint):
        assert seen.known is not None
        return inverse_problems.inpaint(model, values, ~seen.known, n).values
    if isinstance(task, Upscale):
        every = slice(None, None, task.factor)
        small = (slice(None), slice(None), *[every] * (values.ndim - 2))
        return inverse_problems.upscale(model, values[small], task.factor, n).values
    if isinstance(task, Deblur):
        return inverse_problems.deblur(model, values, task.radius, n).values
    return inverse_problems.colorize(model, values[:, :1], n).values


def denoised(model: Model, seen: restoration.Observation) -> tuple[Tensor, Tensor]:
    """By the model itself, down from where the noise is: one answer of each, and x̂."""
    codec, levels = model.codec, seen.channels[:, -1].flatten(1)[:, 0].tolist()
    noisy = seen.channels[:, :-2] * codec.scale + codec.offset
    found = [
        denoising.denoise(model, noisy[k : k + 1], level=level, seed=k, steps=20) for k, level in enumerate(levels)
    ]
    return torch.cat([each.sample for each in found]), torch.cat([each.mean for each in found])


def first_and_mean(answers: Tensor) -> tuple[Tensor, Tensor]:
    """Of answers (inputs, n, …)."""
    return answers[:, 0], answers.mean(1)


class Judge:
    """Scores of answers against the held-out examples of a split."""

    def __init__(self, data: Dataset, span: float, seed: int) -> None:
        training, held = data.split_rows(float(HELD_OUT), seed)
        self.span, self.truth, self.training = (
            span,
            torch.from_numpy(data.values[held[:JUDGED]]).float(),
            data[training],
        )
        self.labels = None if data.labels is None else torch.from_numpy(data.labels[held[:JUDGED]])

    def scores(self, sample: Tensor, best: Tensor) -> dict[str, Tensor]:
        """Of one answer for each input, and the estimate of least error: float64 (inputs,) each."""
        found = {"sample": self._psnr(sample), "mean": self._psnr(best)}
        if self.labels is not None:
            found["class"] = (self.classes(sample) == self.labels).double()
        return found

    def classes(self, values: Tensor) -> Tensor:
        points, labels = (
            torch.from_numpy(self.training.values).flatten(1).float(),
            torch.from_numpy(self.training.labels),
        )
        return neighbour_classes(values.flatten(1), points, labels)

    def _psnr(self, values: Tensor) -> Tensor:
        return -10 * ((values - self.truth) / self.span).flatten(1).double().square().mean(1).clamp(min=1e-6).log10()


def over(values: Tensor) -> tuple[float, float]:
    """Mean and standard error."""
    return values.mean().item(), values.std().item() / math.sqrt(len(values))


def judged_tasks(bench: Bench, judge: Judge, chosen: dict[str, Degradation], updates: int) -> list[dict[str, Any]]:
    multi, plain, rows = (
        bench.trained("multi", len(chosen) * updates, chosen),
        bench.trained("plain", len(chosen) * updates),
        [],
    )
    for name, task in chosen.items():
        single = bench.trained(name, updates, {name: task})
        seen = restoration.degrade(multi, judge.truth, name, seed=1000)
        answers = {
            SINGLE: first_and_mean(restoration.restore(single, seen, ANSWERS).values),
            MULTI: first_and_mean(restoration.restore(multi, seen, ANSWERS).values),
            NONE: denoised(plain, seen) if isinstance(task, AddNoise) else first_and_mean(zero_shot(plain, task, seen)),
        }
        scores = {model: judge.scores(*values) for model, values in answers.items()}
        for model, found in scores.items():
            ahead = over(found["mean"] - scores[SINGLE]["mean"])
            rows.append(
                {"task": name, "model": model, "ahead": ahead}
                | {score: over(values) for score, values in found.items()}
            )
            print(bench.seed, rows[-1], flush=True)
    return rows


def judged_stages(bench: Bench, judge: Judge, data: Dataset, factor: int, updates: int) -> list[dict[str, Any]]:
    shape, source = data.shape, bench.data.source
    smaller = (shape[0], *(n // factor for n in shape[1:]))
    one, first, second = (multiplications(source, *of) for of in ((shape,), (smaller,), (shape, shape[0] + 2)))
    left = round(updates * (one - first) / second)
    small, plain = bench.trained("small", updates, shrink=factor), bench.trained("plain", updates)
    stages = {
        "second stage, with augmentation": (
            bench.trained("second", left, {f"upscale:{factor}": second_stage(factor)}),
            AUGMENTATION,
        ),
        "second stage, without": (bench.trained("second-plain", left, parse_tasks(f"upscale:{factor}")), 0.0),
    }
    asked = {"class": [data.classes[k % len(data.classes)] for k in range(SAMPLES)]} if data.classes else {}
    few = small.sample(SAMPLES, asked, seed=1)
    made = {
        name: restoration.upscale_samples(model, few, augmentation=noise, conditions=asked, seed=1)
        for name, (model, noise) in stages.items()
    }
    made["one stage"] = plain.sample(SAMPLES, asked, seed=1)
    real = torch.from_numpy(data.values).flatten(1).double() / judge.span
    directions = torch.linalg.eigh(torch.cov(real.T)).eigenvectors[:, -COMPONENTS:]
    rows = []
    for name, values in made.items():
        distance = frechet_distance(values.flatten(1).double() / judge.span @ directions, real @ directions)
        right = (
            (judge.classes(values) == torch.arange(SAMPLES) % len(data.classes)).double().mean().item()
            if data.classes
            else None
        )
        rows.append(
            {
                "model": name,
                "updates": updates if name == "one stage" else [updates, left],
                "frechet": distance,
                "accuracy": right,
            }
        )
        print(bench.seed, rows[-1], flush=True)
    return rows


def cell(values: list[tuple[float, float]], form: str) -> str:
    """A mean and its standard error: over seeds, over examples of a single one."""
    mean, error = over(torch.tensor([v[0] for v in values])) if len(values) > 1 else values[0]
    return f"{mean:{form}} ± {error:{form}}"


def report(found: list[dict[str, Any]]) -> None:
    rows, cells = [row for seed in found for row in seed["tasks"]], []
    scores = [score for score in ("sample", "mean", "class") if score in rows[0]]
    for task in dict.fromkeys(row["task"] for row in rows):
        for model in (MULTI, SINGLE, NONE):
            of = [row for row in rows if row["task"] == task and row["model"] == model]
            ahead = "" if model == SINGLE else cell([row["ahead"] for row in of], "+.2f")
            cells.append(
                [
                    task,
                    model,
                    *(cell([row[score] for row in of], ".1%" if score == "class" else ".2f") for score in scores),
                    ahead,
                ]
            )
    head = {"sample": "sample, dB", "mean": "mean of 4, dB", "class": "class kept"}
    print(table(["task", "model", *(head[score] for score in scores), "ahead of one for this task, dB"], cells))
    report_stages(found)


def report_stages(found: list[dict[str, Any]]) -> None:
    stages = [row for seed in found for row in seed["stages"]]
    if stages:
        cells = []
        for model in dict.fromkeys(row["model"] for row in stages):
            of = [row for row in stages if row["model"] == model]
            error = f" ± {over(torch.tensor([r['frechet'] for r in of]))[1]:.3f}" if len(of) > 1 else ""
            right = (
                ""
                if of[0]["accuracy"] is None
                else cell(
                    [(r["accuracy"], math.sqrt(r["accuracy"] * (1 - r["accuracy"]) / SAMPLES)) for r in of], ".1%"
                )
            )
            cells.append([model, str(of[0]["updates"]), f"{np.mean([r['frechet'] for r in of]):.3f}{error}", right])
        print(table(["samples of", "updates", "Fréchet distance", "class asked for"], cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--updates", type=int, default=300, help="N")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--size", type=int)
    parser.add_argument("--cascade", type=int)
    parser.add_argument("--stages", action="store_true", help="two stages alone")
    parser.add_argument("--learning-rate", type=float)
    options = parser.parse_args()
    size = (options.size, options.size) if options.size else None
    config = DataConfig(source=options.data, size=size, channels="rgb" if size else None, held_out=float(HELD_OUT))
    where, data, chosen = machine(), open_data(config), corruptions(options.tasks)
    codec = fitted_codec(data)
    assert len({*codec.low, *codec.high}) == 2, "measured on values that have one range, as those of images"
    options.runs.mkdir(parents=True, exist_ok=True)
    log = options.runs / ("stages.json" if options.stages else "multi_task.json")
    found = json.loads(log.read_text()) if log.exists() else []
    for seed in range(len(found), options.seeds):
        bench, judge = (
            Bench(config, options.runs / f"seed{seed}", seed, options.learning_rate),
            Judge(data, codec.high[0] - codec.low[0], seed),
        )
        rows = [] if options.stages else judged_tasks(bench, judge, chosen, options.updates)
        stages = (
            judged_stages(bench, judge, data, options.cascade, len(chosen) * options.updates) if options.cascade else []
        )
        found.append({"tasks": rows, "stages": stages})
        log.write_text(json.dumps(found))
    name = f"multi_task_{options.runs.name}"
    if options.stages:
        report_stages(found)
        content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        write(
            name,
            content
            | {
                "stages": {
                    "machine": where,
                    "updates": len(chosen) * options.updates,
                    "samples": SAMPLES,
                    "seeds": found,
                }
            },
        )
        return
    report(found)
    write(
        name,
        {
            "machine": where,
            "data": list(data.shape),
            "updates": options.updates,
            "held_out": HELD_OUT,
            "judged": JUDGED,
            "seeds": found,
        },
    )


if __name__ == "__main__":
    main()
