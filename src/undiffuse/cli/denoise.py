"""undiffuse denoise RUN IMAGE…"""

from __future__ import annotations

from typing import Annotated

import typer

from undiffuse.cli import shared
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result, by_name
from undiffuse.cli.runner import ASKED, SAMPLING, SEED, TRAJECTORY, Images, Job, answers

NOISE = "Standard deviation of the noise in the images given, in their own unit; estimated when left out."
MUCH_CUT_OFF = 0.1  # of the values


@answers("edited", ASKED, SAMPLING, SEED, TRAJECTORY)
def denoise(
    job: Job,
    images: Images,
    noise: Annotated[float | None, opt(NOISE)] = None,
    level: Annotated[float | None, opt("The same as sigma/alpha.")] = None,
    estimate: Annotated[str, opt("How to estimate it: likelihood (by the model) or wavelet.")] = "likelihood",
) -> Result:
    """Remove noise from images: the best estimate, and one example that may have been there."""
    from undiffuse.models import denoising
    from undiffuse.pictures import edits as pictures

    model, codec, examples, first = job.model, job.model.codec, job.read(images), slice(pictures.MOST_COLUMNS)
    values, names, known = examples.values, examples.names, noise is not None or level is not None
    if not known and (ends := denoising.share_at_ends(model, values)) > MUCH_CUT_OFF:
        typer.echo(
            f"note: {ends:.0%} of the values lie at the ends of their range: if noise was cut off there, it is underestimated, "
            "so give --noise where you know it"
        )
    ratio = denoising.noise_level(model, values, noise, level, estimate, job.conditions)  # type: ignore[arg-type]
    noisiest, settings = int(ratio.argmax()), {"steps": 50} | job.sampling
    job.record(noisiest, alone=True)
    result = denoising.denoise(model, values, level=ratio, **job.arguments(settings))
    units = denoising.in_data_units(model, ratio)
    levels = [f"σ/α {r:.2g}" for r in ratio.tolist()] if units is None else [f"noise {u:.3g}" for u in units.tolist()]
    origin = "given" if known else f"estimated by {estimate}"
    change, label = pictures.difference(codec.encode(result.mean[first]).to(result.x), result.x[first], codec)
    found = [] if known else ["--level", f"{ratio[0]:.3g}"]
    return Result(
        rows=[
            ("given", codec.decode(result.x[first])),
            ("best estimate x̂", result.mean),
            ("one possible original", result.sample),
            (label.replace("difference", "removed"), change),
        ],
        title=f"Noise removed; how much there is was {origin}",
        labels=levels,
        numbers={
            "noise_was": origin,
            "sigma_over_alpha": by_name(names, ratio),
            "noise_in_data_units": None if units is None else by_name(names, units),
            "conditions": job.described,
            "solver": "ddpm",
            **settings,
            "seed": job.seed,
        },
        arrays={"estimate": (names, result.mean), "sample": (names, result.sample)},
        trajectory_title=f"Down from the noise of {names[noisiest]}",
        lines=[f"{name}: {text}, {origin}" for name, text in zip(names, levels, strict=True)],
        next=f"{shared.again(*found, '--seed', job.seed + 1)}  for another possible original",
    )
