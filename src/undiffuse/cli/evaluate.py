"""undiffuse evaluate RUN"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from undiffuse.cli import shared
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result
from undiffuse.cli.runner import SAMPLING_OPTIONS, SEED, Job, job_command
from undiffuse.errors import UsageError


@job_command("evaluated", SAMPLING_OPTIONS, SEED)
def evaluate(
    job: Job,
    n: Annotated[int, opt("How many samples to judge.", None, "-n")] = 500,
    predictor_steps: Annotated[int, opt("Updates that each predictor is trained for.")] = 600,
) -> Result:
    """Do samples show the conditions requested? Judged by predictors that are trained on held-out examples."""
    if n < 2:
        raise UsageError(f"-n {n} is too few to judge by: take at least 2.")
    from undiffuse.evaluation.adherence import adherence, adherence_table
    from undiffuse.models.guidance import Guidance, validate
    from undiffuse.pictures.adherence import AdherenceRow, plot_adherence
    from undiffuse.runs.data import run_data

    known = run_data(job.run, "give a run folder made by 'undiffuse train'")
    validate(job.model, job.model.sampling_config(**job.sampling), Guidance())
    settings = {"n": n, "predictor_steps": predictor_steps, "seed": job.seed, "progress": job.phase, **job.sampling}
    found = adherence(job.model, known.data, known.held_out, known.conditions, **settings)
    rows = [AdherenceRow(a.name, a.measure, a.samples, a.error, a.ceiling, a.floor, a.requested, a.read) for a in found]
    return Result(
        numbers={
            "n": n,
            "held_out": len(known.held_out),
            "predictor": f"{predictor_steps} updates on one half of the held-out examples, the ceiling is the other",
            "sampling": job.sampling,
            "seed": job.seed,
            "adherence": [asdict(a) for a in found],
        },
        numbers_in="adherence.json",
        files={
            "adherence.png": lambda path: plot_adherence(path, rows, f"Do {n} samples show the conditions requested?")
        },
        lines=adherence_table(found),
        next=f"{shared.again('--guidance', 2)}   to see what guidance does to it",
    )
