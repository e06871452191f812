"""undiffuse sample RUN"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from undiffuse.cli import asking, shared
from undiffuse.cli.result import Result
from undiffuse.cli.runner import ASKED, EVERY_SETTING, GUIDANCE, SEED, TRAJECTORY, Job, answers
from undiffuse.cli.samples import Plan, draw_trajectory, rows_of, write
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.models.classifier import Classifier
    from undiffuse.models.model import Model

STAGES = "Second stage"


@answers("sampled", EVERY_SETTING, SEED, TRAJECTORY, ASKED)
def sample(
    job: Job,
    n: Annotated[int | None, Option("-n", help="How many; ten of each class (or 64) when left out.")] = None,
    compare: Annotated[
        bool,
        Option(
            "--compare",
            help="A row for each value that is listed, of guidance too, and the same noise in each column: -n columns.",
        ),
    ] = False,
    start_index: Annotated[int, Option(help="Index of the first sample of the seed.")] = 0,
    unconditional: Annotated[bool, Option("--unconditional", help="Leave all conditions out.")] = False,
    negative: Annotated[
        list[str] | None,
        Option(help="Guide away from this instead of from no condition: NAME=VALUE.", rich_help_panel=GUIDANCE),
    ] = None,
    autoguidance: Annotated[
        Path | None, Option(help="Guide away from a weaker model: an earlier or smaller run.", rich_help_panel=GUIDANCE)
    ] = None,
    classifier: Annotated[
        Path | None, Option(help="Guide by a classifier, see 'undiffuse classifier'.", rich_help_panel=GUIDANCE)
    ] = None,
    classifier_scale: Annotated[
        float, Option(help="How strongly; 1 follows Bayes' rule.", rich_help_panel=GUIDANCE)
    ] = 1.0,
    classifier_form: Annotated[
        str, Option(help="score, for any solver, or mean, for ancestral steps (ddpm).", rich_help_panel=GUIDANCE)
    ] = "score",
    classifier_interval: Annotated[
        Any,
        Option(
            parser=shared.interval,
            metavar="LOW,HIGH",
            help="Only between these sigma/alpha; up to where it beats chance when left out.",
            rich_help_panel=GUIDANCE,
        ),
    ] = None,
    upscaler: Annotated[
        Path | None,
        Option(help="Make the samples larger by a second stage, see 'train --upscale-factor'.", rich_help_panel=STAGES),
    ] = None,
    augmentation: Annotated[
        float | None,
        Option(
            help="Standard deviation of the noise added to what the second stage is given, in its range, and told to it.",
            rich_help_panel=STAGES,
        ),
    ] = None,
) -> Result:
    """Make new examples with a trained model."""
    if n is not None and n < 1:
        raise UsageError(f"-n {n} asks for nothing: ask for at least 1.")
    from undiffuse.models.file import load
    from undiffuse.models.restoration import check_stages

    model = job.model
    if model.config.degradations:
        raise UsageError(
            f"this model restores examples ({', '.join(model.config.degradations)}): use {shared.command('restore', job.run)}."
        )
    by = _classifier(model, classifier, classifier_scale, classifier_form, classifier_interval)
    told = _told(job, unconditional, None if by is None else by[0])
    away = {
        "negative": asking.negative(model, negative) if negative else None,
        "autoguidance": load(autoguidance, model.device) if autoguidance else None,
    }
    strengths: list[float | None] = [*job.strengths] if len(job.strengths) > 1 else [None]
    plan = Plan(model, told, strengths, job.sampling, away, by, job.seed, start_index)
    second = load(upscaler, model.device) if upscaler else None
    if second is None and augmentation is not None:
        raise UsageError("--augmentation is noise for a second stage: name one with --upscaler.")
    noise = check_stages(model, second, augmentation)[1] if second else 0.0
    rows = rows_of(plan, n, compare)
    if n is not None and len(plan.choices()) > 1 and not any(job.asked.values()):
        typer.echo(
            f"note: no condition is given, so all {len(plan.choices())} classes get an equal share; --class gives one"
        )
    written = write(plan, rows, compare, job.place.folder, second, noise)
    if job.trajectory:
        draw_trajectory(plan, rows, job.place.folder)
        return Result(written=[*written, "forward.png", "reverse.png", "reverse.gif"])
    return Result(written=written, next=f"{shared.again('--trajectory')}  draws how they came about")


def _classifier(
    model: Model, folder: Path | None, scale: float, form: str, interval: tuple[float, float] | None
) -> tuple[Classifier, dict[str, Any]] | None:
    """A classifier and how it guides. Raises UsageError."""
    from undiffuse.models.classifier import load_classifier

    if folder is None:
        if scale != 1 or form != "score" or interval:
            raise UsageError(
                "--classifier-scale, --classifier-form and --classifier-interval need a classifier: name it with --classifier."
            )
        return None
    if form not in ("score", "mean"):
        raise UsageError(f"there is no form {form!r} of guidance by a classifier: choose score or mean.")
    if interval and not interval[0] < interval[1]:
        raise UsageError("--classifier-interval holds no level: write the lower sigma/alpha first.")
    classifier = load_classifier(folder, model.device)
    classifier.refuse_other(model.config)
    return classifier, {"scale": scale, "form": form, "interval": interval}


def _told(job: Job, unconditional: bool, guide: Classifier | None) -> asking.Asking:
    """What is asked for; every class in turn where nothing is."""
    from undiffuse.conditioning.classes import ClassConfig

    if unconditional and any(job.asked.values()):
        raise UsageError("--unconditional contradicts the conditions given: leave one out.")
    told = asking.read_conditions(job.model, job.asked, {guide.config.name: guide.config.target} if guide else None)
    if told.values or unconditional:
        return told
    classes = [
        (name, c.names)
        for name, c in job.model.config.conditions.items()
        if isinstance(c, ClassConfig) and not c.retired
    ]
    if not classes and guide is not None and guide.config.target.kind == "class":
        classes = [(guide.config.name, guide.config.target.names)]
    return (
        asking.Asking({classes[0][0]: list(classes[0][1])}, {classes[0][0]: list(classes[0][1])}) if classes else told
    )
