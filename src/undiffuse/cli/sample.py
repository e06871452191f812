"""undiffuse sample RUN"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undiffuse.cli import shared
from undiffuse.cli.conditions import CONDITION_VALUES, read_conditions, read_negative
from undiffuse.cli.options import opt
from undiffuse.cli.result import Result
from undiffuse.cli.runner import EVERY_SETTING, GUIDANCE_PANEL, SEED, TRAJECTORY, Job, job_command
from undiffuse.cli.samples import Sampler, draw_trajectories, write_samples
from undiffuse.conditioning.condition_grid import ConditionGrid
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.models.classifier import Classifier

STAGES = "Second stage"
COMPARE = "A row for each value that is listed, of guidance too, and the same noise in each column: -n columns."
INTERVAL = "Only between these sigma/alpha; up to where it beats chance when left out."
UPSCALER = "Make the samples larger by a second stage, see 'train --upscale-factor'."
AUGMENTATION_HELP = (
    "Standard deviation of the noise added to the input of the second stage, in its range, and one of its conditions."
)
FORM = "score, for any solver, or mean, for ancestral steps (ddpm)."
NEGATIVE = "Guide away from this instead of from no condition: NAME=VALUE."
AUTOGUIDANCE = "Guide away from a weaker model: an earlier or smaller run."
LOW_HIGH = opt(INTERVAL, GUIDANCE_PANEL, parse=shared.interval, metavar="LOW,HIGH")


@job_command("sampled", EVERY_SETTING, SEED, TRAJECTORY, CONDITION_VALUES)
def sample(
    job: Job,
    n: Annotated[int | None, opt("How many; ten of each class (or 64) when left out.", None, "-n")] = None,
    compare: Annotated[bool, opt(COMPARE, None, "--compare")] = False,
    start_index: Annotated[int, opt("Index of the first sample of the seed.")] = 0,
    unconditional: Annotated[bool, opt("Leave all conditions out.", None, "--unconditional")] = False,
    negative: Annotated[list[str] | None, opt(NEGATIVE, GUIDANCE_PANEL)] = None,
    autoguidance: Annotated[Path | None, opt(AUTOGUIDANCE, GUIDANCE_PANEL)] = None,
    classifier: Annotated[
        Path | None, opt("Guide by a classifier, see 'undiffuse classifier'.", GUIDANCE_PANEL)
    ] = None,
    classifier_scale: Annotated[float, opt("How strongly; 1 follows Bayes' rule.", GUIDANCE_PANEL)] = 1.0,
    classifier_form: Annotated[str, opt(FORM, GUIDANCE_PANEL)] = "score",
    classifier_interval: Annotated[Any, LOW_HIGH] = None,
    upscaler: Annotated[Path | None, opt(UPSCALER, STAGES)] = None,
    augmentation: Annotated[float | None, opt(AUGMENTATION_HELP, STAGES)] = None,
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
    by = _classifier(job, classifier, classifier_scale, classifier_form, classifier_interval)
    conditions = _conditions(job, unconditional, by)
    guidance = {
        "negative": read_negative(model, negative) if negative else None,
        "autoguidance": load(autoguidance, model.device) if autoguidance else None,
    }
    second, noise = load(upscaler, model.device) if upscaler else None, 0.0
    if second is not None:
        _, noise = check_stages(model, second, augmentation)
    elif augmentation is not None:
        raise UsageError("--augmentation is noise for a second stage: name one with --upscaler.")
    strengths: list[float | None] = [*job.strengths] if len(job.strengths) > 1 else [None]
    guide = {"scale": classifier_scale, "form": classifier_form, "interval": classifier_interval}
    sampler = Sampler(model, conditions, strengths, job.sampling, guidance, by, guide, job.seed, start_index)
    groups, choices = sampler.samples(n, compare), len(sampler.choices())
    if n is not None and choices > 1 and not any(job.condition_texts.values()):
        typer.echo(f"note: no condition is given, so all {choices} classes get an equal share; --class gives one")
    written = write_samples(sampler, groups, compare, job.place.folder, second, noise)
    if job.trajectory:
        return Result(written=[*written, *draw_trajectories(sampler, groups, job.place.folder)])
    return Result(written=written, next=f"{shared.again('--trajectory')}  draws how they came about")


def _classifier(
    job: Job, folder: Path | None, scale: float, form: str, interval: tuple[float, float] | None
) -> Classifier | None:
    """The classifier that guides. Raises UsageError for settings that it cannot have."""
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
    classifier = load_classifier(folder, job.model.device)
    classifier.refuse_other(job.model.config)
    return classifier


def _conditions(job: Job, unconditional: bool, classifier: Classifier | None) -> ConditionGrid:
    """What the options say; every class in turn where they say nothing."""
    from undiffuse.conditioning.classes import ClassConfig

    if unconditional and any(job.condition_texts.values()):
        raise UsageError("--unconditional contradicts the conditions given: leave one out.")
    target = {} if classifier is None else {classifier.config.name: classifier.config.target}
    found = read_conditions(job.model, job.condition_texts, target)
    if found.values or unconditional:
        return found
    for name, config in [*job.model.config.conditions.items(), *target.items()]:
        if isinstance(config, ClassConfig) and not config.retired:
            return ConditionGrid({name: list(config.names)}, {name: list(config.names)})
    return found
