"""Data of every shape, learned by every network: points, tables, signals and volumes whose laws are known.

    python -m benchmarks.shapes [--budget 60 | --steps 400] [--only volumes] [--network autoencoder]

    points    two half circles with noise of 0.05          distance of samples to the circles, which is 0.05 sqrt(2/pi) on average
    table     five correlated columns of scales 1e-3 to 1e4    means, deviations and correlations against those they were drawn with
    signals   sines of 64 numbers, any phase, 1 to 4 periods   what is left of a sample beside the sine nearest to it; its periods,
                                                               uniform: mean 2.5, deviation 0.866
    volumes   one blob in 12×12×12, its centre anywhere in a cube   what is left beside the blob nearest to it; its centre,
                                                               uniform: mean 5.5, deviation 1.44 along each axis

For each network: the held-out error relative to the best linear denoiser, and these laws in 500 samples beside 500 fresh examples.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, machine, table, write
from undiffuse.data.config import DataConfig
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.runs.diffusion import Run
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

SAMPLES = 500
NOISE = 0.05
SCALES, OFFSETS = np.array([1e-3, 1.0, 1e4, 50.0, 7.0]), np.array([0.0, 5.0, 1e6, 0.0, -3.0])
MIXING = np.array(
    [[1.0, 0, 0, 0, 0], [0.8, 0.6, 0, 0, 0], [0, -0.6, 0.8, 0, 0], [0.5, 0.5, 0.5, 0.5, 0], [0, 0, 0, -0.28, 0.96]]
)  # rows of length 1
PERIODS, LENGTH = (1.0, 4.0), 64
CENTRES, SIDE, WIDTH = (3.0, 8.0), 12, 2.0


def points(n: int, seed: int) -> np.ndarray:
    r = np.random.default_rng(seed)
    angle, upper = r.uniform(0, np.pi, n), r.integers(0, 2, n) == 0
    x, y = np.where(upper, np.cos(angle), 1 - np.cos(angle)), np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return (np.stack([x, y], 1) + NOISE * r.standard_normal((n, 2))).astype(np.float32)


def rows(n: int, seed: int) -> np.ndarray:
    z = np.random.default_rng(seed).standard_normal((n, 5)) @ MIXING.T
    return (z * SCALES + OFFSETS).astype(np.float32)


def signals(n: int, seed: int) -> np.ndarray:
    r = np.random.default_rng(seed)
    phase, periods = r.uniform(0, 2 * np.pi, (n, 1)), r.uniform(*PERIODS, (n, 1))
    return np.sin(2 * np.pi * periods * np.arange(LENGTH) / LENGTH + phase).astype(np.float32)


def blob(centres: np.ndarray) -> np.ndarray:
    """(n, 3) → (n, 12, 12, 12)."""
    axes = np.exp(-((np.arange(SIDE) - centres[..., None]) ** 2) / (2 * WIDTH**2))  # (n, 3, 12)
    return np.einsum("ni,nj,nk->nijk", axes[:, 0], axes[:, 1], axes[:, 2])


def volumes(n: int, seed: int) -> np.ndarray:
    return blob(np.random.default_rng(seed).uniform(*CENTRES, (n, 3))).astype(np.float32)


def of_points(x: np.ndarray) -> dict[str, float]:
    """Distance to the nearer of the two half circles."""
    x = x.reshape(len(x), 2)

    def distance(centre: tuple[float, float], sign: float) -> np.ndarray:
        d = x - centre
        ends = np.minimum(np.hypot(d[:, 0] - 1, d[:, 1]), np.hypot(d[:, 0] + 1, d[:, 1]))
        return np.where(sign * d[:, 1] >= 0, np.abs(np.hypot(*d.T) - 1), ends)

    upper, lower = distance((0.0, 0.0), 1), distance((1.0, 0.5), -1)
    return {
        "distance to the circles": np.minimum(upper, lower).mean(),
        "share on the upper one": (upper < lower).mean(),
    }


def of_rows(x: np.ndarray) -> dict[str, float]:
    """Largest errors of mean and deviation in deviations, and of correlations."""
    z = (x.reshape(len(x), 5) - OFFSETS) / SCALES
    return {
        "largest error of a mean": np.abs(z.mean(0)).max(),
        "of a deviation": np.abs(z.std(0) - 1).max(),
        "of a correlation": np.abs(np.corrcoef(z.T) - MIXING @ MIXING.T).max(),
    }


def of_signals(x: np.ndarray) -> dict[str, float]:
    """The sine nearest to each, by least squares for many numbers of periods."""
    x = x.reshape(len(x), LENGTH).astype(np.float64)
    tried = np.linspace(0.5, 5, 181)
    left = []
    for periods in tried:
        angle = 2 * np.pi * periods * np.arange(LENGTH) / LENGTH
        basis, _ = np.linalg.qr(np.stack([np.cos(angle), np.sin(angle)], 1))
        left.append((x**2).sum(1) - ((x @ basis) ** 2).sum(1))
    best = tried[np.argmin(left, 0)]
    return {
        "beside the sine": np.min(left, 0).sum() / (x**2).sum(),
        "periods": best.mean(),
        "their deviation": best.std(),
    }


def of_volumes(x: np.ndarray) -> dict[str, float]:
    """The blob nearest to each, at the centre whose blob has the same centre of mass (the sides of the cube draw that inwards)."""
    x = x.reshape(len(x), SIDE, SIDE, SIDE).astype(np.float64)
    mass = np.stack([x.sum(axes) for axes in ((2, 3), (1, 3), (1, 2))], 1).clip(min=1e-9)  # (n, 3, 12)
    wanted = (mass * np.arange(SIDE)).sum(2) / mass.sum(2)
    tried = np.linspace(0, SIDE - 1, 441)
    weights = np.exp(-((np.arange(SIDE) - tried[:, None]) ** 2) / (2 * WIDTH**2))
    means = (weights * np.arange(SIDE)).sum(1) / weights.sum(1)  # the centre of mass of a blob at each place
    centres = np.interp(wanted, means, tried)
    return {
        "beside the blob": ((x - blob(centres)) ** 2).sum() / (x**2).sum(),
        "centre": centres.mean(),
        "its deviation": centres.std(0).mean(),
    }


@dataclass(frozen=True)
class Shape:
    make: Callable[[int, int], np.ndarray]
    laws: Callable[[np.ndarray], dict[str, float]]
    layout: str
    networks: Mapping[str, dict[str, Any]]  # by kind, with the settings that suit so short a training


STAGES = {"network.width": 8, "network.multipliers": [1, 2]}
PATCHES = {"network.patch": 4, "network.width": 48, "network.depth": 3}
SHORT = {"training.batch_size": 16, "training.learning_rate": 4e-3, "training.ema_decay": 0.98}
SHAPES = {
    "points": Shape(points, of_points, "NC", {"mlp": {}, "unet": {}}),
    "table": Shape(rows, of_rows, "NC", {"mlp": {}, "unet": {}}),
    "signals": Shape(
        signals,
        of_signals,
        "NL",
        {
            "unet": {},
            "transformer": {"training.learning_rate": 3e-3} | PATCHES,
            "mlp": {},
            "autoencoder": {},
        },
    ),
    "volumes": Shape(
        volumes,
        of_volumes,
        "NDHW",
        {
            "unet": SHORT | STAGES,
            "transformer": SHORT | PATCHES,
            "mlp": SHORT,
            "autoencoder": SHORT | STAGES,
        },
    ),
}


def trained(
    shape: Shape, network: str, folder: Path, n: int = 4000, settings: dict[str, Any] | None = None
) -> tuple[Run, Model]:
    """A run on n examples, and the model as loaded from its file."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "data.npy", shape.make(n, 0))
    data = DataConfig(source=str(folder / "data.npy"), layout=shape.layout)
    run = prepare(data, folder / "run", settings=settings, network=network, watch=Intervals(1e9, 1e9)).run()
    for _ in run.updates():
        pass
    return run, load(run.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of training for each")
    parser.add_argument("--steps", type=int, help="updates of training for each, in place of the seconds")
    parser.add_argument("--only", choices=SHAPES, help="one shape; the results of the others are kept")
    parser.add_argument("--network", help="one network; the results of the others are kept")
    options = parser.parse_args()
    before = (
        json.loads((RESULTS / "shapes.json").read_text(encoding="utf-8")) if options.only or options.network else {}
    )
    where, found, again = machine(), before.get("found", {}), before.get("again", [])
    length = {"training.steps": options.steps, "training.budget": None if options.steps else options.budget}
    for name, shape in SHAPES.items():
        if options.only not in (None, name):
            continue
        laws = {"fresh examples": shape.laws(shape.make(SAMPLES, 1))}
        lines = [["fresh examples", "", "", *(f"{v:.3g}" for v in laws["fresh examples"].values())]]
        for network, settings in shape.networks.items():
            if options.network not in (None, network):
                continue
            with tempfile.TemporaryDirectory() as folder:
                run, model = trained(shape, network, Path(folder), settings=settings | length)
                error = min(score["relative"] for score in run.measurements.scores().values())
                laws[network] = shape.laws(model.sample(SAMPLES).numpy())
                count = sum(p.numel() for p in model.denoiser.parameters())
                lines.append([network, f"{count:,}", f"{error:.3f}", *(f"{v:.3g}" for v in laws[network].values())])
                found[f"{name}, {network}"] = {
                    "relative": error,
                    "parameters": count,
                    "steps": run.loop.step,
                } | laws[network]
                again += [{"row": f"{name}, {network}", "machine": where, "length": length}] if before else []
        print(table([name, "parameters", "held-out error", *laws["fresh examples"]], lines) + "\n", flush=True)
    first = {"machine": where, "budget": options.budget, "yardstick": NOISE * math.sqrt(2 / math.pi)}
    write("shapes", first | {name: before[name] for name in first if name in before} | {"found": found, "again": again})


if __name__ == "__main__":
    main()
