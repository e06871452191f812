"""Does a model of latents, or one of two stages, reach a given quality sooner than one of pixels? 64×64 emoji.

    python -m benchmarks.latent_emoji emoji/captions.csv runs --features FOLDER

trains runs/latent (an autoencoder by 4 first, whose time counts), runs/pixel and runs/cascade (a first stage of 16×16 first, whose
time counts), all told the style and each with what `undiffuse train` chooses, keeps a copy of each at several marks, draws 400
samples of each copy, and compares them with all real pictures.  The same command goes on where it was stopped.

Quality: Fréchet distance over the first 64 principal components (of the real pictures) of the features of a network trained on
ImageNet (FOLDER: as for benchmarks.emoji_text).  Beside it stand the floor that the autoencoder sets, its reconstructions of all
real pictures, and one half of the real pictures against the other.  Time is the processor's, one thread, so that other work on
the machine does not count.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import machine, table, write
from benchmarks.emoji_text import Judge, by_features
from undiffuse.conditioning.degradations import second_stage
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import DataConfig
from undiffuse.evaluation.distances import frechet_distance
from undiffuse.models import restoration
from undiffuse.models.file import load
from undiffuse.pictures.sheets import captioned
from undiffuse.runs.data import run_data
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

SAMPLES, COMPONENTS, MARKS = 400, 64, (0.25, 0.5, 0.75, 1.0)
KINDS = {
    "latent": "by latents, autoencoder's time included",
    "pixel": "by pixels",
    "cascade": "by two stages, the first one's time included",
}
COLOURS = {"latent": "#2a6f97", "pixel": "#d1495b", "cascade": "#6a994e"}
FACTOR, FIRST, STYLE = 4, "cascade-first", {"style": Condition(kind="class")}


def trained(kind: str, source: Path, runs: Path, steps: dict[str, int]) -> list[dict[str, float]]:
    """Trains, or goes on, and keeps a copy at each mark: its processor seconds and the examples seen."""
    log = runs / f"{kind}.json"
    found: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {"first": 0.0, "marks": []}
    settings = {"training.steps": steps[kind], "training.budget": None}
    if kind == "latent":
        settings["latent.training.steps"] = steps["autoencoder"]
    data = DataConfig(source=str(source), size=(64, 64), channels="rgb")
    plan = prepare(
        data,
        runs / kind,
        settings=settings,
        watch=Intervals(1e9, 1e9),
        conditions=STYLE,
        latent=FACTOR if kind == "latent" else None,
        tasks={f"upscale:{FACTOR}": second_stage(FACTOR)} if kind == "cascade" else None,
    )
    began = time.process_time()
    before: Any = plan.autoencoder()
    if kind == "cascade" and not found["first"]:
        small = {"training.steps": steps["first"], "training.budget": None}
        before = prepare(
            data.model_copy(update={"shrink": FACTOR}),
            runs / FIRST,
            settings=small,
            watch=Intervals(1e9, 1e9),
            conditions=STYLE,
        ).run()
    if before is not None:
        for _ in before.updates():
            pass
        found["first"] = time.process_time() - began
        log.write_text(json.dumps(found))
    run = plan.run()
    marks = found["marks"]
    spent, last = (marks[-1]["seconds"] if marks else found["first"]), time.process_time()
    for update in run.updates():
        if len(marks) < len(MARKS) and update.step >= round(MARKS[len(marks)] * steps[kind]):
            spent += time.process_time() - last
            run.save()
            marks.append({"seconds": spent, "examples": update.step * run.loop.config.batch_size})
            shutil.copy(runs / kind / "model.safetensors", runs / f"{kind}-{len(marks)}.safetensors")
            log.write_text(json.dumps(found))
            last = time.process_time()
    return marks


def sampled(kind: str, mark: int, runs: Path, n: int) -> Tensor:
    """n pictures of the copy at a mark, 1 the first, of all styles in turn."""
    model = load(runs / f"{kind}-{mark}.safetensors")
    asked = {"style": [model.classes[k % len(model.classes)] for k in range(n)]}
    if kind == "cascade":
        return restoration.upscale_samples(
            model,
            load(runs / FIRST).sample(n, asked, seed=0),
            augmentation=restoration.AUGMENTATION,
            conditions=asked,
            seed=0,
        )
    return model.sample(n, asked, seed=0)


def features(judge: Judge, pictures: Tensor, basis: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Of pictures (N, 3, H, W), 0 … 255; on a basis (mean, directions) where one is given."""
    found = judge(pictures)
    return found if basis is None else (found - basis[0]) @ basis[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--autoencoder-steps", type=int, default=4000)
    parser.add_argument("--latent-steps", type=int, default=3000)
    parser.add_argument("--pixel-steps", type=int, default=500)
    parser.add_argument("--first-steps", type=int, default=1500)
    parser.add_argument("--cascade-steps", type=int, default=400)
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    steps = {"autoencoder": options.autoencoder_steps, "latent": options.latent_steps, "pixel": options.pixel_steps} | {
        "first": options.first_steps,
        "cascade": options.cascade_steps,
    }
    where = machine()
    curves = {kind: trained(kind, options.table, options.runs, steps) for kind in KINDS}
    data, judge = run_data(options.runs / "latent").data, by_features(options.features)
    real = torch.from_numpy(data.values).float()
    seen = judge(real)
    mean = seen.mean(0)
    basis = (mean, torch.linalg.svd(seen - mean, full_matrices=False).Vh[:COMPONENTS].T)
    seen = features(judge, real, basis)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(seen)))
    halves = frechet_distance(seen[order[::2]], seen[order[1::2]])
    model = load(options.runs / "latent")
    assert model.config.latent is not None
    psnr = model.config.latent.psnr
    back = torch.cat([model.codec.decode(model.codec.encode(part)) for part in real.split(256)])
    floor = frechet_distance(features(judge, back, basis), seen)
    rows = list[dict[str, Any]]()
    for kind, marks in curves.items():
        for k, mark in enumerate(marks, start=1):
            if "frechet" not in mark:
                mark["frechet"] = frechet_distance(
                    features(judge, sampled(kind, k, options.runs, SAMPLES), basis), seen
                )
                log = options.runs / f"{kind}.json"
                log.write_text(json.dumps(json.loads(log.read_text()) | {"marks": marks}))
            rows.append({"model": kind, **mark})
    cells = [[r["model"], f"{r['seconds'] / 60:.1f}", f"{r['examples']:,.0f}", f"{r['frechet']:.4f}"] for r in rows]
    print(table(["model", "processor minutes", "examples", "Fréchet distance"], cells))
    print(f"floor of the autoencoder ({psnr:.1f} dB): {floor:.4f}; real halves: {halves:.4f}; {where['device']}")
    best, whole = min(r["frechet"] for r in rows if r["model"] == "pixel"), curves["pixel"][-1]["seconds"]
    for kind in (kind for kind in KINDS if kind != "pixel"):
        first = next((r["seconds"] for r in rows if r["model"] == kind and r["frechet"] <= best), None)
        print(
            f"{KINDS[kind]}: "
            + (
                f"passes the pixels' best after {first / 60:.1f} of their {whole / 60:.1f} minutes"
                if first
                else "stays behind it"
            )
        )
    draw(options.runs / "latent_emoji.png", [sampled(kind, len(MARKS), options.runs, 20) for kind in KINDS])
    curve(options.runs / "latent_curves.png", rows, floor)
    write(
        "latent_emoji",
        {
            "machine": where,
            "steps": steps,
            "samples": SAMPLES,
            "components": COMPONENTS,
            "psnr": psnr,
            "floor": floor,
            "real_halves": halves,
            "rows": rows,
        },
    )


def draw(path: Path, shown: list[Tensor]) -> None:
    """Samples of each at the end, the same seeds."""
    pictures = [picture.permute(1, 2, 0).byte().numpy() for made in shown for picture in made]
    captioned(
        pictures,
        [""] * len(pictures),
        "64×64 emoji after training: two rows each by latents, by pixels, by two stages",
        columns=10,
    ).save(path)


def curve(path: Path, rows: list[dict[str, Any]], floor: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=130, layout="constrained")
    axes = figure.subplots()
    for kind, label in KINDS.items():
        of = [r for r in rows if r["model"] == kind]
        axes.plot([r["seconds"] / 60 for r in of], [r["frechet"] for r in of], "o-", color=COLOURS[kind], label=label)
    axes.axhline(floor, color="grey", ls="--", lw=1)
    axes.text(axes.get_xlim()[1], floor, "floor of the autoencoder ", ha="right", va="bottom", color="grey", fontsize=9)
    axes.set(
        xlabel="processor minutes of training",
        ylabel="Fréchet distance of features",
        yscale="log",
        title="64×64 emoji: quality against time",
    )
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
