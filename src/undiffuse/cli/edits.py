"""undiffuse denoise, reconstruct, interpolate and vary RUN IMAGE…: edits, up to noise and down again, by any model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument

from undiffuse.cli import shared
from undiffuse.cli.conditions import CONDITION_VALUES
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result, by_name, decibels
from undiffuse.cli.runner import SAMPLING_OPTIONS, SEED, TRAJECTORY, Images, Job, job_command
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.models.editing import Reconstruction
    from undiffuse.pictures.edits import Row

NOISE_HELP = "Standard deviation of the noise in the images given, in their own unit; estimated when left out."
MUCH_CUT_OFF = 0.1  # of the values
METHOD_HELP = "heun or ddim: invert the flow. ddpm_inversion: exact. stochastic: random noise."
RECONSTRUCTION_TITLES = {
    "heun": "Reconstruction by inverting the flow, Heun",
    "ddim": "Reconstruction by DDIM inversion",
    "ddpm_inversion": "Reconstruction by DDPM inversion",
    "stochastic": "Noised at random, and back",
}
FIRST = Annotated[str, Argument(metavar="A", help="An image or an .npy array; data:K is example K of the run's data.")]
edits = partial(job_command, "edited", CONDITION_VALUES, SAMPLING_OPTIONS)


@edits(SEED, TRAJECTORY)
def denoise(
    job: Job,
    images: Images,
    noise: Annotated[float | None, opt(NOISE_HELP)] = None,
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


@edits(SEED, TRAJECTORY)
def reconstruct(
    job: Job,
    images: Images,
    method: Annotated[str, opt(METHOD_HELP)] = "heun",
    strength: Annotated[float, opt("How far up, 0 (nothing) to 1 (all the way to noise).")] = 1.0,
) -> Result:
    """Take images up to noise and back: what survives is what the model knows of them."""
    from undiffuse.models import editing
    from undiffuse.pictures.edits import difference

    examples, codec = job.read(images), job.model.codec
    settings = {"method": method, "strength": strength, "steps": editing.default_steps(job.model)} | job.sampling
    result = editing.reconstruct(job.model, examples.values, **job.arguments(settings))
    labels = [decibels(value) for value in result.psnr.tolist()]
    change, label = difference(result.x, result.back, codec)
    part = "" if strength == 1 else f", {strength:.0%} of the way"
    following = f"{shared.command('interpolate', job.run, 'A', 'B')}  goes from one image to another"
    if method != "ddpm_inversion":
        drawn = "" if job.trajectory else "; --trajectory draws the way there"
        following = f"{shared.again('--method', 'ddpm_inversion')}  is exact{drawn}"
    origin = "given" if codec.space is None else "given, through latents"
    return Result(
        rows=[*_noised(job, result, origin), ("reconstruction", result.values), (label, change)],
        title=f"{RECONSTRUCTION_TITLES[method]}{part}, {settings['steps']} steps",
        labels=labels,
        numbers=_numbers(job, result, settings, examples.names),
        arrays={"reconstructed": (examples.names, result.values)},
        lines=[f"{name}: {text}" for name, text in zip(examples.names, labels, strict=True)],
        next=following,
    )


@edits(TRAJECTORY)
def interpolate(
    job: Job,
    a: FIRST,
    b: Annotated[str, Argument(metavar="B", help="Another one.")],
    n: Annotated[int, opt("How many, both ends included.", None, "-n")] = 9,
    method: Annotated[str, opt("Of inversion: heun or ddim.")] = "heun",
) -> Result:
    """Go from one image to another, by way of the noises they come from."""
    from undiffuse.models import editing
    from undiffuse.pictures import edits as pictures

    examples, middle = job.read([a, b]), n // 2
    if len(examples.values) != 2:
        raise UsageError(
            f"interpolation is between two examples, but {a} and {b} hold {len(examples.values)}: give files of one each."
        )
    settings = {"method": method, "steps": editing.default_steps(job.model)} | job.sampling
    job.record(middle, ways=["down"])
    arguments = {name: value for name, value in job.arguments(settings).items() if name != "seed"}
    result = editing.interpolate(job.model, examples.values[0], examples.values[1], n, **arguments)
    ends = " and ".join(decibels(value) for value in result.psnr.tolist())
    again = shared.command("reconstruct", job.run, a) if n >= 25 else f"{shared.again('-n', 25)}  takes smaller steps"
    return Result(
        rows=[
            ("through the noise", result.values),
            ("plain blend of values", pictures.blend(result.x, result.shares, job.model.codec)),
        ],
        title=f"From one to the other; the ends come back to {ends}",
        labels=[examples.names[0], *(f"{share:.0%}" for share in result.shares[1:-1]), examples.names[1]],
        numbers={
            "a": a,
            "b": b,
            "n": n,
            **settings,
            "conditions": job.described,
            "shares": result.shares,
            "psnr_db_of_ends": result.psnr.tolist(),
        },
        arrays={"interpolated": ([f"{share:.3f}" for share in result.shares], result.values)},
        trajectory_title=f"How the one at {result.shares[middle]:.0%} comes about",
        next=again,
    )


@edits(SEED, TRAJECTORY)
def vary(
    job: Job,
    images: Images,
    strength: Annotated[float, opt("How far up to noise, 0 (nothing changes) to 1 (nothing is left).")] = 0.5,
    n: Annotated[int, opt("Variations of each image.", None, "-n")] = 4,
) -> Result:
    """Variations of images: noised part of the way, and back another way."""
    from undiffuse.models import editing

    examples = job.read(images)
    settings = {"strength": strength, "n": n, "steps": editing.default_steps(job.model)} | job.sampling
    result = editing.vary(job.model, examples.values, **job.arguments(settings))
    names = [f"{name}-{k}" for name in examples.names for k in range(n)]
    other = min(1.0, strength + 0.25) if strength < 1 else 0.5
    variations = [(f"variation {k + 1}", result.values[k::n]) for k in range(n)]
    return Result(
        rows=[*_noised(job, result, "given", n), *variations],
        title=f"Variations at strength {strength:g}",
        labels=examples.names,
        numbers=_numbers(job, result, settings, names),
        arrays={"variations": (names, result.values)},
        trajectory_labels=names,
        next=f"{shared.again('--strength', f'{other:g}')}  keeps {'less' if other > strength else 'more'} of the image",
    )


def _noised(job: Job, result: Reconstruction, origin: str, each: int = 1) -> list[Row]:
    """Rows of the images and of the noisiest that becomes of them.   origin: label of the images.   each: results of one image."""
    from undiffuse.pictures.edits import MOST_COLUMNS, at_level
    from undiffuse.pictures.views import level_label

    codec, first = job.model.codec, slice(0, each * MOST_COLUMNS, each)
    noised = at_level(result.noised[first], result.top, codec)
    return [(origin, codec.decode(result.x[first])), (f"x_t at {level_label(result.top)}", noised)]


def _numbers(job: Job, result: Reconstruction, settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {
        **settings,
        "conditions": job.described,
        "seed": job.seed,
        "sigma_over_alpha": result.top.sigma_edm.item(),
        "psnr_db": by_name(names, result.psnr),
        "null_psnr_means": "identical",
    }
