"""undiffuse train DATA"""

from __future__ import annotations

from functools import partial
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from undiffuse.cli import shared
from undiffuse.cli.declaring import declared, share_of
from undiffuse.cli.following import follow, follow_autoencoder
from undiffuse.cli.options import assignments, given, option
from undiffuse.cli.runner import parameter
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.degradations import Degradation

DATA, CONDITIONS, NETWORK, PROCESS, TRAINING = "Data", "Conditions", "Network", "Diffusion process", "Training"
LATENTS, START, FOLDER = "Latents", "Fine-tuning and second stages", "Run folder"
PRESETS = "the preset's"
# The options that set one setting each: of which panel, of which class, its path in a design, and its flag where that is another.
OF_DESIGN: tuple[tuple[str | None, str, str, str | None], ...] = (
    (None, "TrainingConfig", "training.steps", "--train-steps"),
    (None, "TrainingConfig", "training.batch_size", None),
    (None, "TrainingConfig", "training.learning_rate", "--lr"),
    (None, "TrainingConfig", "training.seed", None),
    (TRAINING, "TrainingConfig", "training.precision", None),
    (TRAINING, "TrainingConfig", "training.deterministic", None),
    (TRAINING, "TrainingConfig", "training.objective", None),
    (TRAINING, "TrainingConfig", "training.weight", None),
    (NETWORK, "UNetConfig", "network.width", None),
    (NETWORK, "UNetConfig", "network.depth", None),
    (NETWORK, "UNetConfig", "network.multipliers", None),
    (NETWORK, "UNetConfig", "network.attention", None),
    (NETWORK, "UNetConfig", "network.dropout", None),
    (PROCESS, "ScheduleConfig", "schedule.name", "--schedule"),
    (PROCESS, "ScheduleConfig", "schedule.T", "--T"),
    (PROCESS, "Design", "prediction", None),
    (PROCESS, "Design", "variance_type", None),
)
OF_DATA = ("fit", "channels", "layout", "max_pixels", "shrink", "table")
DECLARED = {
    "class": "A column of names",
    "tags": "A column of any number of names each",
    "number": "A column of numbers",
    "text": "A column of texts",
    "vector": "Embeddings of your own, like emb.npy",
    "image": "Pictures: masks, smaller versions, edges",
    "task": "A column that names one of several tasks",
}
OPTIONS = [
    *(
        option(kind, path.rpartition(".")[2], flag=flag, panel=panel, default=PRESETS, as_=path.replace(".", "__"))
        for panel, kind, path, flag in OF_DESIGN
    ),
    *(option("DataConfig", name, panel=DATA) for name in OF_DATA),
    *(
        parameter(
            f"{kind}_",
            Annotated[
                list[str] | None,
                Option(
                    f"--{kind}",
                    metavar="COLUMN",
                    help=f"{what}, as a condition; NAME=COLUMN names it; may be repeated.",
                    rich_help_panel=CONDITIONS,
                ),
            ],
        )
        for kind, what in DECLARED.items()
    ),
]
Duration = partial(Option, parser=shared.seconds, metavar="DURATION")


def train(
    data: Annotated[
        str,
        Argument(
            metavar="DATA",
            help="digits, a folder of images (sub-folders are classes), a .csv naming them, .npy, .npz or idx.gz",
        ),
    ],
    name: Annotated[str | None, Option(help="Name of the run; the data's when left out.")] = None,
    budget: Annotated[Any, Duration(help="Train for so long: 90s, 15m, 2h.")] = None,
    preset: Annotated[
        str | None,
        Option(
            help="digits, or a paper's: ddpm_cifar10, iddpm_cifar10, …imagenet64, adm_imagenet64, …128, …256, edm_ddpmpp_cifar10, "
            "edm_ncsnpp_cifar10, dit_s, …b, …l, …xl."
        ),
    ] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, …")] = None,
    more: Annotated[
        list[str] | None,
        Option("--set", metavar="SETTING=VALUE", help="Any other setting, such as training.clip=0.5; may be repeated."),
    ] = None,
    network: Annotated[
        str | None,
        Option(
            help="unet, transformer, mlp or autoencoder, instead of what the preset or the data suggest.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    betas: Annotated[
        Any,
        Option(
            parser=shared.rates,
            metavar="FIRST,LAST",
            help="First and last beta of a schedule of 1000 steps: 0.0001,0.02.",
            rich_help_panel=PROCESS,
        ),
    ] = None,
    size: Annotated[
        Any,
        Option(
            parser=shared.size,
            metavar="SIZE",
            help="Resize images: 64, or height×width as 48x80.",
            rich_help_panel=DATA,
        ),
    ] = None,
    range_: Annotated[
        Any,
        Option(
            "--range",
            parser=shared.span,
            metavar="LOW,HIGH",
            help="Lowest and highest whole number, black and white: 0,255; found from the values when left out.",
            rich_help_panel=DATA,
        ),
    ] = None,
    held_out: Annotated[
        str | None,
        Option(
            help="Examples kept for validation: a share, such as 0.1, or a whole number, such as 100.",
            rich_help_panel=DATA,
        ),
    ] = None,
    others: Annotated[
        list[str] | None,
        Option(
            "--condition",
            help="A condition of any kind: NAME=KIND, or NAME=KIND:COLUMN.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    unconditional: Annotated[
        bool, Option("--unconditional", help="Leave all conditions out.", rich_help_panel=CONDITIONS)
    ] = False,
    condition_dropout: Annotated[
        list[str] | None,
        Option(
            help="Probability that a condition is left out in training: 0.1, or NAME=0.2 for one; may be repeated.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    inject: Annotated[
        list[str] | None,
        Option(
            help="How a condition enters, NAME=embedding, concat or cross_attention; may be repeated.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        Option(
            help="Of texts: words (trained along), or a folder or hub name of a BERT or GPT.",
            rich_help_panel=CONDITIONS,
        ),
    ] = None,
    pooling: Annotated[
        str | None, Option(help="Of a transformer's states: mean, last or tokens.", rich_help_panel=CONDITIONS)
    ] = None,
    download: Annotated[
        bool, Option("--download", help="Let a text encoder be fetched from the hub.", rich_help_panel=CONDITIONS)
    ] = False,
    start: Annotated[
        Path | None,
        Option(
            "--from", help="Fine-tune: start from the weights of a run folder or model file.", rich_help_panel=START
        ),
    ] = None,
    adapter_rank: Annotated[
        int | None,
        Option(
            help="Fine-tune by low-rank adapters (LoRA) of this rank, such as 8, and keep the weights: for small data.",
            rich_help_panel=START,
        ),
    ] = None,
    degradation: Annotated[
        str | None,
        Option(
            help="Train to restore examples: inpaint,upscale:4,colorize,deblur:1.5,denoise; then 'restore'.",
            rich_help_panel=START,
        ),
    ] = None,
    upscale_factor: Annotated[
        int | None,
        Option(
            help="Train a second stage that makes samples so many times larger; then 'sample --upscaler'.",
            rich_help_panel=START,
        ),
    ] = None,
    latent: Annotated[
        bool,
        Option("--latent", help="Train an autoencoder first and diffuse in its latents.", rich_help_panel=LATENTS),
    ] = False,
    latent_downsample: Annotated[
        int | None,
        Option(
            help="The autoencoder's downsampling factor along each axis: 2, 4 or 8; 4 when left out.",
            rich_help_panel=LATENTS,
        ),
    ] = None,
    autoencoder: Annotated[
        Path | None,
        Option(help="Diffuse in the latents of this one: a run's, or a folder of diffusers.", rich_help_panel=LATENTS),
    ] = None,
    latent_train_steps: Annotated[
        int | None, Option(help="Training updates of the autoencoder.", rich_help_panel=LATENTS)
    ] = None,
    latent_budget: Annotated[
        Any,
        Duration(help="Train the autoencoder for so long; a third of --budget when left out.", rich_help_panel=LATENTS),
    ] = None,
    runs: Annotated[Path, Option(help="Where run folders are.", rich_help_panel=FOLDER)] = Path("runs"),
    change_settings: Annotated[
        bool,
        Option("--change-settings", help="Go on in a run folder with other training settings.", rich_help_panel=FOLDER),
    ] = False,
    checkpoint_every: Annotated[
        Any,
        Duration(
            help="How often to save; rarer where it would take more than a twentieth of the time.",
            show_default="2m",
            rich_help_panel=FOLDER,
        ),
    ] = None,
    preview_every: Annotated[
        Any, Duration(help="How often to draw samples; rarer likewise.", show_default="1m", rich_help_panel=FOLDER)
    ] = None,
    **typed: Any,
) -> None:
    """Train a model on DATA in runs/<name>; the same command resumes."""
    from undiffuse.config import parsed
    from undiffuse.data.sources import DataConfig, share_or_count
    from undiffuse.runs.prepare import default_name, prepare
    from undiffuse.system import inside
    from undiffuse.training.cadence import DEFAULT_INTERVALS, Intervals

    settings = given({path: typed[path.replace(".", "__")] for _, _, path, _ in OF_DESIGN})
    if budget is not None or "training.steps" in settings:  # one of them replaces both of the preset's
        settings = {"training.steps": None, "training.budget": budget} | settings
    settings |= given(
        {
            "schedule.beta_start": betas and betas[0],
            "schedule.beta_end": betas and betas[1],
            "adapters": None if adapter_rank is None else {"rank": adapter_rank},
            "condition_dropout": share_of([text for text in condition_dropout or [] if "=" not in text]),
        }
    )
    settings |= assignments(more or [])
    factor = (latent_downsample or 4) if latent or latent_downsample else None
    settings = _latent_settings(settings, factor, autoencoder, latent_train_steps, latent_budget)
    described = {"source": data, "size": size, "range": range_} | {name: typed[name] for name in OF_DATA}
    described["held_out"] = None if held_out is None else share_or_count(held_out)
    source = parsed(DataConfig, given(described), "these settings of the data do not work")
    columns = {kind: typed[f"{kind}_"] for kind in DECLARED}
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
        override=change_settings,
        device=shared.device(device),
        download=download,
        watch=Intervals(checkpoint_every or DEFAULT_INTERVALS.checkpoint, preview_every or DEFAULT_INTERVALS.preview),
        factor=factor,
        autoencoder=autoencoder,
        start=start,
        tasks=_degradations(degradation, upscale_factor),
    )
    for note in plan.data.notes:
        shared.note(note)
    if (first := plan.autoencoder()) is not None:
        follow_autoencoder(first)
    follow(plan.run())


_own = [p for p in signature(train, eval_str=True).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
train.__signature__ = Signature([*(p.replace(kind=p.KEYWORD_ONLY) for p in _own), *OPTIONS])  # type: ignore[attr-defined]


def _degradations(text: str | None, upscale_factor: int | None) -> dict[str, Degradation] | None:
    """The degradations of --degradation, or the one of --upscale-factor."""
    from undiffuse.conditioning import degradations

    if text and upscale_factor:
        raise UsageError(
            "--upscale-factor is a degradation of its own, upscaling noisy examples: leave --degradation out, or train two models."
        )
    if upscale_factor is not None:
        return {f"upscale:{upscale_factor}": degradations.second_stage(upscale_factor)}
    return degradations.parse_tasks(text) if text else None


def _latent_settings(
    settings: dict[str, Any], factor: int | None, autoencoder: Path | None, steps: int | None, budget: float | None
) -> dict[str, Any]:
    """The settings with those of the autoencoder's training; a third of a budget for all goes to it."""
    if factor is not None and autoencoder is not None:
        raise UsageError(
            "--autoencoder says what the latents are, so --latent and --latent-downsample have no place: leave one out."
        )
    if (steps or budget) and factor is None:
        raise UsageError(
            "--latent-train-steps and --latent-budget train the autoencoder of --latent: add that, or leave them out."
        )
    if factor is not None and settings.get("training.deterministic"):
        settings = settings | {"latent.training.deterministic": True}
    whole = settings.get("training.budget")
    if steps or budget:
        return settings | {"latent.training.steps": steps, "latent.training.budget": budget}
    if factor is None or whole is None:
        return settings
    return settings | {
        "latent.training.steps": None,
        "latent.training.budget": whole / 3,
        "training.budget": whole * 2 / 3,
    }
