"""undiffuse reconstruct RUN IMAGE…"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from undiffuse.cli import edits, shared

TITLES = {
    "heun": "Reconstruction by inverting the flow, Heun",
    "ddim": "Reconstruction by DDIM inversion",
    "recorded": "Reconstruction by recording the noise",
    "stochastic": "Noised at random, and back",
}


def reconstruct(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    images: Annotated[list[str], Argument(metavar="IMAGE…", help=edits.INPUTS)],
    method: Annotated[
        str, Option(help="heun or ddim: invert the flow. recorded: exact. stochastic: random noise.")
    ] = "heun",
    strength: Annotated[float, Option(help="How far up, 0 (nothing) to 1 (all the way to noise).")] = 1.0,
    steps: Annotated[int | None, Option(help="Of the grid, 100 when left out.")] = None,
    class_: edits.ClassName = None,
    solver: Annotated[
        str | None, Option(help="Of the way back, for stochastic; the model's own when left out.")
    ] = None,
    seed: Annotated[int, Option(help="Of the noise of recorded and stochastic.")] = 0,
    weights: edits.Weights = None,
    trajectory: edits.Trajectory = False,
    out: edits.Out = None,
    device: edits.Device = None,
) -> None:
    """Walk images up to noise and back: what survives is what the model knows of them."""
    shared.check_out(run, "edited", out)
    from undiffuse.models import editing
    from undiffuse.models.file import load
    from undiffuse.pictures import edits as pictures

    model = load(run, shared.device(device), weights)
    shared.say_grid(model, solver)
    inputs, conditions = edits.read_inputs(run, model, images), edits.asked(model, class_)
    walk, steps = edits.walk_of(model, trajectory), editing.default_steps(model) if steps is None else steps
    with shared.steps_bar("walking") as progress:
        result = editing.reconstruct(
            model,
            inputs.values,
            method=method,  # type: ignore[arg-type]
            strength=strength,
            conditions=conditions,
            seed=seed,
            steps=steps,
            watch=walk.see if walk else None,
            progress=progress,
            **shared.settings_given(solver=solver),
        )
    folder, codec = shared.result_folder(run, "edited", out), model.codec
    labels = [edits.decibels(value) for value in result.psnr.tolist()]
    from undiffuse.pictures.views import level_label

    apart, apart_label = pictures.difference(result.x, result.back, codec)
    shown = pictures.MOST_COLUMNS
    rows = [
        (
            "given" if codec.space is None else "given, through latents",
            pictures.pictures_of(codec.decode(result.x[:shown]), codec),
        ),
        (f"x_t at {level_label(result.top)}", pictures.at_level(result.noised, result.top, codec)),
        ("reconstruction", pictures.pictures_of(result.values, codec)),
        (apart_label, apart),
    ]
    title = (
        f"{TITLES[method]}, {steps} steps"
        if strength == 1
        else f"{TITLES[method]}, {strength:.0%} of the way, {steps} steps"
    )
    pictures.draw_rows(rows, title, labels).save(folder / "picture.png")
    numbers = {
        "method": method,
        "strength": strength,
        "steps": steps,
        "class": class_,
        "seed": seed,
        "sigma_over_alpha": result.top.sigma_edm.item() if result.top.alpha > 0 else None,
        "psnr_db": dict(zip(inputs.names, edits.finite_rows(result.psnr), strict=True)),
        "null_psnr_means": "identical",
    }
    written = [
        "picture.png",
        *edits.write_results(folder, model, {"reconstructed": (inputs.names, result.values)}, numbers),
    ]
    if walk is not None and walk.moments:
        pictures.strip(walk, codec, f"{title}: {inputs.names[0]}").save(folder / "trajectory.png")
        pictures.animation(walk, codec, folder / "trajectory.gif", labels)
        written += ["trajectory.png", "trajectory.gif"]
    for name, label in zip(inputs.names, labels, strict=True):
        typer.echo(f"{name}: {label}")
    typer.echo(f"wrote {folder}/: {', '.join(written)}")
    if method != "recorded":
        typer.echo(
            f"next: {shared.again('--method', 'recorded')}  is exact{'' if trajectory else '; --trajectory draws the walk'}"
        )
    else:
        typer.echo(f"next: {shared.command('interpolate', run, 'A', 'B')}  walks from one image to another")
