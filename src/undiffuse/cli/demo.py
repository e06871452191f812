"""undiffuse demo: train on the embedded digits, and show on one poster what diffusion is and what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from undiffuse.cli import shared
from undiffuse.cli.following import follow

if TYPE_CHECKING:
    from undiffuse.runs.diffusion import Run

STRIP, PER_CLASS = 10, 4
GUIDANCE = 2.0  # of the one reverse trajectory that is shown; the samples by class are plain
SHOWN_CLASS = "3"


def demo(
    budget: Annotated[Any, Option(parser=shared.seconds, metavar="DURATION", help="Train for so long.")] = "90s",
    folder: Annotated[Path, Option(help="The run folder.")] = Path("runs/demo"),
) -> None:
    """Train on handwritten digits for a minute and a half; draw a poster of what diffusion is."""
    from undiffuse.data.sources import DataConfig
    from undiffuse.runs.prepare import prepare
    from undiffuse.training.cadence import Intervals

    long = float(budget)
    settings = {"training.budget": long, "training.steps": None}
    run = prepare(
        DataConfig(source="digits", held_out=297.0), folder, settings=settings, watch=Intervals(long, long / 3)
    ).run()
    follow(run)
    path = folder / "poster.png"
    draw_poster(run, path)
    typer.echo(f"the picture: {path}")


def draw_poster(run: Run, path: Path) -> None:
    """The poster of a trained run of a data set with classes."""
    import torch

    from undiffuse.models.file import load
    from undiffuse.pictures.images import to_rgb
    from undiffuse.pictures.poster import Poster, draw_poster
    from undiffuse.pictures.views import forward_pictures, reverse_pictures
    from undiffuse.sampling.spacings import uniform

    model = load(run.folder, run.device)
    codec, data = model.codec, run.held_out
    classes = list(model.classes)[:10]
    assert data.labels is not None
    of_class = [torch.from_numpy(data.values[data.labels == k]).float() for k in range(len(classes))]
    shown = classes.index(SHOWN_CLASS) if SHOWN_CLASS in classes else 0
    levels = getattr(model.schedule, "levels", None) or uniform(model.schedule, 200)
    # the held-out example nearest to the mean of its class: a typical one
    typical = (of_class[shown] - of_class[shown].mean(0)).flatten(1).norm(dim=1).argmin()
    forward, forward_labels = forward_pictures(
        codec.encode(of_class[shown][typical][None])[0], levels, codec, seed=0, count=STRIP
    )
    moments = list(model.trajectory(1, {"class": classes[shown]}, seed=0, guidance=GUIDANCE))
    x_t, clean, reverse_labels = reverse_pictures(moments, codec, count=STRIP)
    made = model.sample(
        PER_CLASS * len(classes), {"class": [name for name in classes for _ in range(PER_CLASS)]}, seed=1
    )
    scores = run.measurements.scores()[model.config.weights]
    draw_poster(
        Poster(
            title="How noise becomes a digit",
            subtitle=(
                f"A diffusion model trained for {run.trainer.seconds:.0f} seconds on {len(run.prepared.training):,} handwritten digits "
                f"of {data.shape[1]}×{data.shape[2]} pixels, on {run.device.type.upper()}."
            ),
            forward=forward,
            forward_labels=forward_labels,
            x_t=x_t,
            clean=clean,
            reverse_labels=reverse_labels,
            reverse_title=f"2  Reverse: told to make a {classes[shown]}, a network turns pure noise into a new one",
            classes=classes,
            real=[list(to_rgb(of[:PER_CLASS], codec.config)) for of in of_class],
            made=[list(to_rgb(part, codec.config)) for part in made.split(PER_CLASS)],
            ratio=run.measurements.validation.levels.sigma_edm.tolist(),
            errors=run.measurements.curves() | {"model": scores["errors"]},
            held_out=len(run.measurements.measured() or ()),
        ),
        path,
    )
