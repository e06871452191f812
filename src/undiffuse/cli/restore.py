"""undiffuse restore RUN IMAGE…"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from undiffuse.cli import inputs, masks, shared
from undiffuse.cli.result import Result
from undiffuse.cli.runner import ASKED, SAMPLING, SEED, Images, Job, Noise, answers
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from undiffuse.models.model import Model
    from undiffuse.models.restoration import Observation


@answers("edited", ASKED, SAMPLING, SEED)
def restore(
    job: Job,
    images: Images,
    degradation: Annotated[
        str | None,
        Option(help="What to restore, of the run's degradations; all in turn with --simulate when left out."),
    ] = None,
    simulate: Annotated[
        bool, Option("--simulate", help="Take whole images, and degrade them as training does.")
    ] = False,
    mask: Annotated[
        str | None,
        Option(help="Of inpaint: left, center, random:0.5, box:y,x,h,w, missing, or a file, white where to fill in."),
    ] = None,
    noise: Noise = None,
    n: Annotated[int, Option("-n", help="How many answers for each.")] = 3,
) -> Result:
    """Fill in, upscale, colour, deblur or denoise images with a model that was trained for it."""
    from undiffuse.models import restoration
    from undiffuse.pictures import edits as pictures

    model, codec = job.model, job.model.codec
    if simulate and (mask or noise is not None):
        raise UsageError("--simulate draws what is hidden as training does: leave --mask and --noise out.")
    truth: Tensor | None = None
    if simulate:
        kinds: list[str | None] = [degradation] if degradation else list(model.config.degradations) or [None]
        read = job.read(images)
        seen = restoration.concatenate([restoration.degrade(model, read.values, kind, seed=job.seed) for kind in kinds])
        truth = codec.decode(codec.encode(read.values)).repeat(len(kinds), *[1] * (read.values.ndim - 1))
        names = [f"{kind}-{stem}".replace(":", "-") for kind in kinds for stem in read.names]
    else:
        seen, names = _observed(job, images, degradation, mask, noise)
    labels = list(seen.tasks)
    made = restoration.restore(
        model, seen, n, conditions=job.conditions, seed=job.seed, progress=job.progress, **job.sampling
    )
    rows = [("seen", _seen(seen, model))]
    rows += [(f"answer {k + 1}", pictures.pictures_of(made.values[:, k], codec)) for k in range(n)]
    numbers: dict[str, Any] = {"degradations": labels, "n": n, "conditions": job.described, "seed": job.seed}
    lines = []
    if truth is not None:
        rows.append(("held back", pictures.pictures_of(truth, codec)))
        span = max(high - low for high, low in zip(codec.config.high, codec.config.low, strict=True))
        psnr = -10 * ((made.values[:, 0] - truth) / span).flatten(1).square().mean(1).log10()
        numbers["psnr_db"] = dict(zip(names, inputs.finite_rows(psnr), strict=True))
        lines = [
            f"{name}: {label}, the first answer comes back to {inputs.decibels(value)}"
            for name, label, value in zip(names, labels, psnr.tolist(), strict=True)
        ]
    return Result(
        rows=rows,
        title="What may have been there",
        labels=labels,
        numbers=numbers,
        arrays={"seen": (names, seen.values)} | {f"made-{k + 1}": (names, made.values[:, k]) for k in range(n)},
        lines=lines,
        next=f"{shared.again('--seed', job.seed + 1)}  for other answers",
    )


def _observed(
    job: Job, images: Sequence[str], degradation: str | None, mask: str | None, noise: float | None
) -> tuple[Observation, list[str]]:
    """What is left of the images given, and their names."""
    import numpy as np

    from undiffuse.models import restoration
    from undiffuse.rng import GeneratorStream, generator

    codec = job.model.config.codec
    name, kind = restoration.degradation_of(job.model, degradation)
    if noise is not None:
        unit, (low, high) = codec.scale[0], kind.noise
        if len(set(codec.scale)) > 1:
            raise UsageError(
                "the channels of this data have units of their own, so no one noise fits them: leave it out."
            )
        if not low * unit <= noise <= high * unit:
            raise UsageError(
                f"{name!r} was trained for noise of {low * unit:g} to {high * unit:g} in the unit of the images, not of {noise:g}."
            )
        noise /= unit
    size = kind.operator(codec.shape, 1, generator(GeneratorStream.DISCARDED)).shape_of(codec.shape)
    per_channel = {of: getattr(codec, of)[: size[0]] for of in ("offset", "scale", "low", "high")}
    mode = codec.mode if size[0] == codec.shape[0] else None
    read = job.read(images, codec.model_copy(update={"shape": size, "mode": mode, **per_channel}), mask == "missing")
    values, hidden = read.values, None
    if mask:
        hidden = masks.hidden(mask, values, job.seed, job.fit, images)
        values = np.where(hidden, np.reshape(per_channel["offset"], (-1, *[1] * (len(size) - 1))), values)
    return restoration.observe(job.model, values, name, hidden=hidden, noise=noise), read.names


def _seen(seen: Observation, model: Model) -> list[np.ndarray]:
    """Pictures of what is seen, with stripes where something is hidden."""
    from undiffuse.pictures import edits as pictures

    hidden = (seen.channels[:, -2:-1] == 0).expand_as(seen.values)
    return pictures.masked(seen.values, hidden, model.codec)[1]
