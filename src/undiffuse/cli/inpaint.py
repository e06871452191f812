"""undiffuse inpaint RUN IMAGE…"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from undiffuse.cli import answers, edits, masks, shared

if TYPE_CHECKING:
    from undiffuse.models.inverse_methods import Solution


@answers.with_options
def inpaint(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    images: Annotated[list[str], Argument(metavar="IMAGE…", help=edits.INPUTS)],
    mask: Annotated[str, Option(help=f"What to fill in: {masks.NAMES}; images are white there.")] = "center",
    times: answers.Times = None,
    *,
    options: answers.Options,
) -> None:
    """Fill in what is hidden of images; what is not comes back exactly as it was."""
    job = options.job(run, times)
    import torch

    from undiffuse.models import inverse_problems
    from undiffuse.pictures import edits as pictures

    inputs = edits.read_inputs(run, job.model, images, missing=mask == "missing")
    where = torch.from_numpy(masks.hidden(mask, inputs.values, job.seed, edits.fit_of(run), images))

    def shown(result: Solution) -> list[tuple[str, Any]]:
        codec = job.model.codec
        covered, seen = pictures.masked(result.observed, where, codec)
        given = [] if mask == "missing" else [("given", pictures.pictures_of(torch.from_numpy(inputs.values), codec))]
        return [*given, ("mask", covered), ("what the model saw", seen)]

    answers.solved(
        job,
        partial(inverse_problems.inpaint, job.model, inputs.values, where),
        "Filled in",
        shown,
        inputs.names,
        {"task": "inpaint", "mask": mask, "hidden": where.double().mean().item()},
        f"{shared.again('--seed', job.seed + 1)}  for other answers",
    )
