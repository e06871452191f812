"""undiffuse schedule NAME…"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from undiffuse.cli.options import opt
from undiffuse.cli.place import refuse_unwritable
from undiffuse.errors import UsageError

COMPARED_SCHEDULES = ["linear", "cosine", "sigmoid", "flow", "edm"]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
PICTURES = (".png", ".pdf", ".svg", ".jpg")
NAMES = (
    "linear, scaled_linear, cosine, sigmoid, sigmoid_alpha_bar, polynomial, constant, vp, sub_vp, ve, edm, cosine_continuous, "
    "flow, flow_polynomial, linear_vp or laplace"
)


def schedule(
    names: Annotated[list[str] | None, Argument(metavar="NAME…", help=NAMES)] = None,
    T: Annotated[int | None, opt("Steps of the discrete ones (1000).", None, "--T")] = None,
    zero_terminal_snr: Annotated[
        bool, opt("Rescale discrete ones to end in pure noise.", None, "--zero-terminal-snr")
    ] = False,
    shift: Annotated[float, opt("Added to every log-SNR; 2 ln(64/side) for larger images.")] = 0.0,
    picture: Annotated[Path | None, opt("The picture to noise; a digit when left out.")] = None,
    out: Annotated[Path, opt("The picture to write.")] = Path("schedules.png"),
    as_json: Annotated[bool, opt("Print the numbers as JSON.", None, "--json")] = False,
) -> None:
    """Compare noise schedules: numbers, curves, and the same image noised along each."""
    import numpy as np
    import torch

    from undiffuse.config import parsed
    from undiffuse.data.dataset import Dataset
    from undiffuse.data.pixels import Unreadable, read_image
    from undiffuse.data.sources import open_digits
    from undiffuse.pictures.schedules import compare_schedules, signal_left, times_along
    from undiffuse.process.config import SCHEDULES, ScheduleConfig

    if not out.name:
        raise UsageError("--out names no file: give the picture to write, such as schedules.png.")
    out = out if out.suffix else out.with_name(f"{out.name}.png")
    if out.suffix.lower() not in PICTURES:
        raise UsageError(
            f"--out {out} names no kind of picture that can be written: choose one of {', '.join(PICTURES)}."
        )
    refuse_unwritable(out.parent)
    built = {}
    for name in names or COMPARED_SCHEDULES:
        chain = (entry := SCHEDULES.find(name)) is not None and not entry.continuous
        settings = {"T": T, "zero_terminal_snr": zero_terminal_snr} if chain else {}
        config = {"name": name, "shift": shift} | settings
        built[name] = parsed(ScheduleConfig, config, f"the noise schedule {name!r} cannot be made").build()
    try:
        data = Dataset("image", read_image(picture).values[None]) if picture else open_digits()[np.array([4])]
    except Unreadable as problem:
        raise UsageError(f"{picture} cannot be read: {problem}.") from None
    compare_schedules(out, built, data)
    numbers: dict[str, dict[str, list[float]]] = {}
    for name, s in built.items():
        t = times_along(s, torch.tensor(SHARES))
        columns = {
            "t": t,
            "alpha": s(t).alpha,
            "sigma": s(t).sigma,
            "alpha_bar": signal_left(s, t),
            "log_snr": s(t).logsnr,
        }
        numbers[name] = {"share": list(SHARES)} | {key: values.tolist() for key, values in columns.items()}
    if as_json:
        typer.echo(json.dumps(numbers, indent=2))
        return
    _print_table(numbers)
    typer.echo(f"wrote {out}")
    typer.echo("next: undiffuse train DATA --schedule NAME")


def _print_table(numbers: dict[str, dict[str, list[float]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="alpha-bar and log-SNR along the forward trajectory", title_justify="left")
    table.add_column("schedule")
    for share in SHARES:
        table.add_column(f"{share:.0%}", justify="right")
    for name, row in numbers.items():
        table.add_row(name, *(f"{a:.5f}\n{s:+.2f}" for a, s in zip(row["alpha_bar"], row["log_snr"], strict=True)))
    Console().print(table)
