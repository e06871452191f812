"""undiffuse upscale RUN IMAGE…"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from undiffuse.cli import answers, edits, shared
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.models.inverse_methods import Solution


@answers.with_options
def upscale(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    images: Annotated[
        list[str], Argument(metavar="IMAGE…", help=f"Of the model's size divided by the factor. {edits.INPUTS}")
    ],
    factor: Annotated[int, Option(help="How many times larger, along each axis.")] = 2,
    simulate: Annotated[
        bool, Option("--simulate", help="Take images of the model's full size, and make them small first.")
    ] = False,
    noise: answers.Noise = None,
    *,
    options: answers.Options,
) -> None:
    """Make small images larger: new ones of the model's size whose averages they are."""
    job = options.job(run)
    import torch

    from undiffuse.models import inverse_problems
    from undiffuse.pictures import edits as pictures
    from undiffuse.process.operators import Downsample

    codec, operator = job.model.codec, Downsample(factor)
    small = codec.config.model_copy(update={"shape": operator.shape_of(codec.config.shape)})
    if not simulate:
        _refuse_others(images, small.shape[1:])
    inputs = edits.read_inputs(run, job.model, images, None if simulate else small)
    values = torch.from_numpy(inputs.values)
    before: list[tuple[str, Any]] = [("original", pictures.pictures_of(values, codec))] if simulate else []
    y = operator(values) if simulate else values

    def shown(result: Solution) -> list[tuple[str, Any]]:
        return [*before, ("what the model saw", pictures.pictures_of(result.observed, codec))]

    again = shared.again("--seed", job.seed + 1)
    answers.solved(
        job,
        partial(inverse_problems.upscale, job.model, y, factor, noise=noise),
        f"{factor} times larger",
        shown,
        inputs.names,
        {"task": "upscale", "factor": factor, "simulated": simulate, "noise": noise},
        f"{again}  for other answers",
    )


def _refuse_others(names: Sequence[str], size: tuple[int, ...]) -> None:
    """Images that would have to be resized before they could be made larger."""
    from PIL import Image

    from undiffuse.data.pixels import size_text

    for name in names:
        if name.startswith("data:"):
            raise UsageError(f"{name} is of the model's full size: add --simulate, to make it small first.")
        path = Path(name)
        if path.exists() and path.suffix.lower() != ".npy":
            try:
                with Image.open(path) as image:
                    width, height = image.size
            except OSError:
                continue  # whoever reads it says what is wrong
            if (height, width) != size:
                raise UsageError(
                    f"{name} is {size_text((height, width))}, and this takes {size[0]}×{size[1]}: resize it, or add "
                    "--simulate to one of the model's size."
                )
