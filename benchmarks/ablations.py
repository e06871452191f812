"""Which options help, on handwritten digits: the papers' ablations at the smallest scale, three seeds each.

    python -m benchmarks.ablations [--minutes 8] [--seeds 3]       # goes on where it stopped; writes after every run
    python -m benchmarks.ablations --show                          # the table of what there is, and docs/images/networks.png

Every run trains for the same number of updates on 1,500 digits and is judged as in benchmarks/digits.py by 600 samples with
the model's default sampler (Fréchet distance on pixels, accuracy of the class asked for), and by its error on 297 held-out
digits relative to the best linear denoiser.  A seed fixes the split, the weights, the batches and the noise, so options are
compared seed by seed: the table gives the mean difference to the row that heads its group and the half-width of its 95 %
interval (Student's t, paired).  Runs of the groups of objectives also give bits/dim of held-out digits, by the chain.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt

from benchmarks.common import RESULTS, machine, table
from benchmarks.digits import pixels
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources import open_digits
from undiffuse.evaluation.distances import frechet_distance, neighbour_classes
from undiffuse.evaluation.likelihood import likelihood
from undiffuse.models.file import load
from undiffuse.models.model import Model
from undiffuse.networks.autoencoder import AutoencoderConfig
from undiffuse.networks.building import NetworkConfig, build_network
from undiffuse.networks.mlp import MLPConfig
from undiffuse.networks.transformer import TransformerConfig
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.pictures.plots import COLOURS, STYLE, save_figure
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

NAME = "ablations"
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571}  # by the number of seeds
BASE = UNetConfig(width=12, multipliers=(1, 2, 2), depth=1, attention=(2,), groups=4)
TRAINING: dict[str, Any] = {
    "training.steps": 300,
    "training.budget": None,
    "training.batch_size": 48,
    "training.learning_rate": 4e-3,
    "training.ema_decay": 0.995,
    "training.weight_decay": 0.01,
    "augment.probability": 0.0,
}
CHAIN: dict[str, Any] = {"schedule.T": 200, "prediction": "epsilon", "training.timestep_sampling": "uniform"}
LAST = (  # to be run, the costly ones and those that only round off a group
    "4 blocks",
    "2",
    "nowhere",
    "4 heads, every resolution, BigGAN",
    "simple, linear schedule",
    "autoencoder, epsilon",
    "autoencoder, no divergence",
)
SAMPLES = 600
JUDGED_BITS = 50  # held-out digits


def parameters(config: NetworkConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_network(config, 1, 1, (8, 8), False).parameters())


def matched(config: NetworkConfig, multiple: int = 1) -> NetworkConfig:
    """The network with the width, counted in steps of `multiple` from 4, that comes nearest to the base's number of parameters."""
    wanted, widths = parameters(BASE), [config.model_copy(update={"width": width}) for width in range(4, 512, multiple)]
    place = bisect_left(widths, wanted, key=parameters)
    return min(widths[max(0, place - 1) : place + 1], key=lambda c: abs(parameters(c) - wanted))


def unet(**changes: Any) -> UNetConfig:
    return BASE.model_copy(update=changes)


def autoencoder() -> AutoencoderConfig:
    return matched(AutoencoderConfig(**BASE.model_dump(include=set(AutoencoderConfig.model_fields) - {"kind"})))  # type: ignore[return-value]


# group: {option: (network, settings)}, the first of which the others are compared with
Variants = Mapping[str, Mapping[str, tuple[NetworkConfig, dict[str, Any]]]]


def variants() -> Variants:
    base: tuple[NetworkConfig, dict[str, Any]] = (BASE, {})
    learned = CHAIN | {"variance_type": "learned_range"}
    return {
        "depth and width, at equal parameters": {
            "1 block a level": base,
            "2 blocks": (matched(unet(depth=2)), {}),
            "4 blocks": (matched(unet(depth=4)), {}),
        },
        "where it attends": {
            "at 4×4 and in the middle": base,
            "at 8×8, 4×4 and 2×2": (unet(attention=(1, 2, 4)), {}),
            "nowhere": (unet(attention=(), middle_attention=False), {}),
        },
        "heads, of 24 channels": {"1": base, "2": (unet(heads=2), {}), "4": (unet(heads=4), {})},
        "changing the resolution": {
            "by convolutions": base,
            "in residual blocks (BigGAN)": (unet(residual_resample=True), {}),
        },
        "how the embedding enters": {"scales and shifts (AdaGN)": base, "is added": (unet(adaptive=False), {})},
        "all of ADM's": {
            "the base": base,
            "4 heads, every resolution, BigGAN": (unet(heads=4, attention=(1, 2, 4), residual_resample=True), {}),
        },
        "noise schedule": {"cosine": base, "linear": (BASE, {"schedule.name": "linear"})},
        "prediction": {
            "v": base,
            **{p: (BASE, {"prediction": p}) for p in ("epsilon", "x0", "flow", "edm", "posterior_mean")},
        },
        "objective, of noise on 200 steps": {
            "simple": (BASE, CHAIN | {"variance_type": "fixed_large"}),
            "hybrid": (BASE, learned | {"training.objective": "hybrid"}),
            "bound": (BASE, learned | {"training.objective": "bound"}),
            "simple, linear schedule": (BASE, CHAIN | {"variance_type": "fixed_large", "schedule.name": "linear"}),
        },
        "network, at equal parameters": {
            "U-Net": base,
            "transformer": (matched(TransformerConfig(depth=4, heads=1), 4), {}),
            "MLP": (matched(MLPConfig(depth=3)), {}),
            "autoencoder, v": (autoencoder(), {}),
            "autoencoder, edm": (autoencoder(), {"prediction": "edm"}),
            "autoencoder, x0": (autoencoder(), {"prediction": "x0"}),
            "autoencoder, epsilon": (autoencoder(), {"prediction": "epsilon"}),
            "autoencoder, no divergence": (autoencoder().model_copy(update={"kl": 0.0}), {}),
        },
    }


def key(network: NetworkConfig, settings: Mapping[str, Any], seed: int) -> str:
    """One line for everything that decides a run, so that options that are the same are run once, and settings to come are none of them."""
    chosen = {"kind": network.kind} | network.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"network": chosen, "settings": TRAINING | dict(settings), "seed": seed}, sort_keys=True)


def one_run(network: NetworkConfig, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    chosen = TRAINING | dict(settings) | {"training.seed": seed, "network": network.model_dump(mode="json")}
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(
            DataConfig(source="digits", held_out=297.0), Path(folder) / "r", settings=chosen, watch=Intervals(1e9, 1e9)
        ).run()
        for _ in run.updates():
            pass
        scores = run.measurements.scores()
        best = min(scores, key=lambda name: scores[name]["relative"])
        model = load(run.folder)
        found = {
            "parameters": sum(p.numel() for p in model.denoiser.network.parameters()),
            "seconds": run.loop.seconds,
            "relative": scores[best]["relative"],
            "errors": scores[best]["errors"],
            "ratios": run.measurements.validation.levels.sigma_edm.tolist(),
            **judged(model, labels(run.training_data), seed),
        }
        if model.config.schedule.T:
            values, known = run.held_out.values[:JUDGED_BITS], labels(run.held_out)[:JUDGED_BITS]
            found["bits"] = likelihood(model, values, {"class": [model.classes[k] for k in known]}).mean / math.log(2)
    return found | {"all_seconds": time.monotonic() - began}


def labels(data: Dataset) -> np.ndarray:
    assert data.labels is not None
    return data.labels


def judged(model: Model, classes: np.ndarray, seed: int) -> dict[str, float]:
    real, asked = open_digits(), torch.from_numpy(classes[:SAMPLES])
    everything = pixels(model, real.values)
    samples = pixels(model, model.sample(len(asked), {"class": [model.classes[k] for k in asked.tolist()]}, seed=seed))
    nearest = neighbour_classes(samples, everything, torch.from_numpy(labels(real)))
    return {"accuracy": (nearest == asked).double().mean().item(), "frechet": frechet_distance(samples, everything)}


MEASURES = {"relative": "held-out error", "frechet": "Fréchet", "accuracy": "accuracy", "bits": "bits/dim"}


def compared(runs: list[dict[str, Any]], first: list[dict[str, Any]], measure: str) -> str:
    """The mean, and the paired difference to the first row of the group with its 95 % half-width."""
    if any(measure not in run for run in runs):
        return ""
    values = [run[measure] for run in runs]
    said = f"{mean(values):.1%}" if measure == "accuracy" else f"{mean(values):.3f}"
    if runs is first or len(values) < 2:
        return said
    gaps = [run[measure] - of[measure] for run, of in zip(runs, first, strict=True)]
    half = T95[len(gaps)] * stdev(gaps) / math.sqrt(len(gaps))
    clear = "**" if abs(mean(gaps)) > half else ""
    factor, places = (100, 1) if measure == "accuracy" else (1, 3)
    return f"{said} ({clear}{factor * mean(gaps):+.{places}f}{clear} ± {factor * half:.{places}f})"


def show(runs: Mapping[str, dict[str, Any]], seeds: int) -> None:
    for group, options in variants().items():
        first, rows = None, []
        for name, (network, settings) in options.items():
            of = [runs[k] for seed in range(seeds) if (k := key(network, settings, seed)) in runs]
            if len(of) == seeds:
                first = first or of
                rows.append([name, f"{of[0]['parameters']:,}", *(compared(of, first, measure) for measure in MEASURES)])
        bits = any(row[-1] for row in rows)
        print(
            table(
                [group, "parameters", *MEASURES.values()][: None if bits else -1],
                [row if bits else row[:-1] for row in rows],
            )
            + "\n"
        )


def draw(runs: Mapping[str, dict[str, Any]], seeds: int, path: Path) -> None:
    """The error of each network by noise level, over that of the U-Net; the range over seeds as a band."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.2, 4.6), layout="constrained")
        options = variants()["network, at equal parameters"]
        found = {
            name: [runs[k]["errors"] for seed in range(seeds) if (k := key(*variant, seed)) in runs]
            for name, variant in options.items()
        }
        ratios = next(iter(runs.values()))["ratios"]
        base = np.array(found["U-Net"])
        for colour, (name, errors) in zip(COLOURS, found.items(), strict=False):
            if len(errors) == seeds and len(errors[0]) == len(ratios):
                over = np.array(errors) / base
                axes.plot(ratios, over.mean(0), "o-", color=colour, label=name, linewidth=2, markersize=4)
                axes.fill_between(ratios, over.min(0), over.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel="noise level σ/α", ylabel="E |x̂ − x₀|², over the U-Net's")
        axes.set_title(f"What a network without a way past its middle loses, and where ({seeds} seeds)")
        axes.legend(fontsize=9)
        save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no run after so long")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    path, began = RESULTS / f"{NAME}.json", time.monotonic()
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machine": machine(), "runs": {}}
    runs: dict[str, dict[str, Any]] = content["runs"]
    wanted = [
        (seed, name, *variant)
        for seed in range(options.seeds)
        for group in variants().values()
        for name, variant in group.items()
    ]
    for seed, name, network, settings in sorted(wanted, key=lambda each: each[1] in LAST) if not options.show else []:
        k = key(network, settings, seed)
        if k not in runs and time.monotonic() - began < 60 * options.minutes:
            runs[k] = one_run(network, settings, seed)
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            print(f"seed {seed}, {name}: {runs[k]['all_seconds']:.0f} s", flush=True)
    show(runs, options.seeds)
    if options.show:
        draw(runs, options.seeds, Path(__file__).parents[1] / "docs" / "images" / "networks.png")


if __name__ == "__main__":
    main()
