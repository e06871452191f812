"""undiffuse schedule NAME…"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from undiffuse.cli.place import refuse_unwritable
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from undiffuse.process.schedules import Schedule

COMPARED = ["linear", "cosine", "sigmoid", "flow", "edm"]
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
PICTURES = (".png", ".pdf", ".svg", ".jpg")
CURVE_POINTS, STRIP_POINTS = 200, 13


def schedule(
    names: Annotated[
        list[str] | None,
        Argument(
            metavar="NAME…",
            help="linear, scaled_linear, cosine, sigmoid, sigmoid_alpha_bar, polynomial, constant, vp, sub_vp, ve, edm, cosine_continuous, "
            "flow, flow_polynomial, linear_vp or laplace",
        ),
    ] = None,
    T: Annotated[int | None, Option("--T", help="Steps of the discrete ones (1000).")] = None,
    zero_terminal_snr: Annotated[
        bool, Option("--zero-terminal-snr", help="Rescale discrete ones to end in pure noise.")
    ] = False,
    shift: Annotated[float, Option(help="Added to every log-SNR; 2 ln(64/side) for larger images.")] = 0.0,
    picture: Annotated[Path | None, Option(help="The picture to noise; a digit when left out.")] = None,
    out: Annotated[Path, Option(help="The picture to write.")] = Path("schedules.png"),
    as_json: Annotated[bool, Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Compare noise schedules: numbers, curves, and the same image noised along each."""
    import numpy as np
    import torch

    from undiffuse.config import parsed
    from undiffuse.data.codec import Codec, fitted_codec
    from undiffuse.data.dataset import Dataset
    from undiffuse.data.pixels import Unreadable, read_image
    from undiffuse.data.sources import open_digits
    from undiffuse.pictures import plots
    from undiffuse.pictures.images import to_rgb
    from undiffuse.process.config import SCHEDULES, ScheduleConfig
    from undiffuse.process.forward import add_noise
    from undiffuse.process.philox import standard_normal
    from undiffuse.rng import NoiseStream

    out = out if out.suffix else out.with_name(f"{out.name}.png")
    if out.suffix.lower() not in PICTURES:
        raise UsageError(
            f"--out {out} names no kind of picture that can be written: choose one of {', '.join(PICTURES)}."
        )
    refuse_unwritable(out.parent)
    names = names or COMPARED
    chains = {name for name in names if (entry := SCHEDULES.find(name)) is not None and not entry.continuous}
    built = {
        name: parsed(
            ScheduleConfig,
            {
                "name": name,
                "T": T if name in chains else None,
                "zero_terminal_snr": zero_terminal_snr and name in chains,
                "shift": shift,
            },
            f"the noise schedule {name!r} cannot be made",
        ).build()
        for name in names
    }
    if picture is None:
        data = open_digits()[np.array([4])]
    else:
        try:
            data = Dataset("image", read_image(picture).values[None])
        except Unreadable as problem:
            raise UsageError(f"{picture} cannot be read: {problem}.") from None
    codec = Codec(fitted_codec(data))
    x = codec.encode(data.values)
    eps = standard_normal(x.shape[1:], 0, torch.zeros(1, dtype=torch.int64), stream=NoiseStream.FORWARD)
    curves, strips, numbers = {}, {}, {}
    for name, s in built.items():
        share = torch.linspace(0, 1, CURVE_POINTS, dtype=torch.float64)
        levels = s(_times(s, share))
        signal = levels.alpha**2 / (levels.alpha**2 + levels.sigma**2)
        curves[name] = (share.numpy(), signal.numpy(), levels.logsnr.clamp(-30, 30).numpy())
        strip = s(_times(s, torch.linspace(0, 1, STRIP_POINTS)))
        scale = torch.hypot(strip.alpha, strip.sigma).float().reshape(-1, 1, 1, 1)
        noised = add_noise(x.expand(STRIP_POINTS, *x.shape[1:]), strip, eps) / scale
        strips[name] = list(to_rgb(codec.decode(noised), codec.config))
        times = _times(s, torch.tensor(SHARES))
        table = s(times)
        numbers[name] = {
            "share": list(SHARES),
            "t": times.tolist(),
            "alpha": table.alpha.tolist(),
            "sigma": table.sigma.tolist(),
            "alpha_bar": (table.alpha**2 / (table.alpha**2 + table.sigma**2)).tolist(),
            "log_snr": table.logsnr.tolist(),
        }
    plots.schedules(out, list(built), curves, strips)
    if as_json:
        typer.echo(json.dumps(numbers, indent=2))
        return
    _print_table(numbers)
    typer.echo(f"wrote {out}")
    typer.echo("next: undiffuse train DATA --schedule NAME")


def _times(schedule: Schedule, share: Tensor) -> Tensor:
    """Shares of the way from t_min to t_max → times."""
    return schedule.t_min + share.double() * (schedule.t_max - schedule.t_min)


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
