"""undiffuse demo: train on the embedded digits, and show on one poster what diffusion is and what was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from undiffuse.cli.following import follow
from undiffuse.cli.options import opt
from undiffuse.cli.shared import seconds


def demo(
    budget: Annotated[Any, opt("Train for so long.", parse=seconds)] = "90s",
    folder: Annotated[Path, opt("The run folder.")] = Path("runs/demo"),
) -> None:
    """Train on handwritten digits for a minute and a half; draw a poster of what diffusion is."""
    from undiffuse.data.config import DataConfig
    from undiffuse.pictures.poster import draw_poster
    from undiffuse.runs.poster import poster_of
    from undiffuse.runs.prepare import prepare
    from undiffuse.training.cadence import Intervals

    long = float(budget)
    settings, data = {"training.budget": long, "training.steps": None}, DataConfig(source="digits", held_out=297.0)
    run = prepare(data, folder, settings=settings, watch=Intervals(long, long / 3)).run()
    follow(run)
    path = folder / "poster.png"
    draw_poster(poster_of(run), path)
    typer.echo(f"the picture: {path}")
