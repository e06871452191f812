"""undiffuse deblur RUN IMAGE…"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from undiffuse.cli import answers, edits, shared

if TYPE_CHECKING:
    from undiffuse.models.inverse_methods import Solution


@answers.with_options
def deblur(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    images: Annotated[list[str], Argument(metavar="IMAGE…", help=edits.INPUTS)],
    radius: Annotated[
        float, Option(help="Of the Gaussian that blurred them: its standard deviation in pixels of the model's size.")
    ] = 1.5,
    simulate: Annotated[bool, Option("--simulate", help="Take sharp images, and blur them first.")] = False,
    noise: answers.Noise = None,
    *,
    options: answers.Options,
) -> None:
    """Make blurred images sharp: images that, blurred, are the ones given."""
    job = options.job(run)
    import torch

    from undiffuse.models import inverse_problems
    from undiffuse.pictures import edits as pictures
    from undiffuse.process.operators import Blur

    codec, operator = job.model.codec, Blur(radius)
    operator.shape_of(codec.config.shape)
    inputs = edits.read_inputs(run, job.model, images)
    values = torch.from_numpy(inputs.values)
    before: list[tuple[str, Any]] = [("original", pictures.pictures_of(values, codec))] if simulate else []
    y = (
        codec.decode(codec.encode(operator(values), limited=False)) if simulate else values
    )  # rounded, as a file would be

    def shown(result: Solution) -> list[tuple[str, Any]]:
        return [*before, ("what the model saw", pictures.pictures_of(result.observed, codec))]

    again = shared.again("--seed", job.seed + 1)
    answers.solved(
        job,
        partial(inverse_problems.deblur, job.model, y, radius, noise=noise),
        f"A blur of radius {radius:g} undone",
        shown,
        inputs.names,
        {"task": "deblur", "radius": radius, "simulated": simulate, "noise": noise},
        f"{again}  for other answers",
    )
