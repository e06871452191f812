"""undiffuse train DATA"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from inspect import Parameter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument

from undiffuse.cli import shared
from undiffuse.cli.conditions import Texts, balanced, declared, kinds_of_columns, shares
from undiffuse.cli.following import follow, follow_autoencoder
from undiffuse.cli.options import assignments, not_none, opt, option, parameter, with_options
from undiffuse.cli.place import refuse_unwritable
from undiffuse.cli.shared import rates, seconds, span
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.runs.prepare import Plan

PROCESS, START, SMALL_DATA = "Diffusion process", "Fine-tuning and second stages", "Small and uneven data"
AUGMENT_HELP = (
    "Change training examples: shift, flip, flip_vertical, turn, rotate:15, scale:0.1, stretch, translate, colour:0.1. The model is told, so "
    "samples show none of it; mirror is not told, and they do."
)
BALANCE_HELP = "Draw rare classes more often: 0 as they are, 1 all alike. Samples made without a class then show rare ones as often."
# Options of one setting each: by panel their paths in a design; the classes that have the fields of its parts; flags of their own.
DESIGN_OPTIONS = {
    None: ("training.steps", "training.batch_size", "training.learning_rate", "training.seed"),
    "Training": ("training.precision", "training.deterministic", "training.objective", "training.weight"),
    "Network": ("network.width", "network.depth", "network.multipliers", "network.attention", "network.dropout"),
    PROCESS: ("schedule.name", "schedule.T", "prediction", "variance_type"),
}
DESIGN_PARTS = {"": "Design", "training": "TrainingConfig", "network": "UNetConfig", "schedule": "ScheduleConfig"}
OWN_FLAGS = {"steps": "--train-steps", "learning_rate": "--lr", "name": "--schedule", "T": "--T"}
SOURCES_HELP = "digits, a folder of images (sub-folders are classes), a .csv naming them, .npy, .npz or idx.gz"
PRESETS_HELP = (
    "digits, or a paper's: ddpm_cifar10, iddpm_cifar10, …imagenet64, adm_imagenet64, …128, …256, edm_ddpmpp_cifar10, "
    "edm_ncsnpp_cifar10, dit_s, …b, …l, …xl."
)
DATA_OPTIONS = (
    "fit",
    "channels",
    "variable",
    "layout",
    "max_pixels",
    "shrink",
    "complex",
    "nodata",
    "missing",
    "table",
    "group",
)
COLUMNS = {
    "class": "A column of names",
    "tags": "A column of any number of names each",
    "number": "A column of numbers",
    "text": "A column of texts",
    "vector": "Embeddings of your own, like emb.npy",
    "image": "Pictures: masks, smaller versions, edges",
    "task": "A column that names one of several tasks",
}


def _of_design(path: str, panel: str | None) -> Parameter:
    part, _, name = path.rpartition(".")
    as_ = path.replace(".", "__")
    return option(DESIGN_PARTS[part], name, flag=OWN_FLAGS.get(name), panel=panel, default="the preset's", as_=as_)


def _of_columns(kind: str, what: str) -> Parameter:
    text = f"{what}, as a condition; NAME=COLUMN names it; may be repeated."
    return parameter(f"{kind}_", Annotated[list[str] | None, opt(text, "Conditions", f"--{kind}", metavar="COLUMN")])


TRAIN_OPTIONS = [
    *(_of_design(path, panel) for panel, paths in DESIGN_OPTIONS.items() for path in paths),
    *(option("DataConfig", name, panel="Data") for name in DATA_OPTIONS),
    *(_of_columns(kind, what) for kind, what in COLUMNS.items()),
]


def train(
    data: Annotated[str | None, Argument(metavar="DATA", help=SOURCES_HELP, show_default=False)] = None,
    name: Annotated[str | None, opt("Name of the run; the data's when left out.")] = None,
    budget: Annotated[Any, opt("Train for so long: 90s, 15m, 2h.", parse=seconds)] = None,
    preset: Annotated[str | None, opt(PRESETS_HELP)] = None,
    device: Annotated[str | None, opt("cpu, cuda, …")] = None,
    more: Annotated[
        Texts, opt("Any other setting, such as training.clip=0.5.", None, "--set", metavar="SETTING=VALUE")
    ] = None,
    network: Annotated[str | None, opt("unet, transformer, mlp or autoencoder, not the preset's.", "Network")] = None,
    betas: Annotated[Any, opt("First and last beta of 1000 steps: 0.0001,0.02.", PROCESS, parse=rates)] = None,
    size: Annotated[Any, opt("Resize images: 64, or height×width as 48x80.", "Data", parse=shared.size)] = None,
    range_: Annotated[
        Any, opt("Black and white: 0,255; found from the values when left out.", "Data", "--range", parse=span)
    ] = None,
    column: Annotated[
        Texts, opt("Of a table: what a column is, such as zip=category; may be repeated.", "Data", metavar="NAME=KIND")
    ] = None,
    relation: Annotated[
        Texts, opt("Of a table: what holds in every row, 'start < end' or 'total = a + b'; may be repeated.", "Data")
    ] = None,
    held_out: Annotated[str | None, opt("Examples for validation: a share, 0.1, or a number, 100.", "Data")] = None,
    others: Annotated[Texts, opt("Any condition: NAME=KIND, or NAME=KIND:COLUMN.", "Conditions", "--condition")] = None,
    unconditional: Annotated[bool, opt("Leave all conditions out.", "Conditions", "--unconditional")] = False,
    condition_dropout: Annotated[
        Texts, opt("Probability that training leaves a condition out: 0.1, or NAME=0.2 for one.", "Conditions")
    ] = None,
    inject: Annotated[Texts, opt("How it enters: NAME=embedding, concat or cross_attention.", "Conditions")] = None,
    encoder: Annotated[
        str | None, opt("Of texts: words (trained along), or a folder or hub name of a BERT or GPT.", "Conditions")
    ] = None,
    pooling: Annotated[str | None, opt("Of a transformer's states: mean, last or tokens.", "Conditions")] = None,
    download: Annotated[bool, opt("Let a text encoder be fetched from the hub.", "Conditions", "--download")] = False,
    from_plan: Annotated[
        Path | None, opt("Follow a plan.json, as 'inspect' writes it; other options win over it.", None, "--plan")
    ] = None,
    dry_run: Annotated[
        bool, opt("Draw the first batches, measure an update, and stop: nothing is trained.", None, "--dry-run")
    ] = False,
    start: Annotated[Path | None, opt("Fine-tune the weights of a run folder or model file.", START, "--from")] = None,
    adapter_rank: Annotated[int | None, opt("Fine-tune by adapters (LoRA) of this rank, such as 8.", START)] = None,
    degradation: Annotated[
        str | None, opt("Train to restore: inpaint,upscale:4,colorize,deblur:1.5,denoise; then 'restore'.", START)
    ] = None,
    upscale_factor: Annotated[int | None, opt("Train a second stage, which enlarges so many times.", START)] = None,
    augment: Annotated[str | None, opt(AUGMENT_HELP, SMALL_DATA, metavar="A,B:AMOUNT,…")] = None,
    augment_probability: Annotated[
        float | None,
        opt("Probability of each augmentation; 0.12 when left out. Alone: of shifts by a pixel.", SMALL_DATA),
    ] = None,
    balance: Annotated[str | None, opt(BALANCE_HELP, SMALL_DATA, metavar="SHARE|NAME=SHARE")] = None,
    latent: Annotated[bool, opt("Train an autoencoder first; diffuse in its latents.", "Latents", "--latent")] = False,
    latent_downsample: Annotated[
        int | None, opt("The autoencoder's downsampling factor: 2, 4 or 8; 4 when left out.", "Latents")
    ] = None,
    autoencoder: Annotated[
        Path | None, opt("Diffuse in the latents of this: a run's, or of diffusers.", "Latents")
    ] = None,
    latent_train_steps: Annotated[int | None, opt("Training updates of the autoencoder.", "Latents")] = None,
    latent_budget: Annotated[
        Any, opt("Train the autoencoder for so long; a third of --budget when left out.", "Latents", parse=seconds)
    ] = None,
    runs: Annotated[Path, opt("Where run folders are.", "Run folder")] = Path("runs"),
    change_settings: Annotated[
        bool, opt("Go on in a run folder with other training settings.", "Run folder", "--change-settings")
    ] = False,
    checkpoint_every: Annotated[
        Any, opt("How often to save; at most a twentieth of the time.", "Run folder", parse=seconds, default="2m")
    ] = None,
    preview_every: Annotated[
        Any, opt("How often to draw samples; likewise.", "Run folder", parse=seconds, default="1m")
    ] = None,
    **options: Any,
) -> None:
    """Train a model on DATA in runs/<name>; the same command resumes."""
    from undiffuse.conditioning.degradations import training_tasks
    from undiffuse.config import parsed
    from undiffuse.data.config import DataConfig, share_or_count
    from undiffuse.runs.choose_design import design_settings
    from undiffuse.runs.plan_file import PlanFile
    from undiffuse.runs.prepare import default_name, prepare
    from undiffuse.runs.progress import data_bars
    from undiffuse.system import inside
    from undiffuse.training.cadence import DEFAULT_INTERVALS, Intervals

    file = None if from_plan is None else PlanFile.read(from_plan)
    start = start or (Path(file.start) if file is not None and file.start else None)
    source = data or (None if file is None else file.data.source)
    if source is None:
        raise UsageError("say what to train on: undiffuse train DATA, such as a folder of images, or --plan plan.json.")
    place = _latent(latent, latent_downsample, autoencoder)
    if (latent_train_steps or latent_budget) and not isinstance(place, int):
        raise UsageError(
            "--latent-train-steps and --latent-budget train the autoencoder of --latent: add that, or leave them out."
        )
    if degradation and upscale_factor:
        raise UsageError(
            "--upscale-factor is a degradation of its own, upscaling noisy examples: leave --degradation out, or train two models."
        )
    settings = not_none({path: options[path.replace(".", "__")] for paths in DESIGN_OPTIONS.values() for path in paths})
    if budget is not None or "training.steps" in settings:  # one of them replaces both of the preset's
        settings = {"training.steps": None, "training.budget": budget} | settings
    if balance is not None:
        settings |= balanced(balance)
    if betas is not None:
        settings |= {"schedule.beta_start": betas[0], "schedule.beta_end": betas[1]}
    described = {"source": source, "size": size, "range": range_} | {name: options[name] for name in DATA_OPTIONS}
    described |= {"columns": kinds_of_columns(column), "relations": tuple(relation) if relation else None}
    described["held_out"] = None if held_out is None else share_or_count(held_out)
    dropout, own_dropout = shares(condition_dropout)
    columns = {kind: options[f"{kind}_"] for kind in COLUMNS}
    conditions = declared(columns, others, inject, own_dropout, encoder, pooling)
    if unconditional and conditions:
        raise UsageError("--unconditional contradicts the conditions that are declared: leave one out.")
    planned = {} if file is None else file.data.model_dump(mode="json")
    if not conditions and not unconditional and file is not None:
        conditions = file.conditions
    folder = inside(runs, name or default_name(source, start))
    prepared = partial(
        prepare,
        parsed(DataConfig, planned | not_none(described), "these settings of the data do not work"),
        folder,
        settings=design_settings(
            settings | assignments(more),
            condition_dropout=dropout,
            adapter_rank=adapter_rank,
            latent=place,
            latent_steps=latent_train_steps,
            latent_budget=latent_budget,
            augment=augment,
            augment_probability=augment_probability,
        ),
        preset=preset,
        network=network,
        conditions=conditions if conditions or unconditional or file is not None else None,
        latent=place,
        start=start,
        tasks=training_tasks(degradation, upscale_factor),
        override=change_settings,
        device=device,
        download=download,
        watch=Intervals(checkpoint_every or DEFAULT_INTERVALS.checkpoint, preview_every or DEFAULT_INTERVALS.preview),
        planned=None if file is None else file.design,
    )
    with data_bars():
        plan = prepared()
    for text in plan.data.notes:
        shared.note(text)
    if dry_run:
        again = [("--name", name), ("--runs", None if runs == Path("runs") else runs), ("--device", device)]
        flags = [part for flag, value in again if value is not None for part in (flag, value)]
        _dry_run(plan, folder.with_name(f"{folder.name}-dry-run"), [*flags, *(["--download"] if download else [])])
        return
    if first := plan.autoencoder():
        follow_autoencoder(first)
    follow(plan.run())


with_options(train, TRAIN_OPTIONS)


def _dry_run(plan: Plan, folder: Path, flags: Sequence[object]) -> None:
    """Draws the first batches and measures an update; says what was decided and why.   flags: of the command that would train."""
    from undiffuse.runs.dry_run import draw_batches
    from undiffuse.runs.plan_file import PLAN, PlanFile, measured

    refuse_unwritable(folder)
    with TemporaryDirectory() as elsewhere:
        if (first := plan.autoencoder()) and not first.pretrained:
            raise UsageError(
                "a dry run shows what the network sees, and here that are latents of an autoencoder that is not trained yet: leave --dry-run "
                "out, or give a trained one by --autoencoder."
            )
        if first:  # whose latents are measured, and that is kept nowhere
            plan = replace(plan, folder=Path(elsewhere))
            if again := plan.autoencoder():
                list(again.updates())
        run = plan.run()
        written = draw_batches(run, folder)
        file = PlanFile.of(plan, expected=measured(run))
    file.write(folder / PLAN)
    for line in file.lines():
        typer.echo(line)
    typer.echo(f"\nwrote {folder}/: {', '.join([*(path.name for path in written), PLAN])}; nothing was trained")
    typer.echo(f"next: {shared.command('train', '--plan', folder / PLAN, *flags)}")


def _latent(latent: bool, factor: int | None, autoencoder: Path | None) -> int | Path | None:
    """The factor of the autoencoder to train, or the folder of one that was."""
    if autoencoder is None:
        return factor or 4 if latent or factor else None
    if latent or factor:
        raise UsageError(
            "--autoencoder says what the latents are, so --latent and --latent-downsample have no place: leave one out."
        )
    return autoencoder
