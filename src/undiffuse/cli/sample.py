"""undiffuse sample RUN"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from undiffuse.cli import asking, shared
from undiffuse.cli.results import Results, few, fresh_folder
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor

    from undiffuse.models.classifier import Classifier
    from undiffuse.models.model import Model
    from undiffuse.sampling.classifier_guidance import Guide

STRIP_EXAMPLES = 10
MOST_ROWS = 10
COMPARED = 10  # samples of each row, when none are asked for


def sample(
    run: Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")],
    n: Annotated[int | None, Option("-n", help="How many; ten of each class (or 64) when left out.")] = None,
    classes: asking.Classes = None,
    numbers: asking.Numbers = None,
    tags: asking.Tags = None,
    texts: asking.Texts = None,
    vectors: asking.Vectors = None,
    images: asking.Images = None,
    tasks: asking.Tasks = None,
    conditions: asking.Conditions = None,
    unconditional: Annotated[bool, Option("--unconditional", help="Without telling it anything.")] = False,
    compare: Annotated[
        bool,
        Option(
            "--compare",
            help="A row for each value that is listed, of guidance too, and the same noise in each column: -n columns.",
        ),
    ] = False,
    guidance: Annotated[
        str | None, Option(help="Strength of guidance, 1 is plain conditional; or of each condition: class=3,age=1.")
    ] = None,
    guidance_method: Annotated[
        str | None, Option(help="plain, projected (APG) or plus (CFG++, with a guidance of 0 to 1).")
    ] = None,
    guidance_rescale: Annotated[
        float | None, Option(help="Against too much contrast: 0 none to 1, of the plain form.")
    ] = None,
    apg_momentum: Annotated[
        float | None, Option(help="Of the projected form: the share of earlier steps, such as -0.5.")
    ] = None,
    apg_norm_threshold: Annotated[
        float | None, Option(help="Of the projected form: the longest difference that guides.")
    ] = None,
    guidance_interval: Annotated[str | None, Option(help="Guide only between these sigma/alpha: low,high.")] = None,
    negative: Annotated[
        list[str] | None, Option(help="Guide away from this instead of from nothing said: NAME=VALUE.")
    ] = None,
    autoguidance: Annotated[
        Path | None, Option(help="Guide away from a weaker model: an earlier or smaller run.")
    ] = None,
    classifier: Annotated[Path | None, Option(help="Guide by a classifier, see 'undiffuse classifier'.")] = None,
    classifier_scale: Annotated[float, Option(help="How strongly; 1 follows Bayes' rule.")] = 1.0,
    classifier_form: Annotated[
        str, Option(help="score, for any solver, or mean, for ancestral steps (ddpm).")
    ] = "score",
    classifier_interval: Annotated[
        str | None, Option(help="Only between these sigma/alpha: low,high; up to where it beats chance when left out.")
    ] = None,
    solver: Annotated[str | None, Option(help="Listed by 'undiffuse solvers'.")] = None,
    order: Annotated[int | None, Option(help="Of the solver, where it has several.")] = None,
    grid: Annotated[
        str | None,
        Option(
            help="Listed by 'undiffuse solvers', or a spacing like 250 or ddim50; one that suits the solver when left out."
        ),
    ] = None,
    steps: Annotated[int | None, Option(help="Steps of the grid.")] = None,
    sigma_max: Annotated[float | None, Option(help="Where the grid starts: sigma/alpha of its first level.")] = None,
    sigma_min: Annotated[
        float | None, Option(help="Where the grid jumps to the clean estimate: sigma/alpha of its last noisy level.")
    ] = None,
    rho: Annotated[float | None, Option(help="Of the grids karras, 7 when left out, and polyexponential, 1.")] = None,
    steps_offset: Annotated[
        int | None, Option(help="Of the grid leading: added to every index, 1 in Stable Diffusion.")
    ] = None,
    interpolation: Annotated[
        str | None, Option(help="Levels between a chain's indices: linear or log_linear in sigma/alpha.")
    ] = None,
    final_sigma: Annotated[
        str | None, Option(help="Where sampling ends: zero, or schedule, its least noisy level.")
    ] = None,
    eta: Annotated[float | None, Option(help="Noise of ddim, dpm++_sde and sa, 0 to 1.")] = None,
    churn: Annotated[
        float | None, Option(help="EDM's: go back up a little before every step, in all by this much.")
    ] = None,
    restart: Annotated[str | None, Option(help="Walk a stretch of sigma/alpha again: low,high,times.")] = None,
    churn_interval: Annotated[
        str | None, Option(help="Only between these sigma/alpha, EDM's S_tmin and S_tmax: low,high.")
    ] = None,
    s_noise: Annotated[
        float | None, Option(help="EDM's: multiplies the noise of going back up, such as 1.003.")
    ] = None,
    corrections: Annotated[int | None, Option(help="Langevin steps at each level, of pc.")] = None,
    lower_order_final: Annotated[
        bool | None, Option("--lower-order-final", help="The last steps at a lower order, of multistep solvers.")
    ] = None,
    noise: Annotated[str | None, Option(help="independent, or brownian: the same for any number of steps.")] = None,
    variance: Annotated[
        float | None, Option(help="Of ddpm: 0 small, 1 large, between; the model's own when left out.")
    ] = None,
    epsilon_from: Annotated[
        str | None,
        Option(
            help="Which x̂ the noise that sampling goes on with comes from: clipped, or unclipped as diffusers has it."
        ),
    ] = None,
    clip: Annotated[str | None, Option(help="Of the clean estimate: range, dynamic or none.")] = None,
    threshold_quantile: Annotated[
        float | None, Option(help="Of dynamic: which quantile is brought to the end of the range, 0.995.")
    ] = None,
    threshold_max: Annotated[
        float | None, Option(help="Of dynamic: the most that quantile may be, 1 is the end of the range.")
    ] = None,
    seed: Annotated[int, Option(help="Image k of a seed is always the same.")] = 0,
    first: Annotated[int, Option(help="Start at this image of the seed.")] = 0,
    weights: Annotated[str | None, Option(help="ema or online; the better ones when left out.")] = None,
    adapters: Annotated[
        Path | None, Option(help="Tune the model by adapters: a run's adapters/, or a folder that peft wrote.")
    ] = None,
    trajectory: Annotated[
        bool, Option("--trajectory", help="Also draw forward and reverse strips and an animation.")
    ] = False,
    upscaler: Annotated[
        Path | None, Option(help="Make the samples larger by a second stage, see 'train --upscaler'.")
    ] = None,
    augmentation: Annotated[
        float | None,
        Option(
            help="Noise added to what the second stage is shown, in its range, and told to it; 0.1 where that may be."
        ),
    ] = None,
    encoder: asking.Encoder = None,
    download: asking.Download = False,
    out: Annotated[
        Path | None, Option(help="Folder to write to; a new one in the run's sampled/ when left out.")
    ] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, …")] = None,
) -> None:
    """Make new examples with a trained model."""
    if n is not None and n < 1:
        raise UsageError(f"-n {n} asks for nothing: ask for at least 1.")
    shared.check_out(run, "sampled", out)
    from undiffuse.models.classifier import load_classifier
    from undiffuse.models.file import load
    from undiffuse.models.restoration import check_stages

    model = load(run, shared.device(device), weights, encoder, download, adapters)
    shared.say_grid(model, solver, grid)
    guide = load_classifier(classifier, model.device) if classifier else None
    if guide is None and (classifier_scale != 1 or classifier_form != "score" or classifier_interval):
        raise UsageError(
            "--classifier-scale, --classifier-form and --classifier-interval need a classifier: name it with --classifier."
        )
    if classifier_form not in ("score", "mean"):
        raise UsageError(f"there is no form {classifier_form!r} of guidance by a classifier: choose score or mean.")
    options = {
        "class": classes,
        "number": numbers,
        "tags": tags,
        "text": texts,
        "vector": vectors,
        "image": images,
        "task": tasks,
        asking.ANY: conditions,
    }
    told = _told(model, options, unconditional, guide)
    strengths, each = asking.scales(guidance) if guidance is not None else ([], {})
    if len(strengths) > 1 and not compare:
        raise UsageError(
            f"--guidance {guidance} lists several strengths, and one is used at a time: give one, or add --compare."
        )
    settings = shared.settings_given(
        solver=solver,
        order=order,
        grid=grid,
        steps=steps,
        sigma_max=sigma_max,
        sigma_min=sigma_min,
        rho=rho,
        steps_offset=steps_offset,
        interpolation=interpolation,
        final_sigma=final_sigma,
        eta=eta,
        variance=variance,
        clip=clip,
        epsilon_from=epsilon_from,
        churn=churn,
        corrections=corrections,
        noise_sampler=noise,
        restart=shared.stretch(restart) if restart else None,
        churn_interval=shared.interval(churn_interval) if churn_interval else None,
        s_noise=s_noise,
        lower_order_final=lower_order_final,
        threshold_quantile=threshold_quantile,
        threshold_max=threshold_max,
        guidance_method=guidance_method,
        guidance_rescale=guidance_rescale,
        guidance_scales=each or None,
        apg_momentum=apg_momentum,
        apg_norm_threshold=apg_norm_threshold,
        guidance_interval=shared.interval(guidance_interval) if guidance_interval else None,
    )
    away = {
        "negative": asking.negative(model, negative) if negative else None,
        "autoguidance": load(autoguidance, model.device) if autoguidance else None,
    }
    within = tuple(shared.interval(classifier_interval)) if classifier_interval else None
    if within and not within[0] < within[1]:
        raise UsageError(
            f"--classifier-interval {classifier_interval} holds no level: write the lower sigma/alpha first."
        )
    by = (guide, {"scale": classifier_scale, "form": classifier_form, "interval": within}) if guide else None
    job = Job(model, told, [*strengths] or [None], settings, away, by, seed, first)
    if model.config.degradations:
        tasks_ = ", ".join(model.config.degradations)
        raise UsageError(
            f"this model makes examples of what is left of them ({tasks_}): use {shared.command('restore', run)}."
        )
    second = load(upscaler, model.device) if upscaler else None
    if second is None and augmentation is not None:
        raise UsageError("--augmentation is noise for a second stage: name one with --upscaler.")
    strength = check_stages(model, second, augmentation)[1] if second else 0.0
    rows = _rows(job, n, compare)
    if n is not None and len(job.choices()) > 1 and not any(options.values()):
        typer.echo(
            f"note: nothing is asked for, so all {len(job.choices())} classes get an equal share; --class asks for one"
        )
    with fresh_folder(run, "sampled", out) as folder:
        written = _write(job, rows, compare, folder, second, strength)
        if trajectory:
            _draw_trajectory(job, rows, folder)
            written += ", forward.png, reverse.png, reverse.gif"
    typer.echo(f"wrote {folder}/: {written}")
    if not trajectory:
        typer.echo(f"next: {shared.again('--trajectory')}  draws how they came about")


@dataclass(frozen=True)
class Job:
    """What is to be sampled.   by: a classifier, and how it guides."""

    model: Model
    told: asking.Asking
    strengths: list[float | None]
    settings: dict[str, Any]
    away: dict[str, Any]
    by: tuple[Classifier, dict[str, Any]] | None
    seed: int
    first: int

    def how(self, strength: float | None) -> dict[str, Any]:
        """The sampling settings, with this strength of guidance where one is given."""
        return self.settings | ({} if strength is None else {"guidance": strength})

    def choices(self) -> list[tuple[dict[str, Any], float | None, str, list[str]]]:
        """Every combination of values and strengths: (conditions, strength, label, cells of a table)."""
        found = []
        for strength in self.strengths:
            for conditions, label, cells in zip(
                self.told.combinations(), self.told.labels(), self.told.cells(), strict=True
            ):
                mark = f"guidance {strength:g}" if len(self.strengths) > 1 else ""
                found.append((conditions, strength, ", ".join(part for part in (label, mark) if part), cells))
        return found

    def split(self, each: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Conditions of examples → (those of the model, what pulls samples, with what only the classifier reads)."""
        columns: dict[str, Any] = {name: [conditions.get(name) for conditions in each] for name in self.told.values}
        guides: tuple[Guide, ...] = ()
        if self.by is not None:
            classifier, how = self.by
            target = classifier.config.name
            if target not in columns:
                kind = classifier.config.target.kind
                raise UsageError(
                    f"the classifier guides towards a value of {target!r}: say which, as in --{kind} {target}=…"
                )
            guides = (classifier.guide(columns[target], len(each), **how),)
            if target not in self.model.denoiser.conditions.settable:
                del columns[target]
        return columns, self.away | {"guides": guides}


def _told(
    model: Model, options: dict[str, list[str] | None], unconditional: bool, guide: Classifier | None
) -> asking.Asking:
    """What is asked for; every class in turn where nothing is."""
    from undiffuse.conditioning.classes import ClassConfig

    if unconditional and any(options.values()):
        raise UsageError("--unconditional contradicts what is asked for: give one.")
    if guide is not None:
        guide.refuse_other(model.config)
    told = asking.read_conditions(model, options, {guide.config.name: guide.config.target} if guide else None)
    if told.values or unconditional:
        return told
    classes = [
        (name, c.names) for name, c in model.config.conditions.items() if isinstance(c, ClassConfig) and not c.retired
    ]
    if not classes and guide is not None and guide.config.target.kind == "class":
        classes = [(guide.config.name, guide.config.target.names)]
    return (
        asking.Asking({classes[0][0]: list(classes[0][1])}, {classes[0][0]: list(classes[0][1])}) if classes else told
    )


@dataclass(frozen=True)
class Row:
    """One sample to be made.   index: of the seed.   cells: of the table."""

    conditions: dict[str, Any]
    strength: float | None
    label: str
    cells: list[str]
    index: int


def _rows(job: Job, n: int | None, compare: bool) -> list[Row]:
    """The samples in the order in which they are made: strength after strength, each in the order of the choices."""
    choices = job.choices()
    if compare:
        per, total = n or COMPARED, (n or COMPARED) * len(choices)
    else:
        total = n or (10 * len(choices) if 1 < len(choices) <= MOST_ROWS else 64)
        per = math.ceil(total / len(choices))
    rows = [Row(*choices[k // per], job.first + (k % per if compare else k)) for k in range(total)]
    return [row for strength in job.strengths for row in rows if row.strength == strength]


def _batches(job: Job, rows: list[Row], bar: Progress) -> Iterator[tuple[list[Row], Tensor]]:
    """The samples of rows, some at a time, with a bar for each strength. Complains before anything is drawn."""
    from undiffuse.models.guidance import Guidance, validate

    model = job.model
    groups = [[row for row in rows if row.strength == strength] for strength in job.strengths]
    asked = [job.split([row.conditions for row in group]) for group in groups]
    for group, (conditions, pulls), strength in zip(groups, asked, job.strengths, strict=True):
        validate(model, model.sampling_config(**job.how(strength)), Guidance(**pulls), conditions)
        model.denoiser.conditions.encode(conditions, len(group))
    for group, (conditions, pulls), strength in zip(groups, asked, job.strengths, strict=True):
        each = len(model.sampling_config(**job.how(strength)).build_levels(model.schedule)) - 1
        progress = shared.steps(
            bar, "sampling" if strength is None or len(groups) == 1 else f"guidance {strength:g}", each
        )
        done, which = 0, [row.index for row in group]
        for values in model.sample_in_batches(
            len(group),
            conditions,
            seed=job.seed,
            index=which,
            progress=progress,
            **pulls,
            **job.how(strength),
        ):
            yield group[done : done + len(values)], values
            done += len(values)


def _write(job: Job, rows: list[Row], compare: bool, folder: Path, second: Model | None, augmentation: float) -> str:
    """Samples, and makes them larger where there is a second stage; returns what was written."""
    from undiffuse.pictures.views import compared_grid, samples_grid

    labels = [row.label for row in rows]
    shown = few(labels)
    small = Results(folder, "samples", "images", job.model.config.codec, len(rows), shown)
    large = None if second is None else Results(folder, "enlarged", "enlarged", second.config.codec, len(rows), shown)
    with shared.progress_bar(shared.STEPS) as bar:
        enlarging = None if second is None else shared.steps(bar, "enlarging")
        for some, values in _batches(job, rows, bar):
            small.add(values)
            if second is not None and large is not None:
                large.add(_enlarged(job, second, some, values, augmentation, enlarging))
    _write_table(job, rows, folder / "samples.csv")
    labels = [labels[k] for k in shown]
    left_out = "" if len(shown) == len(rows) else f" ({len(shown)} of them shown)"
    constant = ", ".join(f"{name} {values[0]}" for name, values in job.told.shown.items() if len(values) == 1)
    title, captions = (
        f"{len(rows)} samples{left_out}, seed {job.seed}" + (f", {constant}" if constant else ""),
        len(set(labels)) > len(labels) / 2,
    )
    few_, codec = small.finish(), job.model.codec
    if compare:
        page = compared_grid(few_, codec, list(dict.fromkeys(labels)), f"The same noise in each column: {title}")
    else:
        page = samples_grid(few_, codec, labels, title, captions=captions)
    page.save(folder / "grid.png")
    written = "grid.png, images/, samples.npy, samples.csv"
    if second is None or large is None:
        return written
    title = f"{len(rows)} samples of two stages{left_out}, seed {job.seed}, augmentation {augmentation:g}"
    samples_grid(large.finish(), second.codec, labels, title, captions=captions).save(folder / "enlarged.png")
    return f"{written}, enlarged.png, enlarged/, enlarged.npy"


def _enlarged(
    job: Job,
    second: Model,
    rows: list[Row],
    values: Tensor,
    augmentation: float,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """Samples made larger by a second stage, told the same."""
    from undiffuse.models.restoration import upscale_samples

    told = {
        name: [row.conditions.get(name) for row in rows]
        for name in job.told.values
        if name in second.denoiser.conditions.settable
    }
    which = [row.index for row in rows]
    return upscale_samples(
        second, values, augmentation=augmentation, conditions=told, seed=job.seed, index=which, progress=progress
    )


def _write_table(job: Job, rows: list[Row], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "seed", "index", *job.told.values])
        for k, row in enumerate(rows):
            table.writerow([f"images/{k:05d}.png", job.seed, row.index, *row.cells])


def _draw_trajectory(job: Job, rows: list[Row], folder: Path) -> None:
    """Strips of the first sample, and an animation of one sample per row."""
    import torch

    from undiffuse.pictures.edits import Walk
    from undiffuse.pictures.views import animate_reverse, forward_strip, reverse_strip
    from undiffuse.sampling.spacings import uniform

    model, walk = job.model, Walk(job.model.codec.shape)
    each = list({row.label: row for row in reversed(rows)}.values())[::-1]
    which = each if len(each) > 1 else rows
    for k, row in enumerate(which[: min(STRIP_EXAMPLES, len(walk.examples))]):
        told, pulls = job.split([row.conditions])
        for moment in model.trajectory(1, told, seed=job.seed, first=row.index, **pulls, **job.how(row.strength)):
            walk.see("down", moment, torch.tensor([k]))
    moments = [moment for _, moment in walk.moments]
    reverse_strip(moments, model.codec).save(folder / "reverse.png")
    levels = getattr(model.schedule, "levels", None) or uniform(model.schedule, 200)
    forward_strip(moments[-1].x[0], levels, model.codec, job.seed).save(folder / "forward.png")
    animate_reverse(moments, model.codec, folder / "reverse.gif")
