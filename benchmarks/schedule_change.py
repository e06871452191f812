"""What does another noise schedule cost a trained model?  Error of x̂ at equal signal-to-noise ratio, before and after.

    python -m benchmarks.schedule_change [--steps 700] [--seeds 3]
    python -m benchmarks.schedule_change --run RUN                    # of a model that is trained already

For each seed, two models of the digits are trained with the preset's network: velocity on 1000 cosine steps, and noise on 1000
linear ones.  Each is then put on other schedules, without training.  Held-out examples (297) get the same noise at 25 levels of
the new schedule spread over its length, those within the SNRs the model was trained on.  Compared by E|x̂ - x_0|²:

    before       the model on its own schedule: log error at the two steps beside that SNR, interpolated in log-SNR
    translated   on the new schedule, its clock translated (process/predictions.py, eq. 2)
    naive        on the new schedule, as if it had been trained there

The numbers are ratios to `before`, the mean over levels and the worst level, over seeds.  1 means that the change cost nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks.common import machine, table, write
from undiffuse.data.config import DataConfig
from undiffuse.models.denoiser import Denoiser
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.process.config import ScheduleConfig
from undiffuse.process.forward import add_noise
from undiffuse.process.levels import Level
from undiffuse.process.philox import standard_normal
from undiffuse.runs.data import held_out_data
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

MODELS = {
    "velocity on cosine": {},
    "noise on linear": {"schedule.name": "linear", "prediction": "epsilon", "training.timestep_sampling": "uniform"},
}
TARGETS = {
    "cosine": ScheduleConfig(name="cosine"),
    "cosine, 100 steps": ScheduleConfig(name="cosine", T=100),
    "linear": ScheduleConfig(name="linear"),
    "linear, 100 steps": ScheduleConfig(name="linear", T=100),
    "linear, beta to 0.03": ScheduleConfig(name="linear", beta_end=0.03),
    "sigmoid": ScheduleConfig(name="sigmoid"),
    "vp": ScheduleConfig(name="vp"),
    "ve": ScheduleConfig(name="ve"),
    "edm": ScheduleConfig(name="edm"),
    "flow": ScheduleConfig(name="flow"),
    "cosine, shifted by -2": ScheduleConfig(name="cosine", shift=-2.0),
}
LEVELS = 25


@torch.no_grad()
def errors(model: Model, x: torch.Tensor, target: ScheduleConfig) -> dict[str, list[float]]:
    """Of x̂, for each level, and the level's log-SNR."""
    own, new, moved = model.schedule, target.build(), model.with_schedule(target)
    levels = new(new.nearest(new.time(torch.linspace(0.01, 0.99, LEVELS, dtype=torch.float64))))
    ends = own([own.t_max, own.t_min]).logsnr
    levels = levels[(levels.logsnr > ends[0]) & (levels.logsnr < ends[1])]
    t = own.at(levels.logsnr)
    below, above = own(t.floor()), own((t.floor() + 1).clamp(max=own.t_max))
    eps = standard_normal(x.shape[1:], 0, torch.arange(len(x)))
    told = model.denoiser.conditions.encode({}, len(x))

    def error(denoiser: Denoiser, level: Level) -> float:
        return (denoiser(add_noise(x, level, eps), level, told).mean - x).double().square().mean().item()

    found: dict[str, list[float]] = {"logsnr": levels.logsnr.tolist(), "before": [], "translated": [], "naive": []}
    for level, low, high in zip(levels.rows(), below.rows(), above.rows(), strict=True):
        beside = [error(model.denoiser, end) for end in (low, high)]
        share = ((level.logsnr - low.logsnr) / (high.logsnr - low.logsnr)).item() if high.logsnr < low.logsnr else 0.0
        found["before"].append(beside[0] ** (1 - share) * beside[1] ** share)
        found["translated"].append(error(moved.denoiser, level))
        found["naive"].append(error(model.denoiser, level))
    return found


def trained(name: str, settings: dict, seeds: int, steps: int) -> dict[str, list[dict[str, list[float]]]]:
    """The errors of one of MODELS, by target and by seed."""
    found: dict[str, list[dict[str, list[float]]]] = {target: [] for target in TARGETS}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            chosen = {"training.steps": steps, "training.budget": None, "training.seed": seed} | settings
            run = prepare(
                DataConfig(source="digits", held_out=297.0),
                Path(folder) / "r",
                settings=chosen,
                watch=Intervals(1e9, 1e9),
            ).run()
            for _ in run.updates():
                pass
            x = run.model.codec.encode(run.held_out.values)
            with run.loop.ema.swapped():
                for target, schedule in TARGETS.items():
                    found[target].append(errors(run.model, x, schedule))
            print(name, "seed", seed, run.measurements.verdict(), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run", type=Path)
    options = parser.parse_args()
    where, results, rows = machine(), [], []
    if options.run is not None:
        model = load(options.run)
        x = model.codec.encode(held_out_data(options.run).values)[:297]
        name = f"{model.config.prediction} on {model.config.schedule.name}"
        measured = {name: {target: [errors(model, x, schedule)] for target, schedule in TARGETS.items()}}
    else:
        measured = {name: trained(name, settings, options.seeds, options.steps) for name, settings in MODELS.items()}
    for name, found in measured.items():
        for target, of_seeds in found.items():
            cells = []
            for way in ("translated", "naive"):
                ratios = torch.tensor([[a / b for a, b in zip(of[way], of["before"], strict=True)] for of in of_seeds])
                cells += [f"{ratios.log().mean().exp():.3f}", f"{ratios.max():.3f}"]
            rows.append([name, target, len(of_seeds[0]["logsnr"]), *cells])
            results.append({"model": name, "target": target, "of_seeds": of_seeds})
    print(table(["model", "new schedule", "levels", "translated: mean", "worst", "naive: mean", "worst"], rows))
    trained_here = {"steps": options.steps, "seeds": options.seeds} if options.run is None else {}
    write(f"schedule_change{'_of_run' if options.run else ''}", {"machine": where, **trained_here, "results": results})


if __name__ == "__main__":
    main()
