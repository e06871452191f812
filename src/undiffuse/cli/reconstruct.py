"""undiffuse reconstruct RUN IMAGE…"""

from __future__ import annotations

from typing import Annotated

from undiffuse.cli import shared
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result, by_name, decibels
from undiffuse.cli.runner import ASKED, SAMPLING, SEED, TRAJECTORY, Images, Job, answers

METHOD = "heun or ddim: invert the flow. ddpm_inversion: exact. stochastic: random noise."
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
    method: Annotated[str, opt(METHOD)] = "heun",
    strength: Annotated[float, opt("How far up, 0 (nothing) to 1 (all the way to noise).")] = 1.0,
) -> Result:
    """Take images up to noise and back: what survives is what the model knows of them."""
    from undiffuse.models import editing
    from undiffuse.pictures import edits as pictures
    from undiffuse.pictures.views import level_label

    codec, examples = job.model.codec, job.read(images)
    settings = {"method": method, "strength": strength, "steps": editing.default_steps(job.model)} | job.sampling
    result = editing.reconstruct(job.model, examples.values, **job.arguments(settings))
    labels = [decibels(value) for value in result.psnr.tolist()]
    change, label = pictures.difference(result.x, result.back, codec)
    part = "" if strength == 1 else f", {strength:.0%} of the way"
    following = f"{shared.command('interpolate', job.run, 'A', 'B')}  goes from one image to another"
    if method != "ddpm_inversion":
        drawn = "" if job.trajectory else "; --trajectory draws the way there"
        following = f"{shared.again('--method', 'ddpm_inversion')}  is exact{drawn}"
    return Result(
        rows=[
            (
                "given" if codec.space is None else "given, through latents",
                codec.decode(result.x[: pictures.MOST_COLUMNS]),
            ),
            (f"x_t at {level_label(result.top)}", pictures.at_level(result.noised, result.top, codec)),
            ("reconstruction", result.values),
            (label, change),
        ],
        title=f"{TITLES[method]}{part}, {settings['steps']} steps",
        labels=labels,
        numbers={
            **settings,
            "conditions": job.described,
            "seed": job.seed,
            "sigma_over_alpha": result.top.sigma_edm.item(),
            "psnr_db": by_name(examples.names, result.psnr),
            "null_psnr_means": "identical",
        },
        arrays={"reconstructed": (examples.names, result.values)},
        lines=[f"{name}: {text}" for name, text in zip(examples.names, labels, strict=True)],
        next=following,
    )
