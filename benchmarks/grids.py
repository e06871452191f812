"""Which solver, grid and last noisy level make the best samples at the default number of evaluations, of young models and older ones?

    python -m benchmarks.grids RUNS --mnist FOLDER --hands FOLDER --emoji TABLE

trains a small model of each data set that is given, and of the embedded digits, to a young age and then to an older one (a run that has
ended, and the same run gone on with), by number of steps, each with part of the data held out.  Every setting then draws `-n` samples of
16 evaluations from the same noise, told what held-out examples are told.  The same command goes on where it was stopped.

    score       Fréchet distance to the held-out examples, in pixels for the digits, else in the features of a classifier that is trained
                here on the training examples, the average of its last layer; lower is better, and the number means nothing beside another n
    floor       that of as many training examples: where a perfect model would be
    ahead       score less that of the old default, `adams` on `angle_beta`, from the same noise; errors are by a jackknife of 20 blocks
    to the flow median over 64 examples of the root mean square distance, per number, to where the exact flow ends (adams, 120 steps)

MNIST is the folder of train-images-idx3-ubyte.gz and its labels; hands a folder of pictures by class; emoji a table of pictures with the
columns label and style.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import machine, table, write
from undiffuse.conditioning.declared import Condition
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources import DataConfig
from undiffuse.evaluation.distances import frechet_distance
from undiffuse.held_out import Known, drawn, known_data, told_of
from undiffuse.model import Model, load
from undiffuse.prepare import prepare
from undiffuse.run import Watch
from undiffuse.sampling.trajectory import final

EVALUATIONS, BLOCKS, NEAR, REFERENCE_STEPS, CHUNK = 16, 20, 64, 120, 250
OLD: dict[str, Any] = {"solver": "adams", "grid": "angle_beta", "last": None}
LAST = (0.02, 0.05, 0.1, 0.2)
OWN = {
    "adams": ("angle_beta", "angle", "trailing", "beta", "karras"),
    "unipc": ("angle_beta", "angle", "trailing", "karras"),
    "dpm++": ("angle_beta", "angle", "trailing", "karras"),
    "ddim": ("angle_beta", "trailing"),
}
SETTINGS: list[dict[str, Any]] = [
    *({"solver": solver, "grid": grid, "last": None} for solver, grids in OWN.items() for grid in grids),
    *({"solver": s, "grid": g, "last": last} for s in ("adams", "unipc", "dpm++") for g in ("angle_beta", "trailing") for last in LAST),
]  # fmt: skip
SMALL: dict[str, Any] = {"network.width": 16, "training.batch_size": 64}


@dataclass(frozen=True)
class Set:
    """Data to measure on.   steps: of training, young and older.   labels: the columns that the classifier is taught, None for pixels."""

    data: DataConfig
    steps: tuple[int, int]
    settings: dict[str, Any]
    conditions: dict[str, Condition] | None = None
    labels: tuple[str, ...] | None = ("class",)


def sets(options: argparse.Namespace) -> dict[str, Set]:
    found = {"digits": Set(DataConfig(source="digits", held_out=400), (250, 1000), {}, labels=None)}
    if options.mnist:
        found["MNIST"] = Set(DataConfig(source=str(options.mnist / "train-images-idx3-ubyte.gz"), held_out=10_000), (600, 1600), SMALL)
    if options.hands:
        found["hands"] = Set(DataConfig(source=str(options.hands), size=(32, 32), channels="rgb", held_out=500), (500, 1300), SMALL)
    if options.emoji:
        data = DataConfig(source=str(options.emoji), size=(32, 32), channels="rgb", held_out=1000)
        found["emoji"] = Set(data, (500, 1300), SMALL, {"label": Condition(kind="class")}, ("label", "style"))
    return found


def trained(runs: Path, name: str, of: Set, age: int) -> Path:
    """The run folder of the young model (age 0) or the older one (1)."""
    young, folder = runs / f"{name}-young", runs / f"{name}-{('young', 'older')[age]}"
    if age and not folder.exists():
        shutil.copytree(trained(runs, name, of, 0), folder)
    settings = of.settings | {"training.budget": None, "training.steps": of.steps[age]}
    assert young.exists() or not age
    for _ in prepare(of.data, folder, settings=settings, conditions=of.conditions, watch=Watch(1e9, 1e9)).run().updates():
        pass
    return folder


# The judge -----------------------------------------------------------------------------------------------------------------------


def classifier(channels: int, classes: int) -> nn.Sequential:
    """Three levels of convolutions; features are what enters the last layer, 64 averages."""

    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]

    layers = [*block(channels, 32), nn.MaxPool2d(2), *block(32, 64), nn.MaxPool2d(2), *block(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(64, classes))


def classes_of(data: Dataset, labels: Sequence[str]) -> Tensor:
    """One class for each combination of the columns' values, int64 (N,)."""
    if labels == ("class",):
        assert data.labels is not None
        return torch.from_numpy(data.labels)
    together = ["/".join(str(data.columns[name][k]) for name in labels) for k in range(len(data))]
    known = {value: k for k, value in enumerate(sorted(set(together)))}
    return torch.tensor([known[value] for value in together])


@dataclass(frozen=True)
class Judge:
    """features: of values in the model's range (N, C, H, W) → float64 (N, d).   accuracy: on held-out examples; None for pixels."""

    features: Callable[[Tensor], Tensor]
    accuracy: float | None
    held_out: Tensor
    floor: float


def judge_for(model: Model, known: Known, of: Set, n: int, steps: int = 600) -> Judge:
    values, held = model.codec.encode(known.data[known.training].values), model.codec.encode(known.data[known.held_out].values)
    accuracy = None
    if of.labels is None:

        def features(x: Tensor) -> Tensor:
            return x.flatten(1).double()
    else:
        truth = classes_of(known.data, of.labels)
        torch.manual_seed(0)
        network, generator = classifier(values.shape[1], int(truth.max()) + 1), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(values), (128,), generator=generator)
            shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
            loss = nn.functional.cross_entropy(network(torch.roll(values[rows], shift, (2, 3))), truth[known.training][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        network.eval()

        @torch.no_grad()
        def features(x: Tensor) -> Tensor:
            return torch.cat([network[:-1](part.float()) for part in x.split(500)]).double()

        with torch.no_grad():
            accuracy = (network[-1](features(held).float()).argmax(1) == truth[known.held_out]).double().mean().item()
    seen = features(held)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(1))
    return Judge(features, accuracy, seen, frechet_distance(features(values[order[:n]]), seen))


def jackknifed(statistic: Callable[[Tensor], float], n: int) -> tuple[float, float]:
    """(of all n rows, its standard error), leaving out one of BLOCKS blocks of rows after the other."""
    rows, whole = torch.arange(n), statistic(torch.arange(n))
    left = [statistic(rows[rows % BLOCKS != block]) for block in range(BLOCKS)]
    return whole, math.sqrt((BLOCKS - 1) ** 2 / BLOCKS * statistics.variance(left))


# Scores --------------------------------------------------------------------------------------------------------------------------


def ends(model: Model, told: dict[str, list[Any]], n: int, setting: dict[str, Any], steps: int) -> Tensor:
    """Where a setting takes n examples of seed 0, in the model's range."""
    parts = []
    for first in range(0, n, CHUNK):
        part = range(first, min(first + CHUNK, n))
        asked = {name: [values[k] for k in part] for name, values in told.items()}
        parts.append(final(model.trajectory(len(part), asked, seed=0, first=first, steps=steps, **setting)))
    return torch.cat(parts)


def scored(folder: Path, of: Set, n: int, log: Path) -> dict[str, Any]:
    """Every setting's score of one model; what `log` holds already is not measured again."""
    model, known = load(folder), known_data(folder)
    found: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {"rows": []}
    if len(found["rows"]) == len(SETTINGS):
        return found
    judge = judge_for(model, known, of, n)
    held = drawn(known.data[known.held_out], min(n, len(known.held_out)), 0)
    asked = told_of(folder, held)
    told = {name: [values[k % len(values)] for k in range(n)] for name, values in asked.items()}

    def features(end: Tensor) -> Tensor:
        """Of samples as they are given, rounded to the data's own values."""
        return judge.features(model.codec.encode(model.codec.decode(end).numpy()))

    flow = ends(model, told, NEAR, OLD, REFERENCE_STEPS)
    old = features(ends(model, told, n, OLD, EVALUATIONS))
    found |= {"n": n, "held_out": len(judge.held_out), "accuracy_of_the_judge": judge.accuracy, "floor": judge.floor}
    for setting in SETTINGS[len(found["rows"]) :]:
        began = time.perf_counter()
        end = ends(model, told, n, setting, EVALUATIONS)
        seen = features(end)
        score = jackknifed(lambda rows, seen=seen: frechet_distance(seen[rows], judge.held_out), n)  # type: ignore[misc]
        ahead = jackknifed(
            lambda rows, seen=seen: frechet_distance(seen[rows], judge.held_out) - frechet_distance(old[rows], judge.held_out), n  # type: ignore[misc]
        )
        apart = (end[:NEAR] - flow).flatten(1).pow(2).mean(1).sqrt().median().item()
        found["rows"].append(setting | {"score": score, "ahead": ahead, "to_flow": apart})
        log.write_text(json.dumps(found))
        print(folder.name, setting, f"{score[0]:.3f} ± {score[1]:.3f}, {ahead[0]:+.3f} ± {ahead[1]:.3f}, {apart:.4f}, {time.perf_counter() - began:.0f} s", flush=True)
    return found
