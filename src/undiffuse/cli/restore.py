"""undiffuse restore RUN IMAGE…"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from undiffuse.cli import edits, masks, shared
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from undiffuse.models.model import Model
    from undiffuse.models.restoration import Observation


def restore(
    run: Annotated[Path, Argument(metavar="RUN", help="A run that was trained with --tasks.")],
    images: Annotated[list[str], Argument(metavar="IMAGE…", help=edits.INPUTS)],
    task: Annotated[
        str | None, Option(help="One of the run's tasks; all in turn with --simulate when left out.")
    ] = None,
    simulate: Annotated[
        bool, Option("--simulate", help="The images are whole: hide what the task hides, and see what comes back.")
    ] = False,
    mask: Annotated[
        str | None,
        Option(
            help="Of inpainting: left, center, random:0.5, box:y,x,h,w, missing, or a file, white where to fill in."
        ),
    ] = None,
    noise: Annotated[
        float | None, Option(help="How noisy the images are, in the model's range (black to white is 2).")
    ] = None,
    n: Annotated[int, Option("-n", help="How many answers for each.")] = 3,
    class_: edits.ClassName = None,
    steps: Annotated[int | None, Option(help="Steps of sampling.")] = None,
    seed: Annotated[int, Option(help="Of what is drawn.")] = 0,
    weights: edits.Weights = None,
    out: edits.Out = None,
    device: edits.Device = None,
) -> None:
    """Fill in, upscale, colour, deblur or denoise images with a model that was trained for it."""
    shared.check_out(run, "edited", out)
    import numpy as np
    import torch

    from undiffuse.models import restoration
    from undiffuse.models.file import load
    from undiffuse.pictures import edits as pictures
    from undiffuse.rng import GeneratorStream, generator

    model = load(run, shared.device(device), weights)
    asked = [task] if task or not simulate else list(model.config.degradations)
    corruptions = [restoration.degradation_of(model, name) for name in asked or [None]]
    if simulate and (mask or noise is not None):
        raise UsageError("--simulate draws what is hidden as training does: leave --mask and --noise out.")
    if simulate:
        inputs = edits.read_inputs(run, model, images)
        seen = restoration.concatenate(
            [restoration.degrade(model, inputs.values, name, seed=seed) for name, _ in corruptions]
        )
        truth = torch.cat([model.codec.decode(model.codec.encode(inputs.values))] * len(corruptions))
        labels = [name for name, _ in corruptions for _ in inputs.names]
        names = [f"{name}-{stem}".replace(":", "-") for name, _ in corruptions for stem in inputs.names]
    else:
        name, corruption = corruptions[0]
        codec = model.config.codec
        size = corruption.operator(codec.shape, 1, generator(GeneratorStream.DISCARDED)).shape_of(codec.shape)
        per_channel = {of: getattr(codec, of)[: size[0]] for of in ("offset", "scale", "low", "high")}
        mode = codec.mode if size[0] == codec.shape[0] else None
        inputs = edits.read_inputs(
            run, model, images, codec.model_copy(update={"shape": size, "mode": mode, **per_channel}), mask == "missing"
        )
        hidden = masks.hidden(mask, inputs.values, seed, edits.fit_of(run), images) if mask else None
        given = (
            inputs.values
            if hidden is None
            else np.where(hidden, np.reshape(per_channel["offset"], (-1, *[1] * (len(size) - 1))), inputs.values)
        )
        names, truth, labels = inputs.names, None, [name] * len(inputs.names)
        seen = restoration.observe(model, given, name, hidden=hidden, noise=noise)
    conditions = edits.asked(model, class_)
    with shared.steps_bar("sampling") as progress:
        made = restoration.restore(
            model, seen, n, conditions=conditions, seed=seed, progress=progress, **shared.settings_given(steps=steps)
        )
    folder = shared.result_folder(run, "edited", out)
    rows = [("seen", _seen(seen, model))]
    rows += [(f"answer {k + 1}", pictures.pictures_of(made.values[:, k], model.codec)) for k in range(n)]
    numbers: dict[str, Any] = {"tasks": labels, "n": n, "class": class_, "seed": seed}
    if truth is not None:
        rows.append(("held back", pictures.pictures_of(truth, model.codec)))
        low, high = model.config.codec.low, model.config.codec.high
        span = max(h - lo for h, lo in zip(high, low, strict=True))
        errors = ((made.values[:, 0] - truth) / span).flatten(1).square().mean(1)
        psnr = -10 * errors.log10()
        numbers["psnr_db"] = dict(zip(names, edits.finite_rows(psnr), strict=True))
        for name, label, value in zip(names, labels, psnr.tolist(), strict=True):
            typer.echo(f"{name}: {label}, the first answer comes back to {edits.decibels(value)}")
    pictures.draw_rows(rows, "What may have been there", labels).save(folder / "picture.png")
    results = {"seen": (names, seen.values)} | {f"made-{k + 1}": (names, made.values[:, k]) for k in range(n)}
    written = ["picture.png", *edits.write_results(folder, model, results, numbers)]
    typer.echo(f"wrote {folder}/: {', '.join(written)}")
    typer.echo(f"next: {shared.again('--seed', seed + 1)}  for other answers")


def _seen(seen: Observation, model: Model) -> list[np.ndarray]:
    """Pictures of what is seen, with stripes where something is hidden."""
    from undiffuse.pictures import edits as pictures

    hidden = (seen.channels[:, -2:-1] == 0).expand_as(seen.values)
    return pictures.masked(seen.values, hidden, model.codec)[1]
