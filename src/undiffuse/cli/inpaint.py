"""undiffuse inpaint RUN IMAGE…"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from undiffuse.cli import answers, asking, edits, masks, shared

if TYPE_CHECKING:
    from undiffuse.solving import Solution


def inpaint(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    images: Annotated[list[str], Argument(metavar="IMAGE…", help=edits.INPUTS)],
    mask: Annotated[str, Option(help=f"What to fill in: {masks.NAMES}; images are white there.")] = "center",
    n: answers.N = 4,
    method: answers.MethodName = "dps",
    iterations: answers.Iterations = None,
    zeta: answers.Zeta = None,
    times: answers.Times = None,
    classes: asking.Classes = None,
    numbers: asking.Numbers = None,
    tags: asking.Tags = None,
    texts: asking.Texts = None,
    guidance: answers.Guidance = None,
    solver: answers.Solver = None,
    steps: answers.Steps = None,
    seed: answers.Seed = 0,
    weights: edits.Weights = None,
    trajectory: edits.Trajectory = False,
    out: edits.Out = None,
    device: edits.Device = None,
) -> None:
    """Fill in what is hidden of images; what is not comes back exactly as it was."""
    options = {"class": classes, "number": numbers, "tags": tags, "text": texts}
    settings = shared.given(guidance=guidance, solver=solver, steps=steps)
    job = answers.job(run, n, method, iterations, zeta, times, options, settings, seed, weights, trajectory, out, device)
    import torch

    from undiffuse import solving
    from undiffuse.pictures import edits as pictures

    inputs = edits.read(run, job.model, images, missing=mask == "missing")
    where = torch.from_numpy(masks.hidden(mask, inputs.values, seed).copy())

    def shown(result: Solution) -> list[tuple[str, Any]]:
        codec = job.model.codec
        covered, seen = pictures.masked(result.seen, where, codec)
        given = [] if mask == "missing" else [("given", pictures.pictures_of(torch.from_numpy(inputs.values), codec))]
        return [*given, ("mask", covered), ("what the model saw", seen)]

    answers.solved(
        job, len(inputs.values), partial(solving.inpaint, job.model, inputs.values, where), "Filled in", shown, inputs.names,
        {"task": "inpaint", "mask": mask, "hidden": where.double().mean().item()},
        f"undiffuse inpaint {run} {' '.join(images)} --mask {mask} --seed {seed + 1}  for other answers",
    )  # fmt: skip
