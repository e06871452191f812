"""undiffuse vary RUN IMAGE…"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from undiffuse.cli import answers, asking, edits, shared


def vary(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    images: Annotated[list[str], Argument(metavar="IMAGE…", help=edits.INPUTS)],
    strength: Annotated[float, Option(help="How far up to noise, 0 (nothing changes) to 1 (nothing is left).")] = 0.5,
    n: Annotated[int, Option("-n", help="Variations of each image.")] = 4,
    classes: asking.Classes = None,
    numbers: asking.Numbers = None,
    tags: asking.Tags = None,
    texts: asking.Texts = None,
    guidance: answers.Guidance = None,
    solver: answers.Solver = None,
    steps: Annotated[
        int | None, Option(help="Of the whole grid, 100 when left out, of which the strength's share is walked.")
    ] = None,
    seed: Annotated[int, Option(help="Of the noise.")] = 0,
    weights: edits.Weights = None,
    trajectory: edits.Trajectory = False,
    out: edits.Out = None,
    device: edits.Device = None,
) -> None:
    """Variations of images: noised part of the way, and back another way."""
    shared.check_out(run, "edited", out)
    from undiffuse.models import editing
    from undiffuse.models.file import load
    from undiffuse.pictures import edits as pictures
    from undiffuse.pictures.views import level_label

    model = load(run, shared.device(device), weights)
    shared.say_grid(model, solver)
    inputs = edits.read_inputs(run, model, images)
    conditions = edits.told(model, {"class": classes, "number": numbers, "tags": tags, "text": texts})
    walk, steps = edits.walk_of(model, trajectory), editing.default_steps(model) if steps is None else steps
    with shared.steps_bar("walking") as progress:
        result = editing.vary(
            model,
            inputs.values,
            strength,
            n,
            conditions=conditions,
            seed=seed,
            watch=walk.see if walk else None,
            progress=progress,
            steps=steps,
            **shared.settings_given(guidance=guidance, solver=solver),
        )
    folder, codec = shared.result_folder(run, "edited", out), model.codec
    first = [k * n for k in range(len(inputs.names))][: pictures.MOST_COLUMNS]
    rows = [
        ("given", pictures.pictures_of(codec.decode(result.x[first]), codec)),
        (f"x_t at {level_label(result.top)}", pictures.at_level(result.noised[first], result.top, codec)),
        *((f"variation {k + 1}", pictures.pictures_of(result.values[k::n], codec)) for k in range(n)),
    ]
    title = f"Variations at strength {strength:g}"
    pictures.draw_rows(rows, title, inputs.names).save(folder / "picture.png")
    each = [f"{name}-{k}" for name in inputs.names for k in range(n)]
    numbers_ = {
        "strength": strength,
        "n": n,
        "steps": steps,
        "conditions": {name: str(value) for name, value in conditions.items()},
        "seed": seed,
        "sigma_over_alpha": result.top.sigma_edm.item() if result.top.alpha > 0 else None,
        "psnr_db": dict(zip(each, edits.finite_rows(result.psnr), strict=True)),
        "null_psnr_means": "identical",
    }
    written = ["picture.png", *edits.write_results(folder, model, {"variations": (each, result.values)}, numbers_)]
    if walk is not None and walk.moments:
        pictures.strip(walk, codec, f"{title}: {each[0]}").save(folder / "trajectory.png")
        pictures.animation(walk, codec, folder / "trajectory.gif", each)
        written += ["trajectory.png", "trajectory.gif"]
    typer.echo(f"wrote {folder}/: {', '.join(written)}")
    other = min(1.0, strength + 0.25) if strength < 1 else 0.5
    again = shared.again("--strength", f"{other:g}")
    typer.echo(f"next: {again}  keeps {'less' if other > strength else 'more'} of the image")
