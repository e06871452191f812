"""How good is the demo model?  The digits, 90 seconds of training, judged as written down before looking.

    python -m benchmarks.digits [--seeds 6] [--budget 90 | --updates 1350]

--updates: instead of seconds, on a machine that is busy; 1,350 is what 90 seconds made on two cores of an AMD EPYC.

For each seed (of the split, the weights and the training): train on 1,500 of the 1,797 digits with the preset `digits`,
hold out 297.  Draw 1,500 samples with the training labels, in the model's default setting (at most 25 evaluations of
the network) and with guidance.  Then, on the 64 raw pixels in [-1, 1]:

    accuracy    share whose 3 nearest of all 1,797 real digits vote for the class asked for
    Fréchet     distance to all 1,797 real digits; a random half of the real digits against the other is the yardstick
    copying     share nearer to one of 297 training digits than to one of the 297 held-out ones, mean of 20 draws of the
                297.  50 % would be perfection.  Two controls that cannot be copies stand in brackets: draws from one
                Gaussian per class, fitted to the training digits, which leans towards them as any fit does, and fitted to
                all digits, whose difference from 50 % is the luck of the split alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

import torch

from benchmarks.common import machine, table, write
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_digits
from undiffuse.evaluation.copying import copying
from undiffuse.evaluation.distances import frechet_distance, neighbour_classes
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

GUIDANCE = 2.0
DRAWS = 20


def class_gaussians(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """5,000 draws from one Gaussian per class fitted to x (N, d)."""
    generator, parts = torch.Generator().manual_seed(0), []
    for k in labels.unique():
        of = x[labels == k]
        root = torch.linalg.cholesky(torch.cov(of.T) + 1e-3 * torch.eye(of.shape[1], dtype=of.dtype))
        parts.append(of.mean(0) + torch.randn(500, of.shape[1], generator=generator, dtype=of.dtype) @ root.T)
    return torch.cat(parts).clamp(-1, 1)


def copied(samples: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor) -> float:
    """Share nearer to training, mean over DRAWS subsets of the training set as large as the held-out one."""
    subsets = [
        torch.randperm(len(training), generator=torch.Generator().manual_seed(k))[: len(held_out)] for k in range(DRAWS)
    ]
    return sum(copying(samples, training[subset], held_out).share for subset in subsets) / DRAWS


def pixels(model: Model, values) -> torch.Tensor:
    return model.codec.encode(values).flatten(1).double()


def judged(model: Model, training, held_out, seed: int, **settings) -> dict[str, float]:
    """The scores of 1,500 samples with the training labels."""
    real = open_digits()
    everything, labels = pixels(model, real.values), torch.from_numpy(real.labels)
    asked = torch.from_numpy(training.labels)
    samples = pixels(
        model, model.sample(len(asked), {"class": [model.classes[k] for k in asked.tolist()]}, seed=seed, **settings)
    )
    t, h = pixels(model, training.values), pixels(model, held_out.values)
    return {
        "accuracy": (neighbour_classes(samples, everything, labels) == asked).double().mean().item(),
        "frechet": frechet_distance(samples, everything),
        "copying": copied(samples, t, h),
        "gaussians": copied(class_gaussians(t, asked), t, h),
        "luck": copied(class_gaussians(everything, labels), t, h),
    }


def yardstick(model: Model) -> float:
    """Fréchet distance of one half of the real digits to the other, mean of ten random halves."""
    x = pixels(model, open_digits().values)
    halves = [torch.randperm(len(x), generator=torch.Generator().manual_seed(k)) for k in range(10)]
    return sum(frechet_distance(x[order[:898]], x[order[898:]]) for order in halves) / 10


def one_run(seed: int, budget: float | None, updates: int | None, settings: dict) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"training.budget": budget, "training.steps": updates, "training.seed": seed} | settings
        run = prepare(
            DataConfig(source="digits", held_out=297.0), Path(folder) / "r", settings=chosen, watch=Intervals(1e9, 1e9)
        ).run()
        seconds = [0.0]
        for update in run.updates():
            seconds.append(update.seconds)
        model = load(run.folder)
        steps = [b - a for a, b in zip(seconds, seconds[1:], strict=False)]
        batch = run.loop.config.batch_size
        return {
            "seed": seed,
            "parameters": sum(p.numel() for p in model.denoiser.parameters()),
            "steps": len(steps),
            "weights": model.config.weights,
            "images_per_second": len(steps) * batch / seconds[-1],
            "images_per_second_median_step": batch / median(steps),
            "evaluations": model.config.sampling.steps * model.config.sampling.build_solver(model.schedule).evaluations,
            "unguided": judged(model, run.training_data, run.held_out, seed),
            "guided": judged(model, run.training_data, run.held_out, seed, guidance=GUIDANCE),
            "half_against_half": yardstick(model),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--budget", type=float, default=90.0)
    parser.add_argument("--updates", type=int)
    parser.add_argument("--as", dest="name", default="digits", help="of the file of results")
    options = parser.parse_args()
    budget = None if options.updates else options.budget
    where = machine()
    runs = [one_run(seed, budget, options.updates, {}) for seed in range(options.first, options.first + options.seeds)]
    rows = [
        [
            r["seed"],
            f"{r['images_per_second']:,.0f}",
            r["evaluations"],
            f"{r['unguided']['accuracy']:.1%}",
            f"{r['unguided']['frechet']:.3f}",
            "{copying:.1%} ({gaussians:.1%}, {luck:.1%})".format(**r["unguided"]),
            f"{r['guided']['accuracy']:.2%}",
            f"{r['guided']['frechet']:.3f}",
        ]
        for r in runs
    ]
    head = [
        "seed",
        "images/s",
        "evaluations",
        "accuracy",
        "Fréchet",
        "copying (Gaussians of training, of all)",
        f"guided {GUIDANCE:g}: accuracy",
        "Fréchet",
    ]
    print(table(head, rows))
    copying, luck = (sum(r["unguided"][name] for r in runs) / len(runs) for name in ("copying", "luck"))
    print(f"copying: {copying:.1%} on average, where the splits' luck is {luck:.1%}")
    print(
        f"{runs[0]['parameters']:,} parameters; real half against half: {runs[0]['half_against_half']:.3f}; {where['device']}"
    )
    write(
        options.name,
        {"machine": where, "budget": budget, "updates": options.updates, "guidance": GUIDANCE, "runs": runs},
    )


if __name__ == "__main__":
    main()
