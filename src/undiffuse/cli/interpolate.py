"""undiffuse interpolate RUN A B"""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from undiffuse.cli import inputs, shared
from undiffuse.cli.result import Result
from undiffuse.cli.runner import ASKED, SAMPLING, TRAJECTORY, Job, answers
from undiffuse.errors import UsageError


@answers("edited", ASKED, SAMPLING, TRAJECTORY)
def interpolate(
    job: Job,
    a: Annotated[str, Argument(metavar="A", help="An image or an .npy array; data:K is example K of the run's data.")],
    b: Annotated[str, Argument(metavar="B", help="Another one.")],
    n: Annotated[int, Option("-n", help="How many, both ends included.")] = 9,
    method: Annotated[str, Option(help="Of inversion: heun or ddim.")] = "heun",
) -> Result:
    """Go from one image to another, by way of the noises they come from."""
    import torch

    from undiffuse.models import editing
    from undiffuse.pictures import edits as pictures

    codec, given = job.model.codec, job.read([a, b])
    if len(given.values) != 2:
        raise UsageError(
            f"interpolation is between two examples, but {a} and {b} hold {len(given.values)}: give files of one each."
        )
    walk, middle = job.walk(also=[n // 2]), n // 2
    settings = {"steps": editing.default_steps(job.model)} | job.sampling
    result = editing.interpolate(
        job.model,
        given.values[0],
        given.values[1],
        n,
        method=method,  # type: ignore[arg-type]
        conditions=job.conditions,
        watch=walk.see if walk else None,
        progress=job.progress,
        **settings,
    )
    plain = codec.in_plain(result.x)
    blend = torch.cat([torch.lerp(plain[:1], plain[1:], share) for share in result.shares[: pictures.MOST_COLUMNS]])
    down = None if walk is None else walk.only("down")
    ends = " and ".join(inputs.decibels(value) for value in result.psnr.tolist())
    smaller = f"{shared.again('-n', 25)}  takes smaller steps"
    return Result(
        rows=[
            ("through the noise", pictures.pictures_of(result.values, codec)),
            ("plain blend of values", pictures.pictures_of(codec.plain.decode(blend), codec)),
        ],
        title=f"From one to the other; the ends come back to {ends}",
        labels=[given.names[0], *(f"{share:.0%}" for share in result.shares[1:-1]), given.names[1]],
        numbers={
            "a": a,
            "b": b,
            "n": n,
            "method": method,
            **settings,
            "conditions": job.described,
            "shares": list(result.shares),
            "psnr_db_of_ends": inputs.finite_rows(result.psnr),
        },
        arrays={"interpolated": ([f"{share:.3f}" for share in result.shares], result.values)},
        walk=down,
        walk_title=f"How the one at {result.shares[middle]:.0%} comes about",
        walk_example=0 if down is None else down.examples.index(middle),
        next=smaller if n < 25 else shared.command("reconstruct", job.run, a),
    )
