"""undiffuse train DATA"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from undiffuse.cli import shared
from undiffuse.cli.following import train_with_bar
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.degradations import Degradation
    from undiffuse.conditioning.spec import Condition
    from undiffuse.runs.autoencoder import AutoencoderRun
    from undiffuse.runs.diffusion import Run
    from undiffuse.training.loop import Update

NOTHING: Mapping[str, str] = MappingProxyType({})


def Declared(option: str, what: str) -> Any:
    """The type of an option that declares conditions."""
    return Annotated[
        list[str] | None,
        Option(option, metavar="COLUMN", help=f"{what}, as a condition; NAME=COLUMN names it. May be repeated."),
    ]


def train(
    data: Annotated[
        str,
        Argument(
            metavar="DATA",
            help="digits, a folder of images (sub-folders are classes), a .csv naming them, .npy, .npz or idx.gz",
        ),
    ],
    name: Annotated[str | None, Option(help="Name of the run; the data's when left out.")] = None,
    runs: Annotated[Path, Option(help="Where run folders are.")] = Path("runs"),
    steps: Annotated[int | None, Option(help="Train for so many updates.")] = None,
    budget: Annotated[str | None, Option(help="Train for so long: 90s, 15m, 2h.")] = None,
    preset: Annotated[
        str | None,
        Option(
            help="digits, or a paper's: ddpm_cifar10, iddpm_cifar10, …imagenet64, adm_imagenet64, …128, …256, edm_ddpmpp_cifar10, "
            "edm_ncsnpp_cifar10, dit_s, …b, …l, …xl."
        ),
    ] = None,
    network: Annotated[
        str | None,
        Option(help="unet, transformer, mlp or autoencoder, instead of what the preset or the data suggest."),
    ] = None,
    schedule: Annotated[str | None, Option(help="Noise schedule, see 'undiffuse schedule'.")] = None,
    betas: Annotated[str | None, Option(help="First and last beta of a schedule of 1000 steps: 0.0001,0.02.")] = None,
    T: Annotated[int | None, Option("--T", help="Steps of a discrete schedule.")] = None,
    prediction: Annotated[str | None, Option(help="noise, clean, mean, velocity, flow or karras.")] = None,
    variance: Annotated[str | None, Option(help="fixed_small, fixed_large, learned_range or learned.")] = None,
    objective: Annotated[str | None, Option(help="simple, bound or hybrid.")] = None,
    weight: Annotated[str | None, Option(help="Of the simple loss: unit, snr, min_snr, p2, sigmoid or edm.")] = None,
    batch: Annotated[int | None, Option(help="Examples per update.")] = None,
    lr: Annotated[float | None, Option(help="Learning rate.")] = None,
    width: Annotated[
        int | None, Option(help="Channels at full resolution, or numbers in a vector of a transformer or an mlp.")
    ] = None,
    depth: Annotated[
        int | None, Option(help="Residual blocks per level, or blocks of a transformer or an mlp.")
    ] = None,
    multipliers: Annotated[
        str | None, Option(help="Of the width, one per level: 1,2,2; of a unet or an autoencoder.")
    ] = None,
    attention: Annotated[
        str | None, Option(help="Downsampling factors with attention: 2,4; of a unet or an autoencoder.")
    ] = None,
    dropout: Annotated[float | None, Option(help="In every block.")] = None,
    classes: Declared("--class", "A column of names") = None,  # type: ignore[valid-type]
    tags: Declared("--tags", "A column of any number of names each") = None,  # type: ignore[valid-type]
    numbers: Declared("--number", "A column of numbers") = None,  # type: ignore[valid-type]
    texts: Declared("--text", "A column of texts") = None,  # type: ignore[valid-type]
    vectors: Declared("--vector", "Embeddings of your own, like emb.npy") = None,  # type: ignore[valid-type]
    images: Declared("--image", "Pictures: masks, smaller versions, edges") = None,  # type: ignore[valid-type]
    tasks: Declared("--task", "A column that names one of several jobs") = None,  # type: ignore[valid-type]
    others: Annotated[
        list[str] | None, Option("--condition", help="A condition of any kind: NAME=KIND, or NAME=KIND:COLUMN.")
    ] = None,
    inject: Annotated[
        list[str] | None, Option(help="How a condition enters, NAME=layers, concat or attention; may be repeated.")
    ] = None,
    encoder: Annotated[
        str | None, Option(help="Of texts: words (trained along), or a folder or hub name of a BERT or GPT.")
    ] = None,
    pooling: Annotated[str | None, Option(help="Of a transformer's states: mean, last or tokens.")] = None,
    download: Annotated[bool, Option("--download", help="Let a text encoder be fetched from the hub.")] = False,
    table: Annotated[str | None, Option(help="A .csv, .tsv or .jsonl with more columns of the examples.")] = None,
    condition_dropout: Annotated[
        list[str] | None,
        Option(
            help="How often conditions are left unsaid in training: 0.1, or NAME=0.2 for one; 0 for never. May be repeated."
        ),
    ] = None,
    unconditional: Annotated[bool, Option("--unconditional", help="Ignore the classes.")] = False,
    start: Annotated[
        Path | None, Option("--from", help="Fine-tune: start from the weights of a run folder or model file.")
    ] = None,
    adapters: Annotated[
        int | None,
        Option(
            help="Fine-tune by low-rank adapters of this rank, such as 8, and leave the weights as they are: for small data."
        ),
    ] = None,
    size: Annotated[str | None, Option(help="Resize images: 64, or height×width as 48x80.")] = None,
    fit: Annotated[str, Option(help="How to resize: crop, pad or stretch.")] = "crop",
    channels: Annotated[str | None, Option(help="Convert images: grey, rgb or rgba.")] = None,
    layout: Annotated[str | None, Option(help="Axes of an array: NHWC, NCHW, NHW, NCL, NC for a table, …")] = None,
    range_: Annotated[
        str | None,
        Option(
            "--range",
            metavar="LOW,HIGH",
            help="What whole numbers black and white are: 0,255; found from the values when left out.",
        ),
    ] = None,
    max_pixels: Annotated[
        int | None,
        Option(help="Open images of up to so many pixels, beyond the limit that protects from harmful files."),
    ] = None,
    held_out: Annotated[
        str | None, Option(help="Examples kept for validation: a share, such as 0.1, or a whole number, such as 100.")
    ] = None,
    seed: Annotated[int | None, Option(help="Of everything random.")] = None,
    precision: Annotated[str | None, Option(help="auto, fp32 or bf16.")] = None,
    deterministic: Annotated[
        bool,
        Option(
            "--deterministic",
            help="Take algorithms that give the same bits every time, for exact resume on a GPU; slower there.",
        ),
    ] = False,
    jobs: Annotated[
        str | None,
        Option(
            "--tasks",
            help="Make examples of what is left of them: inpaint,upscale:4,colorize,deblur:1.5,denoise; then 'restore'.",
        ),
    ] = None,
    upscaler: Annotated[
        int | None,
        Option(
            help="A second stage: make examples of ones so many times smaller, and noisy; then 'sample --upscaler'."
        ),
    ] = None,
    shrink: Annotated[
        int | None, Option(help="Average blocks of so many values along each axis first: data for a first stage.")
    ] = None,
    latent: Annotated[bool, Option("--latent", help="Train an autoencoder first and diffuse in its latents.")] = False,
    latent_factor: Annotated[
        int | None, Option(help="Positions along each axis that become one: 2, 4 or 8; 4 when left out.")
    ] = None,
    autoencoder: Annotated[
        Path | None, Option(help="Diffuse in the latents of this one: a run's, or a folder of diffusers.")
    ] = None,
    latent_steps: Annotated[int | None, Option(help="Train the autoencoder for so many updates.")] = None,
    latent_budget: Annotated[
        str | None, Option(help="Train the autoencoder for so long; a third of --budget when left out.")
    ] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, …")] = None,
    setting: Annotated[
        list[str] | None, Option("--set", help="Any other setting, such as training.clip=0.5; may be repeated.")
    ] = None,
    override: Annotated[bool, Option("--override", help="Go on in a run folder with other training settings.")] = False,
    checkpoint_every: Annotated[
        str, Option(help="How often to save; rarer where it would take more than a twentieth of the time.")
    ] = "2m",
    preview_every: Annotated[str, Option(help="How often to draw samples; rarer likewise.")] = "1m",
) -> None:
    """Train a model on DATA in runs/<name>; the same command resumes."""
    from undiffuse.data.sources import DataConfig, share_or_count
    from undiffuse.runs.prepare import default_name, prepare
    from undiffuse.system import inside
    from undiffuse.training.cadence import Intervals

    rates = shared.rates(betas) if betas else (None, None)
    settings = _settings(
        steps=steps,
        budget=budget,
        setting=setting,
        paths={
            "schedule.name": schedule,
            "schedule.T": T,
            "schedule.beta_start": rates[0],
            "schedule.beta_end": rates[1],
            "adapters": None if adapters is None else {"rank": adapters},
            "prediction": prediction,
            "variance_type": variance,
            "condition_dropout": _share([text for text in condition_dropout or [] if "=" not in text]),
            "training.objective": objective,
            "training.weight": weight,
            "training.batch_size": batch,
            "training.learning_rate": lr,
            "training.seed": seed,
            "training.precision": precision,
            "training.deterministic": deterministic or None,
            "network.width": width,
            "network.depth": depth,
            "network.dropout": dropout,
            "network.multipliers": multipliers and shared.integers(multipliers),
            "network.attention": attention and shared.integers(attention),
        },
    )
    factor = (latent_factor or 4) if latent or latent_factor else None
    settings = _latent_settings(settings, factor, autoencoder, latent_steps, latent_budget)
    from undiffuse.config import parsed

    described = {
        "source": data,
        "size": size and list(shared.size(size)),
        "fit": fit,
        "channels": channels,
        "layout": layout,
        "range": range_ and shared.span(range_),
        "max_pixels": max_pixels,
        "table": table,
        **shared.settings_given(held_out=None if held_out is None else share_or_count(held_out), shrink=shrink),
    }
    source = parsed(DataConfig, described, "these settings of the data do not work")
    columns = {
        "class": classes,
        "tags": tags,
        "number": numbers,
        "text": texts,
        "vector": vectors,
        "image": images,
        "task": tasks,
    }
    for name_, kind in shared.pairs(others or [], "--condition").items():
        kind, _, column = kind.partition(":")
        columns[kind] = [*(columns.get(kind) or []), f"{name_}={column or name_}"]
    own = shared.pairs([text for text in condition_dropout or [] if "=" in text], "--condition-dropout")
    conditions = declared(columns, shared.pairs(inject or [], "--inject"), own, encoder, pooling)
    if unconditional and conditions:
        raise UsageError("--unconditional contradicts the conditions that are declared: leave one out.")
    plan = prepare(
        source,
        inside(runs, name or default_name(data, start)),
        settings=settings,
        preset=preset,
        network=network,
        conditions=conditions if conditions or unconditional else None,
        override=override,
        device=shared.device(device),
        download=download,
        watch=Intervals(shared.seconds(checkpoint_every), shared.seconds(preview_every)),
        factor=factor,
        autoencoder=autoencoder,
        start=start,
        tasks=_tasks(jobs, upscaler),
    )
    for note in plan.data.notes:
        typer.echo(f"note: {note}")
    if (first := plan.autoencoder()) is not None:
        follow_autoencoder(first)
    follow(plan.run())


def _tasks(text: str | None, upscaler: int | None) -> dict[str, Degradation] | None:
    """The tasks of --tasks, or the one of --upscaler."""
    from undiffuse.conditioning import degradations

    if text and upscaler:
        raise UsageError(
            "--upscaler is a task of its own, upscaling noisy examples: leave --tasks out, or train two models."
        )
    if upscaler is not None:
        return {f"upscale:{upscaler}": degradations.second_stage(upscaler)}
    return degradations.parse_tasks(text) if text else None


def _latent_settings(
    settings: dict[str, Any], factor: int | None, autoencoder: Path | None, steps: int | None, budget: str | None
) -> dict[str, Any]:
    """The settings with those of the autoencoder's training; a third of a budget for all goes to it."""
    if factor is not None and autoencoder is not None:
        raise UsageError(
            "--autoencoder says what the latents are, so --latent and --latent-factor have no place: leave one out."
        )
    if (steps or budget) and factor is None:
        raise UsageError(
            "--latent-steps and --latent-budget train the autoencoder of --latent: add that, or leave them out."
        )
    if factor is not None and settings.get("training.deterministic"):
        settings = settings | {"latent.training.deterministic": True}
    whole = settings.get("training.budget")
    if steps or budget:
        return settings | {"latent.training.steps": steps, "latent.training.budget": budget and shared.seconds(budget)}
    if factor is None or whole is None:
        return settings
    return settings | {
        "latent.training.steps": None,
        "latent.training.budget": whole / 3,
        "training.budget": whole * 2 / 3,
    }


def declared(
    columns: Mapping[str, list[str] | None],
    inject: Mapping[str, str] = NOTHING,
    condition_dropout: Mapping[str, str] = NOTHING,
    encoder: str | None = None,
    pooling: str | None = None,
) -> dict[str, Condition]:
    """Conditions by name.

    columns: for each kind the columns, NAME, NAME=COLUMN or a file whose name then names the condition.   inject, condition_dropout: of
    conditions by name.
    """
    from undiffuse.conditioning.spec import Condition
    from undiffuse.config import parsed

    found: dict[str, Condition] = {}
    for kind, texts in columns.items():
        for text in texts or []:
            name, equals, column = text.partition("=")
            if not equals and name.lower().endswith(".npy"):
                name, column = Path(name).stem, name
            if name in found:
                raise UsageError(
                    f"the condition {name!r} is declared twice: give the second another name, as in --{kind} other={column or name}."
                )
            described: dict[str, Any] = {"kind": kind, "column": column or None, "inject": inject.get(name)}
            described |= {"dropout": _share([condition_dropout[name]])} if name in condition_dropout else {}
            described |= {"encoder": encoder, "pooling": pooling} if kind == "text" else {}
            found[name] = parsed(Condition, described, f"the {kind} {name!r} cannot be declared so")
    for option, named in (("--inject", inject), ("--condition-dropout", condition_dropout)):
        unknown = [name for name in named if name not in found]
        if unknown:
            raise UsageError(
                f"{option} names {unknown[0]!r}, which is no condition that is declared: declare it, as in --class {unknown[0]}."
            )
    if (encoder or pooling) and not columns.get("text"):
        raise UsageError(
            "--encoder and --pooling are for texts, and no --text is declared: leave them out, or declare one."
        )
    return found


def _share(texts: list[str]) -> float | None:
    """The last of some shares, from 0 to less than 1."""
    if not texts:
        return None
    try:
        share = float(texts[-1])
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(
            f"--condition_dropout {texts[-1]!r} is no share of the examples: write one from 0 to less than 1, such as 0.1."
        )
    return share


def _settings(
    steps: int | None, budget: str | None, setting: list[str] | None, paths: dict[str, Any]
) -> dict[str, Any]:
    """Options as dotted settings of a Design. Steps or a budget, where one is given, replace both of the preset's."""
    settings = {path: value for path, value in paths.items() if value is not None}
    if steps is not None or budget is not None:
        settings |= {"training.steps": steps, "training.budget": budget and shared.seconds(budget)}
    for text in setting or []:
        path, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes SETTING=VALUE, such as training.clip=0.5, not {text!r}.")
        try:
            settings[path] = json.loads(value)
        except ValueError:
            settings[path] = value
    return settings


def follow(run: Run) -> None:
    """Trains with a progress bar; says where everything is, first and last."""
    from undiffuse.models.file import MODEL_FILE

    typer.echo(run.description())
    within = (0.0, 0.0)

    def watched() -> Iterator[Update]:
        nonlocal within
        for update in run.updates():
            within = run.spent
            yield update

    first = train_with_bar(watched(), run)
    if first is None:
        typer.echo("this run is already trained for as long as asked: give more --steps or --budget to go on.")
    beside = "" if first is None else _beside(within, run.spent)
    steps = f"{run.trainer.step:,} step{'s' * (run.trainer.step != 1)}"
    typer.echo(
        f"{'resumed; ' if first and first > 1 else ''}trained {steps} in {shared.clock(run.trainer.seconds)}{beside}; {run.measurements.verdict()}"
    )
    written = {
        "the model": MODEL_FILE,
        "metrics.jsonl": "metrics.jsonl",
        "samples/": "samples",
        "condition_sensitivity.png": "condition_sensitivity.png",
        "adapters/": "adapters",
    }
    typer.echo(
        f"wrote {run.folder}/: {', '.join(name for name, path in written.items() if (run.folder / path).exists())}"
    )
    stages = [task for task in run.config.design.degradations.values() if task.kind == "upscale" and task.noise[1]]
    if stages:
        typer.echo(
            f"next: {shared.command('sample', 'BASE', '--upscaler', run.folder)}  for a BASE of examples {stages[0].factor} times smaller"
        )
    else:
        following = ["restore", run.folder, "data:0", "--simulate"] if run.tasks else ["sample", run.folder]
        typer.echo(f"next: {shared.command(*following)}")


def _beside(within: tuple[float, float], whole: tuple[float, float]) -> str:
    """What saving and drawing took: seconds within the time of training, and in all; what is done at the end lies outside that time."""
    inside = ", ".join(
        f"{shared.clock(spent)} {what}"
        for spent, what in zip(within, ("saving", "drawing"), strict=True)
        if round(spent)
    )
    after = ", ".join(
        f"{shared.clock(all_ - spent)} {what}"
        for spent, all_, what in zip(within, whole, ("saving", "drawing"), strict=True)
    )
    return (f" ({inside} of it)" if inside else "") + f", and {after} besides, at the end"


def follow_autoencoder(work: AutoencoderRun) -> None:
    """Trains the autoencoder of a run of latents; says what it leaves to reach."""
    from undiffuse.evaluation.autoencoder import reconstruction_quality

    typer.echo(work.description())
    if work.taken:
        for _ in work.updates():  # none: its latents are measured
            pass
    else:
        train_with_bar(work.updates(), work, "autoencoder")
    found = reconstruction_quality(work)
    typer.echo(
        f"reconstructions of {found.n} held-out examples: {found.psnr:.1f} dB; no sample can be nearer to an example than that"
    )
    if found.frechet is not None:
        over = f"over {found.components} principal components"
        typer.echo(f"their Fréchet distance to the examples, {over}, is {found.frechet:.3g}: the floor of later ones")
    deviations = found.stds
    typer.echo(
        f"latents have standard deviations of {min(deviations):.3f} to {max(deviations):.3f}, channel by channel"
    )
