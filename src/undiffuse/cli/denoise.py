"""undiffuse denoise RUN IMAGE…"""

from __future__ import annotations

from typing import Annotated

import typer
from typer import Option

from undiffuse.cli import inputs, shared
from undiffuse.cli.result import Result
from undiffuse.cli.runner import ASKED, SAMPLING, SEED, TRAJECTORY, Images, Job, answers

MUCH_CUT_OFF = 0.1  # of the values


@answers("edited", ASKED, SAMPLING, SEED, TRAJECTORY)
def denoise(
    job: Job,
    images: Images,
    noise: Annotated[
        float | None,
        Option(help="Standard deviation of the noise in the images given, in their own unit; estimated when left out."),
    ] = None,
    level: Annotated[float | None, Option(help="The same as sigma/alpha.")] = None,
    estimate: Annotated[str, Option(help="How to estimate it: likelihood (by the model) or wavelet.")] = "likelihood",
) -> Result:
    """Remove noise from images: the best estimate, and one example that may have been there."""
    from undiffuse.models import denoising
    from undiffuse.pictures import edits as pictures

    model, codec, given = job.model, job.model.codec, job.read(images)
    known = noise is not None or level is not None
    ends = inputs.share_at_ends(model, given)
    if not known and ends > MUCH_CUT_OFF:
        typer.echo(
            f"note: {ends:.0%} of the values lie at the ends of their range: if noise was cut off there, it is underestimated, "
            "so give --noise where you know it"
        )
    ratio = denoising.noise_level(model, given.values, noise, level, estimate, job.conditions)  # type: ignore[arg-type]
    noisiest = int(ratio.argmax())
    walk = job.walk(only=[noisiest])
    settings = {"steps": 50} | job.sampling
    result = denoising.denoise(
        model,
        given.values,
        level=ratio,
        conditions=job.conditions,
        seed=job.seed,
        watch=walk.see if walk else None,
        progress=job.progress,
        **settings,
    )
    units = denoising.in_data_units(model, result.sigma_edm)
    shown = result.sigma_edm if units is None else units
    labels = [f"σ/α {value:.2g}" if units is None else f"noise {value:.3g}" for value in shown.tolist()]
    few, was = slice(pictures.MOST_COLUMNS), "given" if known else f"estimated by {estimate}"
    change, change_label = pictures.difference(codec.encode(result.mean[few]).to(result.x), result.x[few], codec)
    found = [] if known else ["--level", f"{result.sigma_edm[0]:.3g}"]
    return Result(
        rows=[
            ("given", pictures.pictures_of(codec.decode(result.x[few]), codec)),
            ("best estimate x̂", pictures.pictures_of(result.mean, codec)),
            ("one possible original", pictures.pictures_of(result.sample, codec)),
            (change_label.replace("difference", "removed"), change),
        ],
        title=f"Noise removed; how much there is was {was}",
        labels=labels,
        numbers={
            "noise_was": was,
            "sigma_over_alpha": dict(zip(given.names, result.sigma_edm.tolist(), strict=True)),
            "noise_in_data_units": None if units is None else dict(zip(given.names, units.tolist(), strict=True)),
            "conditions": job.described,
            "solver": "ddpm",
            **settings,
            "seed": job.seed,
        },
        arrays={"estimate": (given.names, result.mean), "sample": (given.names, result.sample)},
        walk=walk,
        walk_title=f"Down from the noise of {given.names[noisiest]}",
        walk_labels=labels[noisiest : noisiest + 1],
        lines=[f"{name}: {label}, {was}" for name, label in zip(given.names, labels, strict=True)],
        next=f"{shared.again(*found, '--seed', job.seed + 1)}  for another possible original",
    )
