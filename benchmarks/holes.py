"""Training on pictures with holes: how far is it from training on whole ones, and from zeros in place of the holes?

    python -m benchmarks.holes MNIST [--steps 1000] [--seeds 0,1]         # MNIST: a folder with the four idx.gz files

A share of the pixels of every training digit is missing, chosen at random.  The same network is trained with the same updates on

    whole digits
    holes        as the library does it: no loss where a pixel is missing, which the network is told; there the mean of the known around
    unfilled     the same with grey, x = 0, where a pixel is missing
    untold       the same as unfilled, and the network is not told
    zeros        black in place of the missing pixels, as if they were known

and judged by the error of x̂ on whole test digits at the levels of training/validation.py, the same noise for all: the geometric mean of
its ratio to that of whole digits, and with the standard error over digits of training/scores.py.

Then the missing pixels of test digits are filled in (`undiffuse.restore`, one answer each), and compared with what was there: root mean
square over the missing pixels, white 1.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import undiffuse
from benchmarks.common import machine, table, write
from benchmarks.mnist_conditioned import read
from undiffuse.conditioning.known import KNOWN
from undiffuse.data.dataset import Dataset
from undiffuse.data.filling import filled_from_around
from undiffuse.runs.prepared import Prepared
from undiffuse.training.learners import DenoiserLearner
from undiffuse.training.scores import log_ratio
from undiffuse.training.validation import ValidationSet

WAYS = ("whole", "holes", "unfilled", "untold", "zeros")
JUDGED, RESTORED = 512, 16  # test digits
SETTINGS = {
    "network.width": 16,
    "network.multipliers": [1.0, 2.0, 2.0],
    "training.ema_decay": 0.99,
    "training.warmup": 30,
}


def data_for(way: str, values: np.ndarray, known: np.ndarray) -> Dataset:
    """The training digits (N, 1, 28, 28) of one way."""
    if way == "zeros":
        return Dataset("mnist", np.where(known, values, 0).astype(np.uint8))
    return Dataset("mnist", values, known=None if way == "whole" else known)


def trained(way: str, data: Dataset, steps: int, seed: int) -> undiffuse.Model:
    """The model of one way."""
    losses = DenoiserLearner.losses

    def untold(self: Any, x: Tensor, eps: Tensor, level: Any, values: Any, computing: Any) -> Tensor:
        bind = self.denoiser.conditions.forward
        all_known = torch.ones_like(values[KNOWN])
        with mock.patch.object(self.denoiser.conditions, "forward", lambda given: bind({**given, KNOWN: all_known})):
            return losses(self, x, eps, level, values, computing)

    with (
        TemporaryDirectory() as runs,
        warnings.catch_warnings(),
        mock.patch.object(
            Prepared, "filled", (lambda self, x, values: x) if way in ("unfilled", "untold") else Prepared.filled
        ),
        mock.patch.object(DenoiserLearner, "losses", untold if way == "untold" else losses),
    ):
        warnings.simplefilter("ignore")
        return undiffuse.train(
            data, runs=runs, steps=steps, batch_size=32, held_out=16, conditions={}, preview_every=1e6,
            checkpoint_every=1e6, settings={**SETTINGS, "training.seed": seed}, device="cpu",
        )  # fmt: skip


def judged(model: undiffuse.Model, tests: np.ndarray) -> Tensor:
    """The squared error of each test digit at each level, (JUDGED, levels)."""
    values = model.denoiser.conditions.null(len(tests))
    bank = ValidationSet.of(model.codec.encode(tests), values, model.schedule)
    return bank.each(model.denoiser.bind(values))


def filled(model: undiffuse.Model, tests: np.ndarray, missing: float) -> dict[str, float]:
    """Root mean square errors at the missing pixels of test digits: of the model's answers, and of the mean of the known around them."""
    digits = torch.from_numpy(tests.astype(np.float32))
    known = torch.rand(digits.shape, generator=torch.Generator().manual_seed(0)) >= missing
    answers = undiffuse.restore(model, torch.where(known, digits, torch.nan), steps=32).values[:, 0]
    around = filled_from_around(torch.where(known, digits, 0.0), known)
    assert torch.equal(answers[known], digits[known])
    each = {"restored": answers, "mean of the known around": around}
    return {name: ((found - digits)[~known] / 255).square().mean().sqrt().item() for name, found in each.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--missing", type=float, default=0.4)
    parser.add_argument("--ways", default=",".join(WAYS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    values, tests = (read(asked.folder, part)[0][:, None] for part in ("train", "t10k"))
    known = np.random.default_rng(7).random(values.shape) >= asked.missing
    found: dict[str, Any] = {"machine": machine(), "missing": asked.missing, "steps": asked.steps, "seeds": {}}
    rows: list[list[object]] = []
    for seed in map(int, asked.seeds.split(",")):
        errors, seconds, restored = {}, {}, {}
        for way in asked.ways.split(","):
            began = time.monotonic()
            model = trained(way, data_for(way, values.copy(), known), asked.steps, seed)
            seconds[way] = round(time.monotonic() - began)
            errors[way] = judged(model, tests[:JUDGED].copy())
            restored[way] = filled(model, tests[:RESTORED], asked.missing)
            ratio = log_ratio(errors[way], errors["whole"])
            value, error = math.exp(ratio.value), math.exp(ratio.value) * ratio.error
            of = [f"{number:.3f}" for number in restored[way].values()]
            rows.append([seed, way, f"{value:.3f} ± {error:.3f}", *of, seconds[way]])
            print(*rows[-1], flush=True)
        found["seeds"][seed] = {
            way: {
                "ratio": math.exp(log_ratio(each, errors["whole"]).value),
                "errors_by_level": each.mean(0).tolist(),
                "restored": restored[way],
                "seconds": seconds[way],
            }
            for way, each in errors.items()
        }
    print(table(["seed", "trained on", "error / that of whole", "restored", "mean around", "seconds"], rows))
    write("holes", found)


if __name__ == "__main__":
    main()
