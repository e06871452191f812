"""undiffuse colorize RUN IMAGE…"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from undiffuse.cli import answers, edits, shared

if TYPE_CHECKING:
    from undiffuse.models.inverse_methods import Solution


@answers.with_options
def colorize(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file; of a model of colour images.")],
    images: Annotated[
        list[str], Argument(metavar="IMAGE…", help=f"Grey, or in colour, which is taken away first. {edits.INPUTS}")
    ],
    noise: answers.Noise = None,
    *,
    options: answers.Options,
) -> None:
    """Give grey images colours that they may have had."""
    job = options.job(run)
    import torch

    from undiffuse.models import inverse_problems
    from undiffuse.pictures import edits as pictures

    inputs = edits.read_inputs(run, job.model, images)

    def shown(result: Solution) -> list[tuple[str, Any]]:
        codec = job.model.codec
        given = pictures.pictures_of(torch.from_numpy(inputs.values), codec)
        return [("given", given), ("what the model saw", pictures.pictures_of(result.observed, codec))]

    answers.solved(
        job,
        partial(inverse_problems.colorize, job.model, inputs.values, noise=noise),
        "Coloured",
        shown,
        inputs.names,
        {"task": "colorize", "noise": noise},
        f"{shared.again('--seed', job.seed + 1)}  for other answers",
    )
