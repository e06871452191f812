"""undiffuse reconstruct RUN IMAGE…"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from undiffuse.cli import inputs, shared
from undiffuse.cli.result import Result
from undiffuse.cli.runner import ASKED, SAMPLING, SEED, TRAJECTORY, Images, Job, answers

TITLES = {
    "heun": "Reconstruction by inverting the flow, Heun",
    "ddim": "Reconstruction by DDIM inversion",
    "ddpm_inversion": "Reconstruction by DDPM inversion",
    "stochastic": "Noised at random, and back",
}


@answers("edited", ASKED, SAMPLING, SEED, TRAJECTORY)
def reconstruct(
    job: Job,
    images: Images,
    method: Annotated[
        str, Option(help="heun or ddim: invert the flow. ddpm_inversion: exact. stochastic: random noise.")
    ] = "heun",
    strength: Annotated[float, Option(help="How far up, 0 (nothing) to 1 (all the way to noise).")] = 1.0,
) -> Result:
    """Take images up to noise and back: what survives is what the model knows of them."""
    from undiffuse.models import editing
    from undiffuse.pictures import edits as pictures
    from undiffuse.pictures.views import level_label

    codec, given, walk = job.model.codec, job.read(images), job.walk()
    settings = {"steps": editing.default_steps(job.model)} | job.sampling
    result = editing.reconstruct(
        job.model,
        given.values,
        method=method,  # type: ignore[arg-type]
        strength=strength,
        conditions=job.conditions,
        seed=job.seed,
        watch=walk.see if walk else None,
        progress=job.progress,
        **settings,
    )
    labels = [inputs.decibels(value) for value in result.psnr.tolist()]
    apart, apart_label = pictures.difference(result.x, result.back, codec)
    before = pictures.pictures_of(codec.decode(result.x[: pictures.MOST_COLUMNS]), codec)
    far = "" if strength == 1 else f", {strength:.0%} of the way"
    exact = f"{shared.again('--method', 'ddpm_inversion')}  is exact"
    return Result(
        rows=[
            ("given" if codec.space is None else "given, through latents", before),
            (f"x_t at {level_label(result.top)}", pictures.at_level(result.noised, result.top, codec)),
            ("reconstruction", pictures.pictures_of(result.values, codec)),
            (apart_label, apart),
        ],
        title=f"{TITLES[method]}{far}, {settings['steps']} steps",
        labels=labels,
        numbers={
            "method": method,
            "strength": strength,
            **settings,
            "conditions": job.described,
            "seed": job.seed,
            "sigma_over_alpha": result.top.sigma_edm.item() if result.top.alpha > 0 else None,
            "psnr_db": dict(zip(given.names, inputs.finite_rows(result.psnr), strict=True)),
            "null_psnr_means": "identical",
        },
        arrays={"reconstructed": (given.names, result.values)},
        walk=walk,
        lines=[f"{name}: {label}" for name, label in zip(given.names, labels, strict=True)],
        next=exact + ("" if job.trajectory else "; --trajectory draws the way there")
        if method != "ddpm_inversion"
        else f"{shared.command('interpolate', job.run, 'A', 'B')}  goes from one image to another",
    )
