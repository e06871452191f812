"""Which solver, grid and last noisy level make the best samples at the default number of evaluations, of young models and older ones?

    python -m benchmarks.grids RUNS --mnist FOLDER --hands FOLDER --emoji TABLE

trains a small model of each data set that is given, and of the embedded digits, to a young age and then to an older one (a run that has
ended, and the same run gone on with), by number of steps, each with part of the data held out.  Every setting then draws samples of
16 evaluations from the same noise, told what held-out examples are told.  The same command goes on where it was stopped.

    score       Fréchet distance to the held-out examples, in pixels for the digits, in cosines and sines of 32 random waves for points in
                the plane (made here), else in the features of a classifier that is trained here on the training examples, the averages
                that enter its last layer; lower is better, and the number means nothing beside another n
    floor       that of as many training examples: where a perfect model would be
    ahead       score less that of the old default, `adams` on `angle_beta`, from the same noise; errors are by a jackknife of 20 blocks of samples
    to the flow median over 64 examples of the root mean square distance, per number, to where the exact flow ends (adams, 60 steps)

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

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import machine, table, write
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation.distances import frechet_distance
from undiffuse.evaluation.jackknife import jackknife
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.runs.data import RunData, conditions_of, random_subset, run_data
from undiffuse.runs.prepare import prepare
from undiffuse.sampling.loop import final
from undiffuse.training.cadence import Intervals

EVALUATIONS, NEAR, REFERENCE_STEPS, CHUNK = 16, 64, 60, 256
FEW, WAVES, FINE = (
    16,
    32,
    0.1,
)  # numbers of points and tables; random waves of them, and the scale that these resolve, in the model's range
OLD: dict[str, Any] = {"solver": "adams", "grid": "angle_beta", "sigma_min": None}
TRIED: dict[
    tuple[str, str], tuple[float | None, ...]
] = {  # sigma/alpha of the last noisy level; None for the grid's own
    ("adams", "angle_beta"): (None, 0.1),
    ("unipc", "angle"): (None,),
    ("unipc", "trailing"): (None,),
    ("adams", "angle"): (None, 0.2),
    ("unipc", "angle_beta"): (None,),
    ("dpm++", "trailing"): (None,),
    ("dpm++", "karras"): (None,),
    ("adams", "trailing"): (None,),
}
SETTINGS = [
    {"solver": solver, "grid": grid, "sigma_min": last} for (solver, grid), lasts in TRIED.items() for last in lasts
]
SMALL: dict[str, Any] = {"network.width": 16, "training.batch_size": 64}


@dataclass(frozen=True)
class Set:
    """Data to measure on.   steps: of training, young and older.   n: samples.   labels: the columns that the classifier is taught; None for values as
    they are, or waves of them where they are few."""

    data: DataConfig
    steps: tuple[int, int]
    settings: dict[str, Any]
    conditions: dict[str, Condition] | None = None
    labels: tuple[str, ...] | None = ("class",)
    judge_steps: int = 500
    n: int = 256


def points(path: Path, n: int = 6000) -> Path:
    """A ring of 8 round modes in the plane, deviation 0.05 at a radius of 1: what a jump over small noise blurs most."""
    random = np.random.default_rng(0)
    angle = random.integers(0, 8, n) * (math.pi / 4)
    np.save(
        path, (np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * random.standard_normal((n, 2))).astype(np.float32)
    )
    return path


def sets(options: argparse.Namespace) -> dict[str, Set]:
    options.runs.mkdir(parents=True, exist_ok=True)
    plane = Set(
        DataConfig(source=str(points(options.runs / "points.npy")), held_out=2000),
        (400, 2000),
        {"training.batch_size": 256},
        labels=None,
        n=2000,
    )
    found = {
        "points": plane,
        "digits": Set(DataConfig(source="digits", held_out=400), (250, 1000), {}, labels=None, n=1000),
    }
    if options.mnist:
        found["mnist"] = Set(
            DataConfig(source=str(options.mnist / "train-images-idx3-ubyte.gz"), held_out=10_000), (600, 1600), SMALL
        )
    if options.hands:
        found["hands"] = Set(
            DataConfig(source=str(options.hands), size=(32, 32), channels="rgb", held_out=500), (500, 1300), SMALL
        )
    if options.emoji:
        data = DataConfig(source=str(options.emoji), size=(32, 32), channels="rgb", held_out=1000)
        found["emoji"] = Set(
            data, (500, 1300), SMALL, {"label": Condition(kind="class")}, ("label", "style"), judge_steps=200
        )
    return found


def trained(runs: Path, name: str, of: Set, age: int) -> Path:
    """The run folder of the young model (age 0) or the older one (1)."""
    young, folder = runs / f"{name}-young", runs / f"{name}-{('young', 'older')[age]}"
    if age and not folder.exists():
        shutil.copytree(trained(runs, name, of, 0), folder)
    settings = of.settings | {"training.budget": None, "training.steps": of.steps[age]}
    assert young.exists() or not age
    for _ in (
        prepare(of.data, folder, settings=settings, conditions=of.conditions, watch=Intervals(1e9, 1e9)).run().updates()
    ):
        pass
    return folder


# The judge -----------------------------------------------------------------------------------------------------------------------


def classifier(channels: int, classes: int) -> nn.Sequential:
    """Three levels of convolutions; features are what enters the last layer, 64 averages."""

    def block(inside: int, outside: int) -> list[nn.Module]:
        return [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()]

    layers = [
        *block(channels, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.MaxPool2d(2),
        *block(64, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
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


def judge_for(model: Model, known: RunData, of: Set, n: int, path: Path) -> Judge:
    """The judge of a data set; its classifier is trained once and kept at `path`."""
    values, held = (
        model.codec.encode(known.data[known.training].values),
        model.codec.encode(known.data[known.held_out].values),
    )
    accuracy = None
    if of.labels is None:
        few = values[0].numel() <= FEW
        waves = (
            torch.randn(values[0].numel(), WAVES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            / FINE
        )

        def features(x: Tensor) -> Tensor:
            flat = x.flatten(1).double()
            return torch.cat([(flat @ waves).cos(), (flat @ waves).sin()], 1) if few else flat
    else:
        truth = classes_of(known.data, of.labels)
        torch.manual_seed(0)
        network, generator = classifier(values.shape[1], int(truth.max()) + 1), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=of.judge_steps)
        for _ in range(0 if path.exists() else of.judge_steps):
            rows = torch.randint(len(values), (128,), generator=generator)
            shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
            loss = nn.functional.cross_entropy(
                network(torch.roll(values[rows], shift, (2, 3))), truth[known.training][rows]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
        if path.exists():
            network.load_state_dict(torch.load(path, weights_only=True))
        else:
            torch.save(network.state_dict(), path)
        network.eval()

        @torch.no_grad()
        def features(x: Tensor) -> Tensor:
            return torch.cat([network[:-1](part.float()) for part in x.split(500)]).double()

        with torch.no_grad():
            accuracy = (network[-1](features(held).float()).argmax(1) == truth[known.held_out]).double().mean().item()
    seen = features(held)
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(1))
    return Judge(features, accuracy, seen, frechet_distance(features(values[order[:n]]), seen))


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
    model, known = load(folder), run_data(folder)
    found: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {"rows": []}
    if len(found["rows"]) == len(SETTINGS):
        return found
    judge = judge_for(model, known, of, n, folder.parent / f"{folder.name.split('-')[0]}-judge.pt")
    held = random_subset(known.data[known.held_out], min(n, len(known.held_out)), 0)
    asked = conditions_of(folder, held)
    told = {name: [values[k % len(values)] for k in range(n)] for name, values in asked.items()}

    def features(end: Tensor) -> Tensor:
        """Of samples as they are given, rounded to the data's own values."""
        return judge.features(model.codec.encode(model.codec.decode(end).numpy()))

    flow = ends(model, told, NEAR, OLD, REFERENCE_STEPS)
    old = None
    found |= {"n": n, "held_out": len(judge.held_out), "accuracy_of_the_judge": judge.accuracy, "floor": judge.floor}
    for setting in SETTINGS[len(found["rows"]) :]:
        began = time.perf_counter()
        end = ends(model, told, n, setting, EVALUATIONS)
        seen = features(end)
        if old is None:
            first = seen if setting == OLD else features(ends(model, told, n, OLD, EVALUATIONS))
            old = jackknife(lambda rows: frechet_distance(rows, judge.held_out), first)
        score = jackknife(lambda rows: frechet_distance(rows, judge.held_out), seen)
        ahead = score.above(old)
        apart = (end[:NEAR] - flow).flatten(1).pow(2).mean(1).sqrt().median().item()
        found["rows"].append(
            setting | {"score": [score.value, score.error], "ahead": [ahead.value, ahead.error], "to_flow": apart}
        )
        log.write_text(json.dumps(found))
        seconds = time.perf_counter() - began
        print(
            folder.name,
            setting,
            f"{score.value:.3f} ± {score.error:.3f}, {ahead.value:+.3f}, {apart:.4f}, {seconds:.0f} s",
            flush=True,
        )
    return found


def report(found: dict[str, dict[str, Any]]) -> None:
    """A column for each model that is scored: the old default's score, and how far above it, or below, each other setting is."""
    whole = {name: of for name, of in found.items() if len(of["rows"]) == len(SETTINGS)}
    scores = {name: [row["score"][0] for row in of["rows"]] for name, of in whole.items()}
    ranks = {name: sorted(range(len(SETTINGS)), key=values.__getitem__) for name, values in scores.items()}
    cells = []
    for k, setting in enumerate(SETTINGS):
        row = [
            setting["solver"],
            setting["grid"],
            "own" if setting["sigma_min"] is None else f"{setting['sigma_min']:g}",
        ]
        for of in found.values():
            if k >= len(of["rows"]):
                row.append("")
            elif setting == OLD:
                row.append(f"{of['rows'][k]['score'][0]:.3f} ± {of['rows'][k]['score'][1]:.3f}")
            else:
                row.append(f"{of['rows'][k]['ahead'][0]:+.3f} ± {of['rows'][k]['ahead'][1]:.3f}")
        mean = statistics.mean(1 + rank.index(k) for rank in ranks.values()) if ranks else math.nan
        cells.append([*row, f"{mean:.1f}"])
    print(table(["solver", "grid", "last level", *found, "mean rank"], cells))
    print("floors: " + ", ".join(f"{name} {of['floor']:.3f} (n = {of['n']})" for name, of in found.items()))
    print(
        "to the flow, old default: " + ", ".join(f"{name} {of['rows'][0]['to_flow']:.4f}" for name, of in found.items())
    )
    write("grids", {"machine": machine(), "evaluations": EVALUATIONS, "settings": SETTINGS, "models": found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--hands", type=Path)
    parser.add_argument("--emoji", type=Path)
    parser.add_argument("--only", help="models to train and score, like digits-young,mnist-young; all when left out")
    options = parser.parse_args()
    wanted, found = options.only.split(",") if options.only else None, {}
    for name, of in sets(options).items():
        for age, old in enumerate(("young", "older")):
            log = options.runs / f"{name}-{old}.json"
            if wanted is None or f"{name}-{old}" in wanted:
                scored(trained(options.runs, name, of, age), of, of.n, log)
            if log.exists() and json.loads(log.read_text())["rows"]:
                found[f"{name}, {old}"] = json.loads(log.read_text())
    report(found)


if __name__ == "__main__":
    main()
