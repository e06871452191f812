"""Raw or averaged weights: what held-out error chooses, beside what a score of samples says.

    python -m benchmarks.weights_choice digits [DATA …] [--steps 600] [--looks 3] [--samples 500] [--seeds 1] [--size 32] [--as NAME]

Trains a model on each data set and looks at it a few times on the way.  Every look measures both sets of weights on held-out
examples, as runs do: on the first part alone and by the smaller number, which was the rule once, and on as many as the precision
takes, where raw weights must be better by twice the paired standard error.  And it draws samples of both sets, of the same noise
and classes, and measures their Fréchet distance to real examples in the features of a classifier of clean examples, trained here,
with the standard error of the difference over bootstrap samples.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import machine, table, write
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import DataConfig
from undiffuse.evaluation.distances import frechet_distance
from undiffuse.models.classifier import Classifier
from undiffuse.runs.classifier import ClassifierRun
from undiffuse.runs.diffusion import Run
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals
from undiffuse.training.scores import Scores
from undiffuse.training.settings import TrainingConfig

READER_STEPS, REAL, RESAMPLES = 400, 1500, 40


def reader(run: Run) -> Classifier:
    """A classifier of clean training examples."""
    training = TrainingConfig(steps=READER_STEPS, batch_size=64, learning_rate=1e-3, weight_decay=0.05, warmup=20)
    rows = run.prepared.training, np.array([], dtype=np.int64)
    work = ClassifierRun(
        Path(),
        run.model_config,
        run.codec,
        run.prepared.data,
        rows,
        "class",
        Condition(kind="class"),
        training,
        run.device,
        clean=True,
    )
    for _ in work.loop.updates(work.loader):
        pass
    return work.classifier


@torch.no_grad()
def features(classifier: Classifier, x: Tensor) -> Tensor:
    """The last features of examples in the model's range, averaged over places, float64 (n, d)."""
    return torch.cat([classifier.features(part)[-1].flatten(2).mean(2) for part in x.split(250)]).double()


def look(run: Run, classifier: Classifier, n: int) -> dict:
    """One look at a run: held-out errors, choices and distances of both sets of weights."""
    began = time.process_time()
    found = run.measurements.measured()
    assert found is not None
    seconds = time.process_time() - began
    size = len(run.measurements.validation.x)
    first = Scores({name: errors[:size] for name, errors in found.errors.items()}, found.baseline[:size])
    names = run.model.classes
    told = {"class": [names[k % len(names)] for k in range(n)]}
    real = features(
        classifier,
        run.codec.encode(
            run.training_data.values[np.random.default_rng(0).permutation(len(run.prepared.training))[:REAL]]
        ),
    )
    made = {"online": features(classifier, run.codec.encode(run.model.sample(n, told)))}
    with run.loop.ema.swapped():
        made["ema"] = features(classifier, run.codec.encode(run.model.sample(n, told)))
    generator, differences = torch.Generator().manual_seed(0), []
    for _ in range(RESAMPLES):
        rows = torch.randint(n, (n,), generator=generator)
        differences.append(frechet_distance(real, made["online"][rows]) - frechet_distance(real, made["ema"][rows]))
    held_out = features(classifier, run.codec.encode(run.held_out.values))
    return {
        "step": run.loop.step,
        "measured": len(found),
        "of": len(run.held_out),
        "seconds": seconds,
        "held_out": found.summary() | {name: {"errors": None} | vars(found.relative(name)) for name in found.errors},
        "once": min(first.errors, key=lambda name: first.relative(name).value),
        "once_measured": size,
        "now": found.best(),
        "frechet": {name: frechet_distance(real, each) for name, each in made.items()},
        "real": frechet_distance(real, held_out),
        "raw_minus_averaged": frechet_distance(real, made["online"]) - frechet_distance(real, made["ema"]),
        "its_error": torch.tensor(differences).std().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--looks", type=int, default=3)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--size", type=int, help="of images")
    parser.add_argument("--as", dest="name", default="weights_choice", help="of the file of results")
    given, looks, rows = parser.parse_args(), [], []
    size = None if given.size is None else (given.size, given.size)
    for data in given.data:
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                settings = {"training.steps": given.steps, "training.budget": None, "training.seed": seed}
                run = prepare(
                    DataConfig(source=data, size=size), Path(folder) / "r", settings=settings, watch=Intervals(1e9, 1e9)
                ).run()
                classifier = reader(run)
                for update in run.loop.updates(run.batch):
                    if update.step * given.looks % given.steps < given.looks:
                        found = look(run, classifier, given.samples) | {"data": Path(data).name, "seed": seed}
                        looks.append(found)
                        raw, averaged = (found["held_out"][name] for name in ("online", "ema"))
                        better = (
                            "either"
                            if abs(found["raw_minus_averaged"]) < 2 * found["its_error"]
                            else min(found["frechet"], key=found["frechet"].get)
                        )
                        rows.append(
                            [
                                found["data"],
                                seed,
                                found["step"],
                                f"{raw['value']:.3f} ± {raw['error']:.3f}",
                                f"{averaged['value']:.3f} ± {averaged['error']:.3f}",
                                f"{found['once']} ({found['once_measured']})",
                                f"{found['now']} ({found['measured']})",
                                f"{found['frechet']['online']:.3g}",
                                f"{found['frechet']['ema']:.3g}",
                                f"{found['raw_minus_averaged']:+.3g} ± {found['its_error']:.2g}",
                                f"{found['real']:.3g}",
                                better,
                            ]
                        )
                        print(rows[-1], flush=True)
    head = [
        "data",
        "seed",
        "step",
        "raw, held-out",
        "averaged, held-out",
        "chosen once (n)",
        "chosen now (n)",
        "raw, Fréchet",
        "averaged, Fréchet",
        "difference",
        "held-out examples",
        "better samples",
    ]
    print(table(head, rows))
    write(given.name, {"machine": machine(), "steps": given.steps, "samples": given.samples, "looks": looks})


if __name__ == "__main__":
    main()
