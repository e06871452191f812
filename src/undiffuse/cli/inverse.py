"""undiffuse inpaint, upscale, colorize and deblur RUN IMAGE…: inverse problems, solved by any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from undiffuse.cli import masks, shared
from undiffuse.cli.options import given
from undiffuse.cli.result import Result
from undiffuse.cli.runner import ASKED, SAMPLING, SEED, TRAJECTORY, Images, Job, Noise, answers, parameter
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from undiffuse.models.inverse_methods import Solution

METHOD = [
    parameter("n", Annotated[int, Option("-n", help="Answers for each image: there are many that fit.")], 4),
    parameter(
        "method",
        Annotated[
            str,
            Option(
                help="dps, pigdm, exact, replace, and for masks repaint; docs/how-to/restore-and-edit.md compares them."
            ),
        ],
        "dps",
    ),
    parameter(
        "iterations",
        Annotated[int | None, Option(help="Conjugate gradient iterations of exact: more is truer and slower.")],
    ),
    parameter(
        "dps_step_size",
        Annotated[
            float | None,
            Option(help="Step size of dps: longer obeys the image more and the model less; by the size when left out."),
        ],
    ),
    parameter("jump_repeats", Annotated[int | None, Option(help="How often repaint samples each stretch.")]),
]
Simulate = Annotated[bool, Option("--simulate", help="Take whole images, and degrade them first.")]
Shown = list[tuple[str, "Sequence[np.ndarray]"]]
solves = partial(answers, "edited", ASKED, SAMPLING, SEED, TRAJECTORY, own=METHOD)


@solves()
def inpaint(
    job: Job,
    images: Images,
    mask: Annotated[str, Option(help=f"What to fill in: {masks.NAMES}; images are white there.")] = "center",
    **how: Any,
) -> Result:
    """Fill in what is hidden of images; what is not comes back exactly as it was."""
    import torch

    from undiffuse.models import inverse_problems
    from undiffuse.pictures import edits as pictures

    codec, whole = job.model.codec, job.read(images, missing=mask == "missing")
    where = torch.from_numpy(masks.hidden(mask, whole.values, job.seed, job.fit, images))

    def shown(result: Solution) -> Shown:
        covered, seen = pictures.masked(result.observed, where, codec)
        before = [] if mask == "missing" else [("given", pictures.pictures_of(torch.from_numpy(whole.values), codec))]
        return [*before, ("mask", covered), ("what the model saw", seen)]

    task = {"task": "inpaint", "mask": mask, "hidden": where.double().mean().item()}
    solve = partial(inverse_problems.inpaint, job.model, whole.values, where)
    return _solved(job, solve, "Filled in", shown, whole.names, task, **how)


@solves()
def upscale(
    job: Job,
    images: Images,
    factor: Annotated[int, Option(help="How many times larger, along each axis.")] = 2,
    simulate: Simulate = False,
    noise: Noise = None,
    **how: Any,
) -> Result:
    """Make small images larger: new ones of the model's size whose averages they are."""
    import torch

    from undiffuse.models import inverse_problems
    from undiffuse.pictures import edits as pictures
    from undiffuse.process.operators import Downsample

    codec, operator = job.model.codec, Downsample(factor)
    small = codec.config.model_copy(update={"shape": operator.shape_of(codec.config.shape)})
    if not simulate:
        _refuse_others(images, small.shape[1:])
    read = job.read(images, None if simulate else small)
    values = torch.from_numpy(read.values)
    before = [("original", pictures.pictures_of(values, codec))] if simulate else []

    def shown(result: Solution) -> Shown:
        return [*before, ("what the model saw", pictures.pictures_of(result.observed, codec))]

    solve = partial(inverse_problems.upscale, job.model, operator(values) if simulate else values, factor, noise=noise)
    task = {"task": "upscale", "factor": factor, "simulated": simulate, "noise": noise}
    return _solved(job, solve, f"{factor} times larger", shown, read.names, task, **how)


@solves()
def colorize(job: Job, images: Images, noise: Noise = None, **how: Any) -> Result:
    """Give grey images colours that they may have had; images in colour are made grey first."""
    import torch

    from undiffuse.models import inverse_problems
    from undiffuse.pictures import edits as pictures

    codec, read = job.model.codec, job.read(images)
    before = pictures.pictures_of(torch.from_numpy(read.values), codec)

    def shown(result: Solution) -> Shown:
        return [("given", before), ("what the model saw", pictures.pictures_of(result.observed, codec))]

    solve = partial(inverse_problems.colorize, job.model, read.values, noise=noise)
    return _solved(job, solve, "Coloured", shown, read.names, {"task": "colorize", "noise": noise}, **how)


@solves()
def deblur(
    job: Job,
    images: Images,
    radius: Annotated[
        float, Option(help="Standard deviation of the Gaussian that blurred them, in pixels of the model's size.")
    ] = 1.5,
    simulate: Simulate = False,
    noise: Noise = None,
    **how: Any,
) -> Result:
    """Make blurred images sharp: images that, blurred, are the ones given."""
    import torch

    from undiffuse.models import inverse_problems
    from undiffuse.pictures import edits as pictures
    from undiffuse.process.operators import Blur

    codec, operator = job.model.codec, Blur(radius)
    operator.shape_of(codec.config.shape)
    read = job.read(images)
    y = values = torch.from_numpy(read.values)
    if simulate:  # rounded, as a file would be
        y = codec.decode(codec.encode(operator(values), limited=False))
    before = [("original", pictures.pictures_of(values, codec))] if simulate else []

    def shown(result: Solution) -> Shown:
        return [*before, ("what the model saw", pictures.pictures_of(result.observed, codec))]

    solve = partial(inverse_problems.deblur, job.model, y, radius, noise=noise)
    task = {"task": "deblur", "radius": radius, "simulated": simulate, "noise": noise}
    return _solved(job, solve, f"A blur of radius {radius:g} undone", shown, read.names, task, **how)


def _solved(
    job: Job,
    solve: Callable[..., Solution],
    title: str,
    shown: Callable[[Solution], Shown],
    names: Sequence[str],
    task: dict[str, Any],
    *,
    n: int,
    method: str,
    **how: Any,
) -> Result:
    """The answers of a command.   solve: takes what all of them have.   shown: rows above the answers.   names: of the examples."""
    from undiffuse.models.inverse_methods import InverseMethod, method_config, method_levels
    from undiffuse.pictures import edits as pictures

    approach = InverseMethod(method, **given(how))  # type: ignore[arg-type]
    sampling = method_config(job.model, approach, overrides=job.sampling)
    steps = len(method_levels(job.model, approach, sampling)) - 1
    walk = job.walk()
    result = solve(
        n=n,
        method=approach,
        conditions=job.conditions,
        seed=job.seed,
        watch=walk.see if walk else None,
        progress=shared.steps(job.bar, "sampling", steps),
        **job.sampling,
    )
    each = [f"{name}-{k}" for name in names for k in range(n)]
    answers_ = [
        (f"answer {k + 1}" if n > 1 else "answer", pictures.pictures_of(result.values[:, k], job.model.codec))
        for k in range(n)
    ]
    return Result(
        rows=[*shown(result), *answers_],
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
            "misfit": dict(zip(names, result.misfit.tolist(), strict=True)),
            "misfit_means": "root mean square of y - A x, in the model's range",
        },
        arrays={"answers": (each, result.values.flatten(0, 1)), "seen": (names, result.observed)},
        walk=walk,
        walk_title=f"{title}: {names[0]}",
        walk_labels=each,
        next=f"{shared.again('--seed', job.seed + 1)}  for other answers",
    )


def _refuse_others(names: Sequence[str], size: tuple[int, ...]) -> None:
    """Images that would have to be resized before they could be made larger."""
    from PIL import Image

    from undiffuse.data.pixels import size_text

    for name in names:
        if name.startswith("data:"):
            raise UsageError(f"{name} is of the model's full size: add --simulate, to make it small first.")
        path = Path(name)
        if path.exists() and path.suffix.lower() != ".npy":
            try:
                with Image.open(path) as image:
                    width, height = image.size
            except OSError:
                continue  # whoever reads it says what is wrong
            if (height, width) != size:
                raise UsageError(
                    f"{name} is {size_text((height, width))}, and this takes {size[0]}×{size[1]}: resize it, or add "
                    "--simulate to one of the model's size."
                )
