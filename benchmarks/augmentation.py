"""Does augmentation help on little data, by held-out error, by copying, and by a score of samples?

    python -m benchmarks.augmentation DATA [--n 150] [--size 16] [--steps 600] [--seeds 2]

Takes n training and n held-out pictures of DATA, a folder of pictures in classes, at random, and trains one model for each line of MENU and
seed, all for as many updates.  A model is looked at twice, at half and at the end of its training:

    held-out error    of EMA weights, relative to the best linear denoiser's, with nothing augmented; lower is better
    near training     share of n samples that are nearer to a training picture than to a held-out one: 50 % where nothing is copied.
                      Pictures are compared as they are, and mirrored ones of both sets count too, so that a mirrored copy is one
    Fréchet           distance of the samples' block averages (5 × 5, of every colour) to those of the held-out pictures

The last line is the Fréchet distance of the training pictures themselves to the held-out ones.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common import RESULTS, machine, table, write
from undiffuse.data.augmentation import parse_augmentation
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_data
from undiffuse.evaluation.copying import copying
from undiffuse.evaluation.distances import frechet_distance
from undiffuse.runs.diffusion import Run
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

MENU = {
    "nothing": None,
    "shift": "shift",
    "flip": "flip",
    "mirror, not told": "mirror",
    "rotate, scale": "rotate:15,scale:0.15",
    "colour": "colour:0.1",
    "all of these": "shift,flip,rotate:15,scale:0.15,colour:0.1",
}
SETTINGS = {
    "network": {
        "kind": "unet",
        "width": 12,
        "multipliers": [1, 2, 3],
        "depth": 1,
        "groups": 4,
        "middle_attention": False,
    },
    "training.budget": None,
    "training.batch_size": 32,
    "training.learning_rate": 2e-3,
    "training.ema_decay": 0.995,
    "training.timestep_sampling": "logit_normal",
}
LOOKS, SECONDS = 2, 3.0  # of looking, and of measuring held-out examples each time


def subset(source: str, size: int, n: int, seed: int, path: Path) -> None:
    """2n pictures at random, as an array with labels."""
    data = open_data(DataConfig(source=source, size=(size, size)))
    rows = np.random.default_rng(seed).permutation(len(data))[: 2 * n]
    assert data.labels is not None
    np.savez(path, images=data.values[rows].transpose(0, 2, 3, 1), labels=data.labels[rows])


def blocks(x: Tensor) -> Tensor:
    """5 × 5 averages of every channel, float64 (n, 25 C)."""
    return functional.adaptive_avg_pool2d(x, 5).flatten(1).double()


def both_ways(x: Tensor) -> Tensor:
    """Pictures and their mirror images, as rows."""
    return torch.cat([x, x.flip(-1)]).flatten(1)


def look(run: Run, n: int) -> dict[str, float]:
    """Scores of the run as it is now."""
    found = run.measurements.measured(SECONDS)
    assert found is not None
    error = found.relative("ema")
    real = {
        name: run.codec.encode(data.values)
        for name, data in (("training", run.training_data), ("held_out", run.held_out))
    }
    count = min(len(x) for x in real.values())
    labels = run.held_out.labels
    told = {} if labels is None else {"class": [run.model.classes[k] for k in np.resize(labels, n)]}
    with run.loop.ema.swapped():
        samples = run.codec.encode(run.model.sample(n, told, seed=1))
    near = copying(samples.flatten(1), both_ways(real["training"][:count]), both_ways(real["held_out"][:count]))
    return {
        "step": run.loop.step,
        "held_out_error": error.value,
        "its_error": error.error,
        "near_training": near.share,
        "frechet": frechet_distance(blocks(samples), blocks(real["held_out"])),
        "frechet_of_training": frechet_distance(blocks(real["training"]), blocks(real["held_out"])),
    }


def report(results: dict[str, list[list[dict[str, float]]]]) -> None:
    """Prints means over seeds, and in brackets the difference from nothing of each seed, whose data are the same."""
    rows, forms = [], {"held_out_error": "{:.3f}", "near_training": "{:.1%}", "frechet": "{:.3f}"}
    half, whole = (int(results["nothing"][0][which]["step"]) for which in (0, -1))
    for name, runs in results.items():
        cells = []
        for key, form in forms.items():
            for which in (0, -1):
                values = [looks[which][key] for looks in runs]
                less = [value - looks[which][key] for value, looks in zip(values, results["nothing"], strict=True)]
                shown = ", ".join(form.replace(":", ":+").format(each) for each in less)
                cells.append(form.format(np.mean(values)) + (f" ({shown})" if name != "nothing" else ""))
        rows.append([name, *cells])
    titles = ("held-out error", "near training", "Fréchet")
    print(table(["augmentation", *(f"{what}, {step} updates" for what in titles for step in (half, whole))], rows))
    errors = [looks[-1]["its_error"] for runs in results.values() for looks in runs]
    print(f"standard error of a held-out error, over held-out pictures: {np.mean(errors):.3f}")
    reference = np.mean([looks[-1]["frechet_of_training"] for looks in results["nothing"]])
    print(f"Fréchet of the training pictures themselves: {reference:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    for name, default in (("--n", 150), ("--size", 16), ("--steps", 600), ("--seeds", 2)):
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--again", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args()
    if args.again:
        report(json.loads((RESULTS / "augmentation.json").read_text(encoding="utf-8"))["results"])
        return
    results: dict[str, list[list[dict[str, float]]]] = {name: [] for name in MENU}
    before = machine()
    with tempfile.TemporaryDirectory() as place:
        for seed in range(args.seeds):
            path = Path(place) / f"{seed}.npz"
            subset(args.data, args.size, args.n, seed, path)
            for number, (name, text) in enumerate(MENU.items()):
                settings = SETTINGS | {"training.steps": args.steps, "training.seed": seed}
                settings |= {} if text is None else parse_augmentation(text)
                source = DataConfig(source=str(path), held_out=args.n)
                run = prepare(
                    source, Path(place) / f"{seed}-{number}", settings=settings, watch=Intervals(1e9, 1e9)
                ).run()
                began, looks = time.perf_counter(), []
                for update in run.loop.updates(run.batch):
                    if update.step % (args.steps // LOOKS) == 0:
                        looks.append(look(run, args.n))
                results[name].append(looks)
                print(f"seed {seed}, {name}: {time.perf_counter() - began:.0f} s, {looks[-1]}", flush=True)
    report(results)
    content = {
        "machine": before,
        "data": Path(args.data).name,
        **{k: v for k, v in vars(args).items() if k not in ("data", "again")},
    }
    write("augmentation", content | {"menu": MENU, "results": results})


if __name__ == "__main__":
    main()
