"""undiffuse inpaint, upscale, colorize and deblur RUN IMAGE…: inverse problems, solved by any model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from undiffuse.cli import shared
from undiffuse.cli.conditions import CONDITION_VALUES
from undiffuse.cli.options import not_none, opt, parameter
from undiffuse.cli.result import Result, by_name
from undiffuse.cli.runner import SAMPLING_OPTIONS, SEED, TRAJECTORY, Images, Job, Noise, job_command
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from undiffuse.models.inverse_methods import Solution
    from undiffuse.pictures.edits import Row

MASKS = "left, right, top, bottom, center, random:0.5, box:y,x,h,w, missing, or the name of an image or .npy file"
INVERSE_METHODS_HELP = (
    "dps, pigdm, exact, replace, and for masks repaint; docs/how-to/restore-and-edit.md compares them."
)
ITERATIONS_HELP = "Conjugate gradient iterations of exact: more is truer and slower."
DPS_HELP = "Step size of dps: longer obeys the image more and the model less; by the size when left out."
METHOD_OPTIONS = [
    parameter("n", Annotated[int, opt("Answers for each image: there are many that fit.", None, "-n")], 4),
    parameter("method", Annotated[str, opt(INVERSE_METHODS_HELP)], "dps"),
    parameter("iterations", Annotated[int | None, opt(ITERATIONS_HELP)]),
    parameter("dps_step_size", Annotated[float | None, opt(DPS_HELP)]),
    parameter("jump_repeats", Annotated[int | None, opt("How often repaint samples each stretch.")]),
]
Simulate = Annotated[bool, opt("Take whole images, and degrade them first.", None, "--simulate")]
RADIUS = "Standard deviation of the Gaussian that blurred them, in pixels of the model's size."
solves = partial(job_command, "edited", CONDITION_VALUES, SAMPLING_OPTIONS, SEED, TRAJECTORY, own=METHOD_OPTIONS)


@solves()
def inpaint(
    job: Job,
    images: Images,
    mask: Annotated[str, opt(f"What to fill in: {MASKS}; images are white there.")] = "center",
    **how: Any,
) -> Result:
    """Fill in what is hidden of images; what is not comes back exactly as it was."""
    from undiffuse.models import inverse_problems

    examples = job.read(images, missing=mask == "missing")
    hidden = job.mask(mask, examples.values, images)
    rows = [] if mask == "missing" else [("given", examples.values)]
    task = {"task": "inpaint", "mask": mask, "hidden": hidden.double().mean().item()}
    solve = partial(inverse_problems.inpaint, job.model, examples.values, hidden)
    return solved(job, solve, "Filled in", examples.names, task, rows, hidden, **how)


@solves()
def upscale(
    job: Job,
    images: Images,
    factor: Annotated[int, opt("How many times larger, along each axis.")] = 2,
    simulate: Simulate = False,
    noise: Noise = None,
    **how: Any,
) -> Result:
    """Make small images larger: new ones of the model's size whose averages they are."""
    from undiffuse.models import inverse_problems
    from undiffuse.process.operators import Downsample

    codec, operator = job.model.config.codec, Downsample(factor)
    small = codec.model_copy(update={"shape": operator.shape_of(codec.shape)})
    if not simulate:
        _refuse_others(images, small.shape[1:])
    examples = job.read(images, None if simulate else small)
    values = operator(examples.values) if simulate else examples.values
    rows = [("original", examples.values)] if simulate else []
    task = {"task": "upscale", "factor": factor, "simulated": simulate, "noise": noise}
    solve = partial(inverse_problems.upscale, job.model, values, factor, noise=noise)
    return solved(job, solve, f"{factor} times larger", examples.names, task, rows, **how)


@solves()
def colorize(job: Job, images: Images, noise: Noise = None, **how: Any) -> Result:
    """Give grey images colours that they may have had; images in colour are made grey first."""
    from undiffuse.models import inverse_problems

    examples = job.read(images)
    rows, task = [("given", examples.values)], {"task": "colorize", "noise": noise}
    solve = partial(inverse_problems.colorize, job.model, examples.values, noise=noise)
    return solved(job, solve, "Coloured", examples.names, task, rows, **how)


@solves()
def deblur(
    job: Job,
    images: Images,
    radius: Annotated[float, opt(RADIUS)] = 1.5,
    simulate: Simulate = False,
    noise: Noise = None,
    **how: Any,
) -> Result:
    """Make blurred images sharp: images that, blurred, are the ones given."""
    from undiffuse.models import inverse_problems
    from undiffuse.process.operators import Blur

    codec, operator = job.model.codec, Blur(radius)
    operator.shape_of(codec.config.shape)
    examples = job.read(images)
    y, rows = examples.values, [("original", examples.values)] if simulate else []
    if simulate:  # rounded, as in a file
        y = codec.decode(codec.encode(operator(y), limited=False))
    task = {"task": "deblur", "radius": radius, "simulated": simulate, "noise": noise}
    solve = partial(inverse_problems.deblur, job.model, y, radius, noise=noise)
    return solved(job, solve, f"A blur of radius {radius:g} undone", examples.names, task, rows, **how)


def solved(
    job: Job,
    solve: Callable[..., Solution],
    title: str,
    names: Sequence[str],
    task: Mapping[str, Any],
    rows: Sequence[Row],
    hidden: Tensor | None = None,
    *,
    n: int,
    method: str,
    **settings: Any,
) -> Result:
    """The result of a command.   solve: takes what all of them have.   rows: above its solutions.   hidden: of what is filled in."""
    from undiffuse.models.inverse_methods import InverseMethod, method_config, method_levels
    from undiffuse.pictures.edits import masked

    chosen = InverseMethod(method, **not_none(settings))  # type: ignore[arg-type]
    sampling = method_config(job.model, chosen, overrides=job.sampling)
    steps = len(method_levels(job.model, chosen, sampling)) - 1
    result = solve(n=n, method=chosen, **job.arguments(job.sampling, steps))
    observed: list[Row] = [("observation", result.observed)]
    if hidden is not None:
        covered, striped = masked(result.observed, hidden, job.model.codec)
        observed = [("mask", covered), ("observation", striped)]
    each = [f"{name}-{k}" for name in names for k in range(n)]
    solutions = [(f"restored {k + 1}" if n > 1 else "restored", result.values[:, k]) for k in range(n)]
    return Result(
        rows=[*rows, *observed, *solutions],
        title=f"{title}: {method}, {sampling.solver}, {steps} steps",
        labels=names,
        numbers={
            **task,
            "method": method,
            "conditions": job.described,
            "n": n,
            "seed": job.seed,
            "steps": steps,
            "solver": sampling.solver,
            "misfit": by_name(names, result.misfit),
            "misfit_means": "root mean square of y - A x, in the model's range",
        },
        arrays={"restored": (each, result.values.flatten(0, 1)), "observed": (names, result.observed)},
        trajectory_title=f"{title}: {names[0]}",
        trajectory_labels=each,
        next=f"{shared.again('--seed', job.seed + 1)}  for other answers",
    )


def _refuse_others(names: Sequence[str], size: tuple[int, ...]) -> None:
    """Images that would have to be resized before they could be made larger."""
    from undiffuse.data.pixels import upright_size
    from undiffuse.data.resizing import size_text

    for name in names:
        if name.startswith("data:"):
            raise UsageError(f"{name} is of the model's full size: add --simulate, to make it small first.")
        if (found := upright_size(Path(name))) not in (None, size):
            raise UsageError(
                f"{name} is {size_text(found)}, and this takes {size[0]}×{size[1]}: resize it, or add --simulate to one of the model's size."
            )
