"""undiffuse sweep RUN"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from undiffuse.cli import shared
from undiffuse.cli.result import Result
from undiffuse.cli.runner import GUIDED, SEED, Job, answers
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from undiffuse.evaluation.jackknife import Estimate
    from undiffuse.evaluation.sweep import Sweep, Tried
    from undiffuse.models.model import Model
    from undiffuse.runs.data import RunData

MOST_COMPARED, MOST_NUMBERS = 5000, 2**25  # examples that samples are scored against, and numbers in all of them


@answers("sweep", GUIDED, SEED)
def sweep(
    job: Job,
    data: Annotated[
        str | None, Argument(metavar="[DATA]", help="Examples to score against; those the run held out when left out.")
    ] = None,
    solvers: Annotated[str | None, Option(help="Which, like adams,unipc; a good few when left out.")] = None,
    grids: Annotated[str | None, Option(help="Which, like angle_beta,aligned; aligned is fitted to the model.")] = None,
    step_counts: Annotated[str | None, Option(help="Numbers of sampler steps to try, like 4,8,16.")] = None,
    sigma_mins: Annotated[
        str | None, Option(help="Last noisy levels, like 0.05,0.1; each grid's own when left out.")
    ] = None,
    n: Annotated[
        int, Option("-n", help="How many samples to judge each setting by; a score takes some hundreds.")
    ] = 64,
    tolerance: Annotated[
        float, Option(help="Distance to the exact flow that is near enough, of values from -1 to 1.")
    ] = 0.01,
    by: Annotated[
        str, Option(help="Recommend by flow, how near to the exact flow, or by score, how like examples it never saw.")
    ] = "flow",
    save_default: Annotated[
        bool, Option("--save-default", help="Make the recommended setting the model's default.")
    ] = False,
) -> Result:
    """Find the solver, grid and number of steps that suit a model: quality against cost."""
    if by not in ("flow", "score"):
        raise UsageError(f"--by {by} is no way to recommend: choose flow or score.")
    from undiffuse.evaluation import sweep as sweeping
    from undiffuse.models.file import MODEL_FILE, store_sampling

    run, model = job.run, job.model
    settings = sweeping.settings_for(
        model,
        solvers.split(",") if solvers else sweeping.DEFAULT_SOLVERS,
        grids.split(",") if grids else sweeping.DEFAULT_GRIDS,
        shared.integers(step_counts) if step_counts else sweeping.DEFAULT_STEPS,
        job.sampling.get("guidance"),
        shared.numbers(sigma_mins) if sigma_mins else [None],
    )
    known = _known(run)
    real, others, kinds = _real(run, data, model, known, n)
    if real is None and by == "score":
        raise UsageError("a score takes examples to compare with: name some after the run, or leave --by out.")
    swept = sweeping.sweep(
        model,
        settings,
        n=n,
        conditions=_asked(run, model, known, n),
        seed=job.seed,
        data=real,
        others=others,
        progress=lambda done, total: job.phase("sweeping", done / total),
    )
    best = {"flow": swept.recommended(tolerance), "score": swept.best_score()}
    if save_default and (chosen := best[by]) is not None:
        store_sampling(run / MODEL_FILE if run.is_dir() else run, chosen.sampling)
    return Result(
        numbers=_content(swept, best, by, tolerance),
        numbers_in="sweep.json",
        files={"sweep.png": lambda path: _draw(swept, best["flow"], path)},
        lines=_table(swept, best["flow"], best["score"], kinds) + _missed(best["flow"], by, tolerance),
        next=_following(run, swept, best[by], by, save_default),
    )


def _missed(best: Tried | None, by: str, tolerance: float) -> list[str]:
    """A note where the recommended setting is not near enough."""
    if by != "flow" or best is None or best.to_reference is None or best.to_reference <= tolerance:
        return []
    return [f"note: no setting came within {tolerance:g} of the exact flow; this is the nearest"]


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


def _known(run: Path) -> RunData | UsageError:
    """What the run was trained on, or why that is not to be found."""
    from undiffuse.runs.data import run_data

    try:
        return run_data(run, "name some after the run")
    except UsageError as error:
        return error


def _asked(run: Path, model: Model, known: RunData | UsageError, n: int) -> dict[str, object]:
    """Conditions for n samples: what held-out examples of the run's data say, or, where there are none, the classes in turn."""
    from undiffuse.conditioning.classes import ClassConfig
    from undiffuse.runs.data import conditions_of

    conditions = model.denoiser.conditions
    classes = {
        name: c.names for name, c in model.config.conditions.items() if isinstance(c, ClassConfig) and not c.retired
    }
    if isinstance(known, UsageError):
        if set(classes) != set(conditions.settable):
            raise known
        return {name: [names[k % len(names)] for k in range(n)] for name, names in classes.items()}
    rows = known.held_out if len(known.held_out) else known.training
    told = conditions_of(run, known.data[rows[[k % len(rows) for k in range(n)]]])
    return {name: values for name, values in told.items() if name in conditions.settable}


def _real(
    run: Path, data: str | None, model: Model, known: RunData | UsageError, n: int
) -> tuple[Tensor | None, Tensor | None, tuple[str, str]]:
    """(examples to score against, n others for the floor, what both are called), in the model's range; None, with a note, where none are at hand."""
    from undiffuse.rng import GeneratorStream, permuted
    from undiffuse.runs.data import named_data, random_subset

    most = max(n, min(MOST_COMPARED, MOST_NUMBERS // math.prod(model.config.codec.shape)))
    other = None if data is None else named_data(run, data)
    for note in () if other is None else other[0].notes:
        shared.note(note)
    if other is not None and not other[1]:
        order = permuted(GeneratorStream.COMPARED, len(other[0]))
        aside = n if len(order) >= 4 * n else 0
        spared, held = other[0][order[:aside]], other[0][order[aside : aside + most]]
        kinds = (f"examples of {data}", f"others of {data}")
    elif isinstance(known, UsageError) or not len(known.held_out):
        typer.echo(
            f"note: no scores: {known if isinstance(known, UsageError) else 'the run held no examples out: name some after the run.'}"
        )
        return None, None, ("", "")
    else:
        held, spared = (
            random_subset(known.data[known.held_out], most, 1),
            random_subset(known.data[known.training], n, 1),
        )
        kinds = ("held-out examples", "training examples")
    return (
        model.codec.encode_parts(held.values),
        model.codec.encode_parts(spared.values) if len(spared) >= n else None,
        kinds,
    )


def _row(tried: Tried) -> dict[str, object]:
    how = tried.sampling
    return {
        "solver": how.solver,
        "grid": how.grid,
        "steps": how.steps,
        "sigma_min": how.sigma_min,
        "logsnrs": how.logsnrs,
        "guidance": how.guidance,
        "evaluations": tried.evaluations,
        "seconds": round(tried.seconds, 4),
        "to_reference": tried.to_reference,
        **_numbers(tried.score),
    }


def _numbers(score: Estimate | None) -> dict[str, object]:
    """Of a score; strict JSON has no NaN, which an error is where samples are too few for one."""
    return {
        "to_data": None if score is None else score.value,
        "to_data_error": None if score is None or not score.without else score.error,
    }


def _told(score: Estimate | None) -> str:
    return "-" if score is None else f"{score.value:.4g} ± {score.error:.2g}" if score.without else f"{score.value:.4g}"


def _table(swept: Sweep, flow: Tried | None, score: Tried | None, kinds: tuple[str, str]) -> list[str]:
    """The front, cheapest first, and what scores best.   kinds: of examples, those scored against and those of the floor."""
    from undiffuse.evaluation.sweep import EACH_DIRECTION

    head = f"{'solver':14} {'grid':12} {'last level':>10} {'evaluations':>11} {'seconds':>8} {'to the flow':>12} {'score':>18}"
    rows, lines = swept.front(), [head]
    if score is not None and score not in rows:
        rows = sorted([*rows, score], key=lambda t: t.evaluations)
    for tried in rows:
        how = tried.sampling
        last = "own" if how.sigma_min is None else f"{how.sigma_min:g}"
        near = "-" if tried.to_reference is None else f"{tried.to_reference:.4g}"
        marks = [words for words, best in (("near enough to the flow", flow), ("by score", score)) if tried is best]
        lines.append(
            f"{how.solver:14} {how.grid:12} {last:>10} {tried.evaluations:11d} {tried.seconds:8.2f} {near:>12} {_told(tried.score):>18}"
            + (f"   <- recommended: {' and '.join(marks)}" if marks else "")
        )
    if score is not None:
        lines.append(
            f"score: Fréchet distance to {swept.compared:,} {kinds[0]} in {swept.directions} random directions, less is better"
        )
        lines.append(
            f"floor: {_told(swept.floor)}, of {swept.n} {kinds[1]}"
            if swept.floor
            else "floor: -, too few examples to spare"
        )
    if score is not None and swept.few:
        wanted = EACH_DIRECTION * swept.directions
        lines.append(
            f"note: {swept.compared:,} examples are few to score against, and may not tell settings apart: {wanted} or more, which can be named "
            f"after the run, say more"
        )
    return lines


def _content(swept: Sweep, best: dict[str, Tried | None], by: str, tolerance: float) -> dict[str, object]:
    """sweep.json."""
    return {
        "n": swept.n,
        "reference_evaluations": swept.reference,
        "tolerance": tolerance,
        "unit": "median rms per number, of values from -1 to 1",
        "floor": _numbers(swept.floor),
        "by": by,
        "recommended": _row(chosen) if (chosen := best[by]) else None,
        "recommended_by": {name: _row(tried) if tried else None for name, tried in best.items()},
        "front": [_row(t) for t in swept.front()],
        "tried": [_row(t) for t in swept.tried],
    }


def _draw(swept: Sweep, flow: Tried | None, path: Path) -> None:
    """sweep.png: distance to the flow, and score, against evaluations.   flow: the setting that is recommended by it."""
    from undiffuse.pictures.pareto import Point, pareto

    reference: dict[tuple[str, str], list[Point]] = {}
    data: dict[tuple[str, str], list[Point]] = {}
    for tried in swept.tried:
        name, score = (tried.sampling.solver, tried.sampling.grid), tried.score
        for panel, value in ((reference, tried.to_reference), (data, None if score is None else score.value)):
            if value is not None:
                panel.setdefault(name, []).append((tried.evaluations, value))
    pareto(
        path,
        reference,
        data,
        [(t.evaluations, t.to_reference) for t in swept.front() if t.to_reference is not None],
        None if flow is None or flow.to_reference is None else (flow.evaluations, flow.to_reference),
        f"{swept.n} samples of one seed, each setting from the same noise",
        f"Fréchet distance to real examples in {swept.directions} random directions",
    )
