"""Told a class and a number: does a model of MNIST draw that digit, slanted that much?

    python -m benchmarks.mnist_conditioned prepare MNIST              # a folder with the four idx.gz files; makes mnist.npz
    undiffuse train mnist.npz --class class --number slant --batch 128 --budget 25m
    python -m benchmarks.mnist_conditioned judge MNIST runs/mnist

The slant is measured on the picture, the angle of the line x = tan(slant) y that fits the ink, by its second moments.  Digits
slanted by 10 to 14 degrees are left out of training.  Judged are n samples with the class and slant of real digits, those
of the left-out angles included, and as many with left-out angles alone:

    accuracy   by a convolutional network trained here on the 60,000 clean training digits (its test accuracy is printed)
    R²         of the slant asked and the slant measured; of left-out angles the root mean square error, since their own
               spread is small
"""

from __future__ import annotations

import argparse
import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import machine, table, write
from undiffuse.models.file import load

LEFT_OUT = (10.0, 14.0)  # degrees
SETTINGS: dict[str, dict[str, Any]] = {
    "1": {},
    "1.5": {"guidance": 1.5},
    "2": {"guidance": 2.0},
    "3": {"guidance": 3.0},
    "class 2, slant 3": {"guidance_scales": {"class": 2.0, "slant": 3.0}},
}


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 (N, 28, 28), labels) of "train" or "t10k"."""
    images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def slant(images: np.ndarray) -> np.ndarray:
    """Degrees, positive for digits that lean to the right. images: (N, 28, 28), black 0."""
    ink, row = images.astype(np.float64), np.arange(images.shape[1])
    mass = ink.sum((1, 2))
    dy = row - ((ink.sum(2) * row).sum(1) / mass)[:, None]
    dx = row - ((ink.sum(1) * row).sum(1) / mass)[:, None]
    along, across = (ink.sum(2) * dy**2).sum(1), (ink * dy[:, :, None] * dx[:, None]).sum((1, 2))
    return np.degrees(np.arctan2(-across, along))


def left_out(angle: np.ndarray) -> np.ndarray:
    return (angle > LEFT_OUT[0]) & (angle < LEFT_OUT[1])


def prepare(folder: Path) -> None:
    images, labels = read(folder, "train")
    angle = slant(images)
    kept = ~left_out(angle)
    np.savez("mnist.npz", images=images[kept], labels=labels[kept], slant=angle[kept])
    print(
        f"wrote mnist.npz: {kept.sum():,} of {len(kept):,} digits, without those slanted by {LEFT_OUT[0]:g} to {LEFT_OUT[1]:g} degrees"
    )


def judge_network() -> nn.Module:
    def block(channels_in: int, channels_out: int) -> list[nn.Module]:
        return [nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.BatchNorm2d(channels_out), nn.ReLU()]

    return nn.Sequential(
        *block(1, 16),
        nn.MaxPool2d(2),
        *block(16, 32),
        nn.MaxPool2d(2),
        *block(32, 64),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 49, 10),
    )


def trained_judge(folder: Path, steps: int = 1400) -> tuple[nn.Module, float]:
    """(the judge, its accuracy on the 10,000 test digits)."""
    images, labels = (torch.from_numpy(part.copy()) for part in read(folder, "train"))
    torch.manual_seed(0)
    network, generator = judge_network(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (128,), generator=generator)
        shift = torch.randint(-2, 3, (2,), generator=generator).tolist()
        x = torch.roll(images[rows, None].float() / 255, shift, (2, 3))
        loss = nn.functional.cross_entropy(network(x), labels[rows].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    tests, truth = (torch.from_numpy(part.copy()) for part in read(folder, "t10k"))
    network.eval()
    return network, (classes(network, tests[:, None].float()) == truth).double().mean().item()


@torch.no_grad()
def classes(network: nn.Module, images: Tensor) -> Tensor:
    """images: (N, 1, 28, 28), 0 … 255."""
    return torch.cat([network(part / 255).argmax(1) for part in images.split(500)])


def judged(
    model: Any, network: nn.Module, labels: np.ndarray, angle: np.ndarray, how: dict[str, Any]
) -> dict[str, float]:
    values = model.sample(len(labels), {"class": [str(k) for k in labels], "slant": angle.tolist()}, seed=1, **how)
    error = slant(values[:, 0].numpy()) - angle
    accuracy = (classes(network, values).numpy() == labels).mean()
    return {
        "accuracy": accuracy,
        "accuracy_error": math.sqrt(max(accuracy * (1 - accuracy), 1 / len(labels)) / len(labels)),
        "r2": 1 - (error**2).mean() / angle.var(),
        "rms_degrees": math.sqrt((error**2).mean()),
        "bias_degrees": error.mean(),
    }


def judge(folder: Path, run: Path, n: int) -> None:
    where, model = machine(), load(run)
    network, tested = trained_judge(folder)
    images, labels = read(folder, "train")
    angle, order = slant(images), np.random.default_rng(0).permutation(len(images))
    every, out = order[:n], order[left_out(angle[order])][: n // 2]
    results = list[dict[str, Any]]()
    for name, how in SETTINGS.items():
        row = {"guidance": name, "all": judged(model, network, labels[every], angle[every], how)}
        results.append(row | {"left_out": judged(model, network, labels[out], angle[out], how)})
    head = ["guidance", "class accuracy", "R² of the slant", "rms error", "left-out angles: accuracy", "rms error"]
    print(
        table(
            head,
            [
                [
                    r["guidance"],
                    f"{r['all']['accuracy']:.2%} ± {r['all']['accuracy_error']:.2%}",
                    f"{r['all']['r2']:.3f}",
                    f"{r['all']['rms_degrees']:.1f}°",
                    f"{r['left_out']['accuracy']:.2%}",
                    f"{r['left_out']['rms_degrees']:.1f}°",
                ]
                for r in results
            ],
        )
    )
    print(
        f"the judge: {tested:.2%} on test digits; slants have a standard deviation of {angle.std():.1f}°; {where['device']}"
    )
    provenance = {name: model.config.provenance.get(name) for name in ("training", "held_out", "heard")}
    write(
        "mnist_conditioned",
        {
            "machine": where,
            "n": n,
            "left_out": LEFT_OUT,
            "judge_test_accuracy": tested,
            "model": provenance,
            "results": results,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "judge"])
    parser.add_argument("mnist", type=Path)
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("-n", type=int, default=1000)
    options = parser.parse_args()
    if options.what == "prepare":
        prepare(options.mnist)
    else:
        judge(options.mnist, options.run, options.n)


if __name__ == "__main__":
    main()
