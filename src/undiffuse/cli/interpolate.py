"""undiffuse interpolate RUN A B"""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from undiffuse.cli import shared
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result, decibels
from undiffuse.cli.runner import ASKED, SAMPLING, TRAJECTORY, Job, answers
from undiffuse.errors import UsageError


@answers("edited", ASKED, SAMPLING, TRAJECTORY)
def interpolate(
    job: Job,
    a: Annotated[str, Argument(metavar="A", help="An image or an .npy array; data:K is example K of the run's data.")],
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
