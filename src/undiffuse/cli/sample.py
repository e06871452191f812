"""undiffuse sample RUN"""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from undiffuse.cli import shared

if TYPE_CHECKING:
    from undiffuse.model import Model

STRIP_EXAMPLES = 10
MOST_ROWS = 10


def sample(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    n: Annotated[int | None, Option("-n", help="How many; ten of each class (or 64) when left out.")] = None,
    class_: Annotated[str | None, Option("--class", help="A class, or several: 3,5,7. All of them when left out.")] = None,
    unconditional: Annotated[bool, Option("--unconditional", help="Without naming a class.")] = False,
    guidance: Annotated[float | None, Option(help="Strength of guidance; 1 is plain conditional.")] = None,
    guidance_form: Annotated[str | None, Option(help="plain, projected (APG) or plus (CFG++, with a guidance of 0 to 1).")] = None,
    guidance_rescale: Annotated[float | None, Option(help="Against too much contrast: 0 none to 1, of the plain form.")] = None,
    guidance_interval: Annotated[str | None, Option(help="Guide only between these sigma/alpha: low,high.")] = None,
    solver: Annotated[str | None, Option(help="Listed by 'undiffuse solvers'.")] = None,
    order: Annotated[int | None, Option(help="Of the solver, where it has several.")] = None,
    grid: Annotated[str | None, Option(help="Listed by 'undiffuse solvers', or a spacing like 250 or ddim50.")] = None,
    steps: Annotated[int | None, Option(help="Steps of the grid.")] = None,
    eta: Annotated[float | None, Option(help="Noise of ddim, dpm++_sde and sa, 0 to 1.")] = None,
    churn: Annotated[float | None, Option(help="EDM's: go back up a little before every step, in all by this much.")] = None,
    restart: Annotated[str | None, Option(help="Walk a stretch of sigma/alpha again: low,high,times.")] = None,
    corrections: Annotated[int | None, Option(help="Langevin steps at each level, of pc.")] = None,
    noise: Annotated[str | None, Option(help="independent, or brownian: the same for any number of steps.")] = None,
    variance: Annotated[float | None, Option(help="Of ddpm: 0 small, 1 large, between; the model's own when left out.")] = None,
    keep_eps: Annotated[bool | None, Option("--keep-eps", help="Walk with the noise of the unclipped estimate, as diffusers does.")] = None,
    clip: Annotated[str | None, Option(help="Of the clean estimate: range, dynamic or none.")] = None,
    seed: Annotated[int, Option(help="Image k of a seed is always the same.")] = 0,
    first: Annotated[int, Option(help="Start at this image of the seed.")] = 0,
    weights: Annotated[str | None, Option(help="averaged or raw; the better ones when left out.")] = None,
    trajectory: Annotated[bool, Option("--trajectory", help="Also draw forward and reverse strips and an animation.")] = False,
    out: Annotated[Path | None, Option(help="Folder to write to; a new one in the run's sampled/ when left out.")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, …")] = None,
) -> None:
    """Make new examples with a trained model."""
    if n is not None and n < 1:
        raise ValueError(f"-n {n} asks for nothing: ask for at least 1.")
    shared.check_out(out)
    from undiffuse.model import load
    from undiffuse.pictures.images import save_image
    from undiffuse.pictures.views import samples_grid

    model = load(run, shared.device(device), weights)
    labels = _labels(model, n, class_, unconditional)
    asked: dict[str, object] = {"class": labels} if labels and labels[0] is not None else {}
    settings = shared.given(
        guidance=guidance, solver=solver, order=order, grid=grid, steps=steps, eta=eta, variance=variance, clip=clip,
        keep_eps=keep_eps, churn=churn, corrections=corrections, noise=noise, restart=shared.stretch(restart) if restart else None,
        guidance_form=guidance_form, guidance_rescale=guidance_rescale,
        guidance_interval=shared.interval(guidance_interval) if guidance_interval else None,
    )  # fmt: skip
    model.how(**settings)  # complains before a bar is drawn
    with shared.progress_bar("{task.completed} of {task.total} steps") as bar:
        task = bar.add_task("sampling", total=1)
        values = model.sample(
            len(labels), asked, seed=seed, first=first,
            progress=lambda done, total: bar.update(task, completed=done, total=total), **settings,
        )  # fmt: skip
    if out is None:
        folder = shared.next_folder((run if run.is_dir() else run.parent) / "sampled")
    else:
        folder = out
        folder.mkdir(parents=True, exist_ok=True)
    import numpy as np

    np.save(folder / "samples.npy", values.numpy().astype(model.config.codec.dtype))
    (folder / "images").mkdir()
    with open(folder / "samples.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "seed", "index", "class"])
        for k, label in enumerate(labels):
            name = f"images/{k:05d}.png"
            save_image(values[k], model.config.codec, folder / name)
            table.writerow([name, seed, first + k, label or ""])
    named = [label or "" for label in labels]
    samples_grid(values, model.codec, named, f"{len(labels)} samples, seed {seed}").save(folder / "grid.png")
    written = "grid.png, images/, samples.npy, samples.csv"
    if trajectory:
        _draw_trajectory(model, labels, seed, first, settings, folder)
        written += ", forward.png, reverse.png, reverse.gif"
    typer.echo(f"wrote {folder}/: {written}")
    if not trajectory:
        typer.echo(f"next: undiffuse sample {run} --trajectory  draws how they came about")


def _labels(model: Model, n: int | None, class_: str | None, unconditional: bool) -> list[str | None]:
    """The class of each sample, None for none: classes in blocks of equal length where n allows."""
    if class_ is not None and unconditional:
        raise ValueError("--class and --unconditional contradict each other: give one.")
    if class_ is not None and not model.classes:
        raise ValueError("this model is unconditional, it has no classes to ask for: leave --class out.")
    names = class_.split(",") if class_ is not None else list(model.classes)
    if unconditional or not names:
        return [None] * (n or 64)
    if n is None:
        n = 10 * len(names) if len(names) <= MOST_ROWS else 64
    per = math.ceil(n / len(names))
    return [names[k // per] for k in range(n)]


def _draw_trajectory(model: Model, labels: list[str | None], seed: int, first: int, settings: dict, folder: Path) -> None:
    """Strips of the first sample, and an animation of one sample per class."""
    import torch

    from undiffuse.pictures.views import animate_reverse, forward_strip, reverse_strip
    from undiffuse.sampling.grids import uniform

    named = [label for label in dict.fromkeys(labels) if label is not None][:STRIP_EXAMPLES]
    which = [labels.index(name) for name in named] or list(range(min(STRIP_EXAMPLES, len(labels))))
    parts = [
        list(model.trajectory(1, {"class": labels[k]} if labels[k] else {}, seed=seed, first=first + k, **settings)) for k in which
    ]
    moments = [
        replace(
            m,
            x_t=torch.cat([part[i].x_t for part in parts]),
            clean=torch.cat([part[i].clean for part in parts]),
            x=torch.cat([part[i].x for part in parts]),
        )
        for i, m in enumerate(parts[0])
    ]
    reverse_strip(moments, model.codec).save(folder / "reverse.png")
    levels = getattr(model.schedule, "levels", None) or uniform(model.schedule, 200)
    forward_strip(moments[-1].x[0].cpu(), levels, model.codec, seed).save(folder / "forward.png")
    animate_reverse(moments, model.codec, folder / "reverse.gif")
