"""undiffuse evaluate RUN"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from undiffuse.cli import asking, shared
from undiffuse.errors import UsageError
from undiffuse.system import write_text


def evaluate(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder.")],
    n: Annotated[int, Option("-n", help="How many samples to judge.")] = 500,
    guidance: Annotated[str | None, Option(help="Strength of guidance; of each condition: class=3,age=1.")] = None,
    steps: Annotated[int, Option(help="Updates that each predictor is trained for.")] = 600,
    seed: Annotated[int, Option(help="Of the samples and the predictors.")] = 0,
    encoder: asking.Encoder = None,
    out: Annotated[
        Path | None, Option(help="Folder to write to; a new one in the run's evaluated/ when left out.")
    ] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, …")] = None,
) -> None:
    """Do samples show what was asked for? Judged by predictors that are trained on held-out examples."""
    if n < 2:
        raise UsageError(f"-n {n} is too few to judge by: take at least 2.")
    shared.check_out(run, "evaluated", out)
    from undiffuse.evaluation.adherence import adherence
    from undiffuse.models.file import load
    from undiffuse.models.guidance import Guidance, validate
    from undiffuse.pictures.adherence import AdherenceRow
    from undiffuse.pictures.adherence import plot_adherence as draw
    from undiffuse.runs.data import run_data

    known = run_data(run, "give a run folder made by 'undiffuse train'")
    model = load(run, shared.device(device), encoder=encoder)
    strengths, each = asking.scales(guidance) if guidance is not None else ([], {})
    if len(strengths) > 1:
        raise UsageError(f"--guidance {guidance} lists several strengths: evaluate one at a time.")
    settings: dict[str, Any] = ({"guidance": strengths[0]} if strengths else {}) | (
        {"guidance_scales": each} if each else {}
    )
    validate(model, model.sampling_config(**settings), Guidance())
    with shared.progress_bar("{task.fields[left]}") as bar:
        tasks: dict[str, Any] = {}

        def watch(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0, left="")
            bar.update(tasks[what], completed=share)

        found = adherence(
            model,
            known.data,
            known.held_out,
            known.conditions,
            n=n,
            predictor_steps=steps,
            seed=seed,
            progress=watch,
            **settings,
        )
    typer.echo(f"{'condition':24} {'measure':16} {'samples':>16} {'real examples':>14} {'shuffled':>9}")
    for a in found:
        score = f"{a.samples:.3f} ± {a.error:.3f}"
        typer.echo(f"{a.kind + ' ' + a.name:24} {a.measure:16} {score:>16} {a.ceiling:14.3f} {a.floor:9.3f}")
    weak = [a.name for a in found if a.ceiling - a.floor < 0.2]
    if weak:
        typer.echo(
            f"note: even of real examples the predictor reads little of {', '.join(weak)}, so its scores say little there"
        )
    folder = shared.result_folder(run, "evaluated", out)
    content = {
        "n": n,
        "held_out": len(known.held_out),
        "predictor": f"{steps} updates on one half of the held-out examples, the ceiling is the other",
        "guidance": guidance,
        "seed": seed,
        "adherence": [asdict(a) for a in found],
    }
    write_text(folder / "adherence.json", json.dumps(content, indent=2) + "\n")
    rows = [AdherenceRow(a.name, a.measure, a.samples, a.error, a.ceiling, a.floor, a.asked, a.read) for a in found]
    draw(folder / "adherence.png", rows, f"Do {n} samples show what was asked?")
    typer.echo(f"wrote {folder}/: adherence.png, adherence.json")
    typer.echo(f"next: {shared.again('--guidance', 2)}   to see what guidance does to it")
