"""undiffuse restore RUN IMAGE…"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from undiffuse.cli import shared
from undiffuse.cli.conditions import CONDITION_VALUES
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result, by_name, decibels
from undiffuse.cli.runner import SAMPLING_OPTIONS, SEED, Images, Job, Noise, job_command
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.models.restoration import Observation
    from undiffuse.pictures.edits import Row

DEGRADATION = (
    "What to restore, of the run's degradations; all in turn with --simulate when left out. Of other runs: their holes."
)
MASK_HELP = "Of inpaint: left, center, random:0.5, box:y,x,h,w, missing, or a file, white where to fill in."


@job_command("edited", CONDITION_VALUES, SAMPLING_OPTIONS, SEED)
def restore(
    job: Job,
    images: Images,
    degradation: Annotated[str | None, opt(DEGRADATION)] = None,
    simulate: Annotated[bool, opt("Take whole images, and degrade them as training does.", None, "--simulate")] = False,
    mask: Annotated[str | None, opt(MASK_HELP)] = None,
    noise: Noise = None,
    n: Annotated[int, opt("How many answers for each.", None, "-n")] = 3,
) -> Result:
    """Fill in, upscale, colour, deblur or denoise with a model that was trained for it; with any other, fill in what is missing."""
    from undiffuse.models import restoration
    from undiffuse.pictures.edits import masked

    model, codec = job.model, job.model.codec
    if not model.config.degradations and degradation is None and not simulate:
        return _holes_filled(job, images, mask, noise, n)
    if simulate and (mask or noise is not None):
        raise UsageError("--simulate draws what is hidden as training does: leave --mask and --noise out.")
    if simulate:
        examples = job.read(images)
        kinds: list[str | None] = [degradation] if degradation else list(model.config.degradations) or [None]
        observation = restoration.degrade_each(model, examples.values, kinds, seed=job.seed)
        names = [f"{kind}-{stem}".replace(":", "-") for kind in kinds for stem in examples.names]
    else:
        observation, names = _observed(job, images, degradation, mask, noise)
    tasks, arguments = list(observation.tasks), job.arguments(job.sampling)
    del arguments["watch"]
    made = restoration.restore(model, observation, n, **arguments)
    rows: list[Row] = [("observation", masked(observation.values, observation.hidden, codec)[1])]
    rows += [(f"restored {k + 1}", made.values[:, k]) for k in range(n)]
    numbers: dict[str, Any] = {"degradations": tasks, "n": n, "conditions": job.described, "seed": job.seed}
    lines = []
    if simulate:
        truth = codec.decode(codec.encode(examples.values)).repeat(len(kinds), *[1] * (examples.values.ndim - 1))
        rows.append(("held back", truth))
        psnr = by_name(names, restoration.psnr(model, made.values[:, 0], truth))
        numbers["psnr_db"] = psnr
        lines = [
            f"{name}: {task}, the first answer comes back to {decibels(psnr[name])}"
            for name, task in zip(names, tasks, strict=True)
        ]
    return Result(
        rows=rows,
        title="What may have been there",
        labels=tasks,
        numbers=numbers,
        arrays={"observed": (names, observation.values)}
        | {f"restored-{k + 1}": (names, made.values[:, k]) for k in range(n)},
        lines=lines,
        next=f"{shared.again('--seed', job.seed + 1)}  for other answers",
    )


def _holes_filled(job: Job, images: Sequence[str], mask: str | None, noise: float | None, n: int) -> Result:
    """What is missing in examples, NaN, nodata or under a mask, filled in by a model that was trained for no degradation."""
    from undiffuse.cli.inverse import solved
    from undiffuse.models import inverse_problems

    if noise is not None:
        raise UsageError("known numbers come back exactly, so they have no noise: leave --noise out.")
    examples = job.read(images, missing=True)
    hidden = examples.values.isnan()
    if mask is not None:
        hidden = hidden | job.mask(mask, examples.values, images)
    if not hidden.any():
        raise UsageError("nothing is missing in these examples: give --mask, or examples with NaN or nodata.")
    task = {"task": "holes", "mask": mask, "hidden": hidden.double().mean().item()}
    solve = partial(inverse_problems.inpaint, job.model, examples.values, hidden)
    return solved(job, solve, "Filled in", examples.names, task, [], hidden, n=n, method="dps")


def _observed(
    job: Job, images: Sequence[str], degradation: str | None, mask: str | None, noise: float | None
) -> tuple[Observation, list[str]]:
    """What is left of the images given, and their names."""
    from undiffuse.models import restoration

    task, _ = restoration.degradation_of(job.model, degradation)
    if noise is not None:
        noise = restoration.noise_in_range(job.model, task, noise)
    examples = job.read(images, restoration.observation_codec(job.model, task), mask == "missing")
    hidden = job.mask(mask, examples.values, images) if mask else None
    return restoration.observe(job.model, examples.values, task, hidden=hidden, noise=noise), examples.names
