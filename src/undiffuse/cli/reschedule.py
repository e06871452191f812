"""undiffuse reschedule RUN NAME"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument

from undiffuse.cli.options import opt
from undiffuse.cli.place import refuse_unwritable
from undiffuse.cli.shared import command, rates
from undiffuse.errors import UsageError


def reschedule(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    name: Annotated[str, Argument(metavar="NAME", help="The noise schedule, see 'undiffuse schedule'.")],
    T: Annotated[int | None, opt("Steps of a discrete schedule.", None, "--T")] = None,
    betas: Annotated[Any, opt("First and last beta of a schedule of 1000 steps: 0.0001,0.02.", parse=rates)] = None,
    zero_terminal_snr: Annotated[
        bool, opt("Rescale a discrete one to end in pure noise.", None, "--zero-terminal-snr")
    ] = False,
    shift: Annotated[float, opt("Added to every log-SNR.")] = 0.0,
    out: Annotated[Path | None, opt("The model file to write; RUN/on-NAME.safetensors when left out.")] = None,
) -> None:
    """Put a trained model on another noise schedule, without training it."""
    from undiffuse.config import parsed
    from undiffuse.models import storage
    from undiffuse.models.config import rescheduled
    from undiffuse.models.file import file_of, read_file
    from undiffuse.process.config import ScheduleConfig

    start, end = betas or (None, None)
    described = {"name": name, "T": T, "beta_start": start, "beta_end": end}
    described |= {"zero_terminal_snr": zero_terminal_snr, "shift": shift}
    schedule = parsed(ScheduleConfig, described, "this noise schedule cannot be made")
    schedule.build()
    path = file_of(run)
    out = out or path.parent / f"on-{name}.safetensors"
    if out.exists():
        raise UsageError(f"{out} exists, and nothing is written over: name another --out.")
    refuse_unwritable(out.parent)
    config, tensors = read_file(path)
    storage.write(out, "model", rescheduled(config, schedule).model_dump_json(), tensors)
    trained = (config.trained_schedule or config.schedule).name
    typer.echo(f"wrote {out}: the model of {path} on {name}, its network trained on {trained}")
    typer.echo(f"next: {command('sample', out)}")
