"""What inpaint, upscale, colorize and deblur share: their options, and how their answers are shown and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer
from typer import Option

from undiffuse.cli import asking, edits, shared

if TYPE_CHECKING:
    import numpy as np

    from undiffuse.models.inverse_methods import InverseMethod, Solution
    from undiffuse.models.model import Model

N = Annotated[int, Option("-n", help="Answers for each image: there are many that fit.")]
MethodName = Annotated[
    str,
    Option(
        "--method",
        help="dps, pigdm, exact, replace, and for masks repaint; docs/measurements/inverse-problems.md compares them.",
    ),
]
Iterations = Annotated[int | None, Option(help="Of conjugate gradients, of exact: more is truer and slower.")]
Zeta = Annotated[
    float | None,
    Option(
        help="Length of the steps of dps: longer obeys the image more and the model less; by the size when left out."
    ),
]
Times = Annotated[int | None, Option(help="How often repaint walks each stretch.")]
Solver = Annotated[
    str | None, Option(help="Listed by 'undiffuse solvers'; the model's or the method's own when left out.")
]
Steps = Annotated[int | None, Option(help="Of the grid; the model's or the method's own when left out.")]
Guidance = Annotated[float | None, Option(help="Strength of guidance, 1 is plain conditional.")]
Seed = Annotated[int, Option(help="Of the noise, and of a random mask.")]
Noise = Annotated[
    float | None,
    Option(help="Of the image given, a standard deviation in its own units; that of rounding when left out."),
]


@dataclass(frozen=True)
class Job:
    """What was asked for, whatever the task.   sampling: settings that were given."""

    run: Path
    model: Model
    approach: InverseMethod
    conditions: dict[str, object]
    sampling: dict[str, Any]
    n: int
    seed: int
    trajectory: bool
    out: Path | None


@dataclass(frozen=True)
class Options:
    """The options that all of these commands have, as they were typed."""

    n: N = 4
    method: MethodName = "dps"
    iterations: Iterations = None
    zeta: Zeta = None
    classes: asking.Classes = None
    numbers: asking.Numbers = None
    tags: asking.Tags = None
    texts: asking.Texts = None
    guidance: Guidance = None
    solver: Solver = None
    steps: Steps = None
    seed: Seed = 0
    weights: edits.Weights = None
    trajectory: edits.Trajectory = False
    out: edits.Out = None
    device: edits.Device = None

    def job(self, run: Path, times: int | None = None) -> Job:
        """Raises UsageError for settings that make no sense, before anything is read."""
        shared.check_out(run, "edited", self.out)
        from undiffuse.models.file import load
        from undiffuse.models.inverse_methods import InverseMethod

        approach = InverseMethod(
            self.method,  # type: ignore[arg-type]
            **shared.settings_given(iterations=self.iterations, dps_step_size=self.zeta, jump_repeats=times),
        )
        model = load(run, shared.device(self.device), self.weights)
        shared.say_grid(model, self.solver)
        told = edits.told(model, {"class": self.classes, "number": self.numbers, "tags": self.tags, "text": self.texts})
        settings = shared.settings_given(guidance=self.guidance, solver=self.solver, steps=self.steps)
        return Job(run, model, approach, told, settings, self.n, self.seed, self.trajectory, self.out)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every one of Options, which it takes last and together, as an option of its own."""
    kinds = get_type_hints(Options, include_extras=True)
    own = list(signature(command, eval_str=True).parameters.values())[:-1]
    common = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=kinds[field.name])
        for field in fields(Options)
    ]

    @wraps(command)
    def separate(**typed: Any) -> None:
        together = Options(**{parameter.name: typed.pop(parameter.name) for parameter in common})
        command(**typed, options=together)

    separate.__signature__ = Signature(  # type: ignore[attr-defined]
        [*(parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own), *common]
    )
    return separate


def solved(
    job: Job,
    solve: Callable[..., Solution],
    title: str,
    shown: Callable[[Solution], Sequence[tuple[str, Sequence[np.ndarray]]]],
    names: Sequence[str],
    task: Mapping[str, Any],
    following: str,
) -> None:
    """Solves, draws, writes and prints.

    solve: of the settings that all tasks take.   shown: the rows before the answers.
    task: what else is to be written down.   following: the command to type next.
    """
    from undiffuse.models.inverse_methods import method_config, method_levels
    from undiffuse.pictures import edits as pictures

    codec = job.model.codec
    how = method_config(job.model, job.approach, overrides=job.sampling)
    steps = len(method_levels(job.model, job.approach, how)) - 1
    walk = edits.walk_of(job.model, job.trajectory)
    with shared.steps_bar("walking", steps) as progress:
        result = solve(
            n=job.n,
            method=job.approach,
            conditions=job.conditions,
            seed=job.seed,
            watch=walk.see if walk else None,
            progress=progress,
            **job.sampling,
        )
    folder = shared.result_folder(job.run, "edited", job.out)
    answers = [
        (f"answer {k + 1}" if job.n > 1 else "answer", pictures.pictures_of(result.values[:, k], codec))
        for k in range(job.n)
    ]
    pictures.draw_rows(
        [*shown(result), *answers], f"{title}: {job.approach.method}, {how.solver}, {steps} steps", names
    ).save(folder / "picture.png")
    each = [f"{name}-{k}" for name in names for k in range(job.n)]
    numbers = {
        **task,
        "method": job.approach.method,
        "conditions": {name: str(value) for name, value in job.conditions.items()},
        "n": job.n,
        "seed": job.seed,
        "steps": steps,
        "solver": how.solver,
        "misfit": dict(zip(names, result.misfit.tolist(), strict=True)),
        "misfit_means": "root mean square of y - A x, in the model's range",
    }
    results = {"answers": (each, result.values.flatten(0, 1)), "seen": (names, result.observed)}
    written = ["picture.png", *edits.write_results(folder, job.model, results, numbers)]
    if walk is not None:
        pictures.strip(walk, codec, f"{title}: {names[0]}").save(folder / "trajectory.png")
        pictures.animation(walk, codec, folder / "trajectory.gif", each)
        written += ["trajectory.png", "trajectory.gif"]
    typer.echo(f"wrote {folder}/: {', '.join(written)}")
    typer.echo(f"next: {following}")
