"""undiffuse vary RUN IMAGE…"""

from __future__ import annotations

from typing import Annotated

from undiffuse.cli import shared
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result, by_name
from undiffuse.cli.runner import ASKED, SAMPLING, SEED, TRAJECTORY, Images, Job, answers


@answers("edited", ASKED, SAMPLING, SEED, TRAJECTORY)
def vary(
    job: Job,
    images: Images,
    strength: Annotated[float, opt("How far up to noise, 0 (nothing changes) to 1 (nothing is left).")] = 0.5,
    n: Annotated[int, opt("Variations of each image.", None, "-n")] = 4,
) -> Result:
    """Variations of images: noised part of the way, and back another way."""
    from undiffuse.models import editing
    from undiffuse.pictures import edits as pictures
    from undiffuse.pictures.views import level_label

    codec, examples = job.model.codec, job.read(images)
    settings = {"steps": editing.default_steps(job.model)} | job.sampling
    result = editing.vary(job.model, examples.values, strength, n, **job.arguments(settings))
    first = slice(0, n * pictures.MOST_COLUMNS, n)  # of each example
    names = [f"{name}-{k}" for name in examples.names for k in range(n)]
    other = min(1.0, strength + 0.25) if strength < 1 else 0.5
    return Result(
        rows=[
            ("given", codec.decode(result.x[first])),
            (f"x_t at {level_label(result.top)}", pictures.at_level(result.noised[first], result.top, codec)),
            *((f"variation {k + 1}", result.values[k::n]) for k in range(n)),
        ],
        title=f"Variations at strength {strength:g}",
        labels=examples.names,
        numbers={
            "strength": strength,
            "n": n,
            **settings,
            "conditions": job.described,
            "seed": job.seed,
            "sigma_over_alpha": result.top.sigma_edm.item(),
            "psnr_db": by_name(names, result.psnr),
            "null_psnr_means": "identical",
        },
        arrays={"variations": (names, result.values)},
        trajectory_labels=names,
        next=f"{shared.again('--strength', f'{other:g}')}  keeps {'less' if other > strength else 'more'} of the image",
    )
