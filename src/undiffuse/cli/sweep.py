"""undiffuse sweep RUN"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from undiffuse.cli import shared
from undiffuse.files import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from undiffuse.data.codec import Codec
    from undiffuse.model import Model
    from undiffuse.sweeping import Sweep, Tried


def sweep(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    data: Annotated[str | None, Argument(metavar="[DATA]", help="Examples to compare with; the run's own when left out.")] = None,
    solvers: Annotated[str | None, Option(help="Which, like adams,unipc; a good few when left out.")] = None,
    grids: Annotated[str | None, Option(help="Which, like angle_beta,aligned; aligned is fitted to the model.")] = None,
    steps: Annotated[str | None, Option(help="How many, like 4,8,16.")] = None,
    n: Annotated[int, Option("-n", help="How many samples to judge each setting by.")] = 64,
    guidance: Annotated[float | None, Option(help="Strength of guidance; the model's own when left out.")] = None,
    tolerance: Annotated[float, Option(help="Distance to the exact flow that is near enough, of values from -1 to 1.")] = 0.01,
    keep: Annotated[bool, Option("--keep", help="Make the recommended setting the model's default.")] = False,
    seed: Annotated[int, Option(help="Of the noise that every setting starts from.")] = 0,
    out: Annotated[Path | None, Option(help="Folder to write to; a new one in the run's sweep/ when left out.")] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, …")] = None,
) -> None:
    """Find the solver, grid and number of steps that suit a model: quality against cost."""
    shared.check_out(run, "sweep", out)
    from undiffuse import sweeping
    from undiffuse.model import FILE_NAME, load, store_sampling

    model = load(run, shared.device(device))
    settings = sweeping.settings_for(
        model, solvers.split(",") if solvers else sweeping.DEFAULT_SOLVERS, grids.split(",") if grids else sweeping.DEFAULT_GRIDS,
        shared.integers(steps) if steps else sweeping.DEFAULT_STEPS, guidance,
    )  # fmt: skip
    real = _real(run, data, model.codec)
    asked = _asked(run, model, n)
    with shared.progress_bar("{task.completed} of {task.total} settings") as bar:
        task = bar.add_task("sweeping", total=len(settings) + 1)
        swept = sweeping.sweep(
            model, settings, n=n, conditions=asked, seed=seed, data=real,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    best = swept.recommended(tolerance)
    folder = shared.result_folder(run, "sweep", out)
    _write(swept, best, tolerance, folder)
    for line in _table(swept, best):
        typer.echo(line)
    typer.echo(f"wrote {folder}/: sweep.png, sweep.json")
    if best is None:
        typer.echo("next: sweep solvers that draw no noise as well, to have a distance to recommend by")
        return
    if best.to_reference is not None and best.to_reference > tolerance:
        typer.echo(f"note: no setting came within {tolerance:g} of the exact flow; this is the nearest")
    how = best.sampling
    if keep:
        store_sampling(run / FILE_NAME if run.is_dir() else run, how)
        typer.echo(f"the model now samples with {how.solver} on {how.grid}, {how.steps} steps; next: {shared.command('sample', run)}")
    elif how.grid == "aligned":
        typer.echo("next: the same with --keep, to make it the model's default")
    else:
        again = shared.command("sample", run, "--solver", how.solver, "--grid", how.grid, "--steps", how.steps)
        typer.echo(f"next: {again}   (or --keep to make it the default)")


def _asked(run: Path, model: Model, n: int) -> dict[str, object]:
    """Conditions for n samples: the classes in turn, or what examples of the run's data say where it is told more than classes."""
    from undiffuse.held_out import known_data, told_of

    conditions = model.denoiser.conditions
    classes = {name: c.names for name, c in model.config.conditions.items() if c.kind == "class" and not c.retired}
    if list(classes) == conditions.askable or not conditions.askable:
        return {name: [names[k % len(names)] for k in range(n)] for name, names in classes.items()}
    known = known_data(run, "keep the run's folder with its model")
    rows = known.held_out if len(known.held_out) else known.training
    told = told_of(run, known.data[rows[[k % len(rows) for k in range(n)]]])
    return {name: values for name, values in told.items() if name in conditions.askable}


def _real(run: Path, data: str | None, codec: Codec) -> Tensor | None:
    """Real examples in the model's range; None, with a note, where the run's data is not to be found."""
    from undiffuse.held_out import named_data, run_config

    if data is None:
        config = run_config(run)
        if config is None:
            typer.echo("note: no data to compare with beside this model file; name some to see distances to it")
            return None
        data = config.data.source
    try:
        return codec.encode_parts(named_data(run, data)[0].values)
    except (ValueError, OSError) as error:
        typer.echo(f"note: no distances to the data: {error}")
        return None


def _row(tried: Tried) -> dict[str, object]:
    how = tried.sampling
    return {
        "solver": how.solver, "grid": how.grid, "steps": how.steps, "logsnrs": how.logsnrs, "guidance": how.guidance,
        "evaluations": tried.evaluations, "seconds": round(tried.seconds, 4), "to_reference": tried.to_reference, "to_data": tried.to_data,
    }  # fmt: skip


def _table(swept: Sweep, best: Tried | None) -> list[str]:
    """The front, cheapest first."""
    lines = [f"{'solver':14} {'grid':12} {'evaluations':>11} {'seconds':>8} {'to the flow':>12} {'to the data':>12}"]
    for tried in swept.front():
        how = tried.sampling
        data = "-" if tried.to_data is None else f"{tried.to_data:.4g}"
        mark = "   <- recommended" if tried is best else ""
        lines.append(f"{how.solver:14} {how.grid:12} {tried.evaluations:11d} {tried.seconds:8.2f} {tried.to_reference:12.4g} {data:>12}{mark}")
    return lines


def _write(swept: Sweep, best: Tried | None, tolerance: float, folder: Path) -> None:
    from undiffuse.pictures.pareto import Point, pareto

    content = {
        "n": swept.n, "reference_evaluations": swept.reference, "tolerance": tolerance, "unit": "median rms per number, of values from -1 to 1",
        "recommended": _row(best) if best else None, "front": [_row(t) for t in swept.front()], "tried": [_row(t) for t in swept.tried],
    }  # fmt: skip
    write_text(folder / "sweep.json", json.dumps(content, indent=2) + "\n")
    reference: dict[tuple[str, str], list[Point]] = {}
    data: dict[tuple[str, str], list[Point]] = {}
    for tried in swept.tried:
        name = (tried.sampling.solver, tried.sampling.grid)
        for panel, value in ((reference, tried.to_reference), (data, tried.to_data)):
            if value is not None:
                panel.setdefault(name, []).append((tried.evaluations, value))
    front = [(t.evaluations, t.to_reference) for t in swept.front() if t.to_reference is not None]
    chosen = None if best is None or best.to_reference is None else (best.evaluations, best.to_reference)
    pareto(
        folder / "sweep.png", reference, data, front, chosen, f"{swept.n} samples of one seed, each setting from the same noise",
        f"Fréchet distance to the data in {swept.directions} random directions",
    )  # fmt: skip
