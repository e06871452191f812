"""undiffuse vary RUN IMAGE…"""

from __future__ import annotations

from typing import Annotated

from typer import Option

from undiffuse.cli import inputs, shared
from undiffuse.cli.result import Result
from undiffuse.cli.runner import ASKED, SAMPLING, SEED, TRAJECTORY, Images, Job, answers


@answers("edited", ASKED, SAMPLING, SEED, TRAJECTORY)
def vary(
    job: Job,
    images: Images,
    strength: Annotated[float, Option(help="How far up to noise, 0 (nothing changes) to 1 (nothing is left).")] = 0.5,
    n: Annotated[int, Option("-n", help="Variations of each image.")] = 4,
) -> Result:
    """Variations of images: noised part of the way, and back another way."""
    from undiffuse.models import editing
    from undiffuse.pictures import edits as pictures
    from undiffuse.pictures.views import level_label

    codec, given, walk = job.model.codec, job.read(images), job.walk()
    settings = {"steps": editing.default_steps(job.model)} | job.sampling
    result = editing.vary(
        job.model,
        given.values,
        strength,
        n,
        conditions=job.conditions,
        seed=job.seed,
        watch=walk.see if walk else None,
        progress=job.progress,
        **settings,
    )
    first = [k * n for k in range(len(given.names))][: pictures.MOST_COLUMNS]
    each = [f"{name}-{k}" for name in given.names for k in range(n)]
    other = min(1.0, strength + 0.25) if strength < 1 else 0.5
    return Result(
        rows=[
            ("given", pictures.pictures_of(codec.decode(result.x[first]), codec)),
            (f"x_t at {level_label(result.top)}", pictures.at_level(result.noised[first], result.top, codec)),
            *((f"variation {k + 1}", pictures.pictures_of(result.values[k::n], codec)) for k in range(n)),
        ],
        title=f"Variations at strength {strength:g}",
        labels=given.names,
        numbers={
            "strength": strength,
            "n": n,
            **settings,
            "conditions": job.described,
            "seed": job.seed,
            "sigma_over_alpha": result.top.sigma_edm.item() if result.top.alpha > 0 else None,
            "psnr_db": dict(zip(each, inputs.finite_rows(result.psnr), strict=True)),
            "null_psnr_means": "identical",
        },
        arrays={"variations": (each, result.values)},
        walk=walk,
        walk_labels=each,
        next=f"{shared.again('--strength', f'{other:g}')}  keeps {'less' if other > strength else 'more'} of the image",
    )
