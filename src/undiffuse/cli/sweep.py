"""undiffuse sweep RUN"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from undiffuse.cli import shared
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result
from undiffuse.cli.runner import GUIDED, SEED, Job, job_command
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.evaluation.sweep import Sweep, Tried

SWEEP_DATA_HELP = "Examples to score against; those the run held out when left out."
BY = "Recommend by flow, how near to the exact flow, or by score, how like examples it never saw."
SAVE = opt("Make the recommended setting the model's default.", None, "--save-default")


@job_command("sweep", GUIDED, SEED)
def sweep(
    job: Job,
    data: Annotated[str | None, Argument(metavar="[DATA]", help=SWEEP_DATA_HELP)] = None,
    solvers: Annotated[str | None, opt("Which, like adams,unipc; a good few when left out.")] = None,
    grids: Annotated[str | None, opt("Which, like angle_beta,aligned; aligned is fitted to the model.")] = None,
    step_counts: Annotated[str | None, opt("Numbers of sampler steps to try, like 4,8,16.")] = None,
    sigma_mins: Annotated[str | None, opt("Last noisy levels, like 0.05,0.1; each grid's own when left out.")] = None,
    n: Annotated[int, opt("How many samples to judge each setting by; a score takes some hundreds.", None, "-n")] = 64,
    tolerance: Annotated[float, opt("Distance to the exact flow that is near enough, of values from -1 to 1.")] = 0.01,
    by: Annotated[str, opt(BY)] = "flow",
    save_default: Annotated[bool, SAVE] = False,
) -> Result:
    """Find the solver, grid and number of steps that suit a model: quality against cost."""
    if by not in ("flow", "score"):
        raise UsageError(f"--by {by} is no way to recommend: choose flow or score.")
    from undiffuse.evaluation import sweep as sweeping
    from undiffuse.evaluation.sweep_data import sweep_data
    from undiffuse.evaluation.sweep_report import sweep_numbers, sweep_points, sweep_table
    from undiffuse.models.file import MODEL_FILE, store_sampling
    from undiffuse.pictures.pareto import pareto

    run, model = job.run, job.model
    settings = sweeping.settings_for(
        model,
        solvers.split(",") if solvers else sweeping.DEFAULT_SOLVERS,
        grids.split(",") if grids else sweeping.DEFAULT_GRIDS,
        shared.number_list(step_counts, int, "1,2,2") if step_counts else sweeping.DEFAULT_STEPS,
        job.sampling.get("guidance"),
        shared.number_list(sigma_mins, float, "0.05,0.1") if sigma_mins else [None],
    )
    known = sweep_data(run, model, n, data, shared.note)
    if known.data is None and by == "score":
        raise UsageError("a score takes examples to compare with: name some after the run, or leave --by out.")
    swept = sweeping.sweep(
        model,
        settings,
        n=n,
        conditions=known.conditions,
        seed=job.seed,
        data=known.data,
        others=known.others,
        progress=lambda done, total: job.phase("sweeping", done / total),
    )
    best = {"flow": swept.recommended(tolerance), "score": swept.best_score()}
    chosen, flow, lines = best[by], best["flow"], sweep_table(swept, best["flow"], best["score"], known.kinds)
    if by == "flow" and flow is not None and flow.to_reference is not None and flow.to_reference > tolerance:
        lines.append(f"note: no setting came within {tolerance:g} of the exact flow; this is the nearest")
    samples = f"{swept.n} samples of one seed, each setting from the same noise"
    distance = f"Fréchet distance to real examples in {swept.directions} random directions"
    if save_default and chosen is not None:
        store_sampling(run / MODEL_FILE if run.is_dir() else run, chosen.sampling)
    return Result(
        numbers=sweep_numbers(swept, best, by, tolerance),
        numbers_in="sweep.json",
        files={"sweep.png": lambda path: pareto(path, *sweep_points(swept, flow), samples, distance)},
        lines=lines,
        next=_following(run, swept, chosen, by, save_default),
    )


def _following(run: Path, swept: Sweep, best: Tried | None, by: str, saved: bool) -> str:
    """The command after a sweep."""
    if best is None:
        return "sweep solvers that draw no noise as well, to have a distance to recommend by"
    how = best.sampling
    if saved:
        unsure = f", chosen by a score against only {swept.compared:,} examples" if by == "score" and swept.few else ""
        setting = f"{how.solver} on {how.grid}, {how.steps} steps{unsure}"
        return f"{shared.command('sample', run)}  samples with {setting} from now on"
    if how.grid == "aligned":
        return "the same with --save-default, to make it the model's default"
    ends = [] if how.sigma_min is None else ["--sigma-min", f"{how.sigma_min:g}"]
    again = shared.command("sample", run, "--solver", how.solver, "--grid", how.grid, "--steps", how.steps, *ends)
    return f"{again}   (or --save-default to make it the default)"
