"""undiffuse interpolate RUN A B"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from undiffuse.cli import edits, shared
from undiffuse.errors import UsageError


def interpolate(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    a: Annotated[str, Argument(metavar="A", help="An image or an .npy array; data:K is example K of the run's data.")],
    b: Annotated[str, Argument(metavar="B", help="Another one.")],
    n: Annotated[int, Option("-n", help="How many, both ends included.")] = 9,
    method: Annotated[str, Option(help="Of inversion: heun or ddim.")] = "heun",
    steps: Annotated[int | None, Option(help="Of the grid, 100 when left out.")] = None,
    class_: edits.ClassName = None,
    weights: edits.Weights = None,
    trajectory: edits.Trajectory = False,
    out: edits.Out = None,
    device: edits.Device = None,
) -> None:
    """Walk from one image to another, by way of the noises they come from."""
    shared.check_out(run, "edited", out)
    import torch

    from undiffuse.models import editing
    from undiffuse.models.file import load
    from undiffuse.pictures import edits as pictures

    model = load(run, shared.device(device), weights)
    inputs, conditions = edits.read_inputs(run, model, [a, b]), edits.asked(model, class_)
    if len(inputs.values) != 2:
        raise UsageError(
            f"interpolation is between two examples, but {a} and {b} hold {len(inputs.values)}: give files of one each."
        )
    walk, steps = (
        edits.walk_of(model, trajectory, also=[n // 2]),
        editing.default_steps(model) if steps is None else steps,
    )
    with shared.steps_bar("walking") as progress:
        result = editing.interpolate(
            model,
            inputs.values[0],
            inputs.values[1],
            n,
            method=method,  # type: ignore[arg-type]
            conditions=conditions,
            watch=walk.see if walk else None,
            progress=progress,
            steps=steps,
        )
    folder, codec = shared.result_folder(run, "edited", out), model.codec
    plain = codec.in_plain(result.x)
    blend = torch.cat([torch.lerp(plain[:1], plain[1:], share) for share in result.shares[: pictures.MOST_COLUMNS]])
    labels = [f"{share:.0%}" for share in result.shares]
    labels[0], labels[-1] = inputs.names
    rows = [
        ("through the noise", pictures.pictures_of(result.values, codec)),
        ("plain blend of values", pictures.pictures_of(codec.plain.decode(blend), codec)),
    ]
    ends = [edits.decibels(value) for value in result.psnr.tolist()]
    title = f"From one to the other; the ends come back to {' and '.join(ends)}"
    page = pictures.draw_rows(rows, title, labels)
    page.save(folder / "picture.png")
    names = [f"{share:.3f}" for share in result.shares]
    numbers = {
        "a": a,
        "b": b,
        "n": n,
        "method": method,
        "steps": steps,
        "class": class_,
        "shares": list(result.shares),
        "psnr_db_of_ends": edits.finite_rows(result.psnr),
    }
    written = ["picture.png", *edits.write_results(folder, model, {"interpolated": (names, result.values)}, numbers)]
    if walk is not None:
        down, middle = walk.only("down"), n // 2
        title = f"How the one at {result.shares[middle]:.0%} comes about"
        pictures.strip(down, codec, title, down.examples.index(middle)).save(folder / "trajectory.png")
        pictures.animation(down, codec, folder / "trajectory.gif", labels)
        written += ["trajectory.png", "trajectory.gif"]
    typer.echo(f"wrote {folder}/: {', '.join(written)}")
    smaller = f"{shared.again('-n', 25)}  takes smaller steps"
    typer.echo(f"next: {smaller if n < 25 else shared.command('reconstruct', run, a)}")
