"""undiffuse denoise RUN IMAGE…"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from undiffuse.cli import edits, shared

MUCH_CUT_OFF = 0.1  # of the values


def denoise(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    images: Annotated[list[str], Argument(metavar="IMAGE…", help=edits.INPUTS)],
    noise: Annotated[
        float | None, Option(help="Its standard deviation, in the units of the data's values; estimated when left out.")
    ] = None,
    level: Annotated[float | None, Option(help="The same as sigma/alpha, in the model's units.")] = None,
    estimate: Annotated[str, Option(help="How to estimate it: likelihood (asks the model) or wavelet.")] = "likelihood",
    steps: Annotated[int, Option(help="Of the walk down from the noise.")] = 50,
    class_: edits.ClassName = None,
    solver: Annotated[str | None, Option(help="Of the walk; ancestral sampling when left out.")] = None,
    seed: Annotated[int, Option(help="Of the walk's noise.")] = 0,
    weights: edits.Weights = None,
    trajectory: edits.Trajectory = False,
    out: edits.Out = None,
    device: edits.Device = None,
) -> None:
    """Remove noise from images: the best estimate, and one example that may have been there."""
    shared.check_out(run, "edited", out)
    from undiffuse.models import denoising
    from undiffuse.models.file import load
    from undiffuse.pictures import edits as pictures

    model = load(run, shared.device(device), weights)
    inputs, conditions = edits.read_inputs(run, model, images), edits.asked(model, class_)
    told = "given" if noise is not None or level is not None else f"estimated by {estimate}"
    ends = edits.share_at_ends(model, inputs)
    if told != "given" and ends > MUCH_CUT_OFF:
        typer.echo(
            f"note: {ends:.0%} of the values lie at the ends of their range: if noise was cut off there, it is underestimated, "
            "so give --noise where you know it"
        )
    ratio = denoising.noise_level(model, inputs.values, noise, level, estimate, conditions)  # type: ignore[arg-type]
    noisiest = int(ratio.argmax())
    walk = edits.walk_of(model, trajectory, only=[noisiest])
    with shared.steps_bar("walking") as progress:
        result = denoising.denoise(
            model,
            inputs.values,
            level=ratio,
            conditions=conditions,
            seed=seed,
            steps=steps,
            watch=walk.see if walk else None,
            progress=progress,
            **shared.settings_given(solver=solver),
        )
    folder, codec = shared.result_folder(run, "edited", out), model.codec
    units = denoising.in_data_units(model, result.sigma_edm)
    labels = (
        [f"σ/α {value:.2g}" for value in result.sigma_edm.tolist()]
        if units is None
        else [f"noise {value:.3g}" for value in units.tolist()]
    )
    few = slice(pictures.MOST_COLUMNS)
    change, change_label = pictures.difference(codec.encode(result.mean[few]).to(result.x), result.x[few], codec)
    rows = [
        ("given", pictures.pictures_of(codec.decode(result.x[few]), codec)),
        ("best estimate x̂", pictures.pictures_of(result.mean, codec)),
        ("one possible original", pictures.pictures_of(result.sample, codec)),
        (change_label.replace("difference", "removed"), change),
    ]
    title = f"Noise removed; how much there is was {told}"
    pictures.draw_rows(rows, title, labels).save(folder / "picture.png")
    numbers = {
        "noise_was": told,
        "sigma_over_alpha": dict(zip(inputs.names, result.sigma_edm.tolist(), strict=True)),
        "noise_in_data_units": None if units is None else dict(zip(inputs.names, units.tolist(), strict=True)),
        "class": class_,
        "steps": steps,
        "solver": solver or "ddpm",
        "seed": seed,
    }
    results = {"estimate": (inputs.names, result.mean), "sample": (inputs.names, result.sample)}
    written = ["picture.png", *edits.write_results(folder, model, results, numbers)]
    if walk is not None:
        pictures.strip(walk, codec, f"Down from the noise of {inputs.names[noisiest]}").save(folder / "trajectory.png")
        pictures.animation(walk, codec, folder / "trajectory.gif", labels[noisiest : noisiest + 1])
        written += ["trajectory.png", "trajectory.gif"]
    for name, label in zip(inputs.names, labels, strict=True):
        typer.echo(f"{name}: {label}, {told}")
    typer.echo(f"wrote {folder}/: {', '.join(written)}")
    found = [] if noise is not None or level is not None else ["--level", f"{result.sigma_edm[0]:.3g}"]
    again = shared.again(*found, "--seed", seed + 1)
    typer.echo(f"next: {again}  for another possible original")
