"""The runner of commands that work on a model: it opens the model, and writes, draws and prints what the command returns.

A command is a function of a Job and of its own options, and returns a Result.  `job_command` makes it one: it adds the options that such
commands share, refuses a folder that cannot be written before any work, and writes all files in a temporary folder that is renamed
when everything is there.  So a folder of results is whole or not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument

from undiffuse.cli import shared
from undiffuse.cli.conditions import KINDS, guidance_scales, read_conditions
from undiffuse.cli.options import MODELS_OWN, assignments, not_none, opt, options_of, parameter
from undiffuse.cli.place import results_folder
from undiffuse.cli.reference import settings
from undiffuse.cli.result import Result, write_result
from undiffuse.errors import UsageError, nearest
from undiffuse.runs.progress import STEPS_COLUMN, progress_bar, steps_shown

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor

    from undiffuse.data.codec import CodecConfig
    from undiffuse.models.model import Model
    from undiffuse.pictures.edits import TrajectoryRecorder, Way
    from undiffuse.runs.examples import NamedExamples
    from undiffuse.runs.results import ResultsFolder

RunArgument = Annotated[Path, Argument(metavar="RUN", help="A run folder, or a model file.")]
Images = Annotated[
    list[str],
    Argument(metavar="IMAGE…", help="Images or .npy arrays; data:K is example K of the data the run was trained on."),
]
Noise = Annotated[
    float | None, opt("Standard deviation of the noise in the images given, in their unit; of rounding when left out.")
]
GUIDANCE_PANEL, SOLVER = "Guidance", "Solver and grid"
FIELDS = {
    None: ("steps", "solver"),
    GUIDANCE_PANEL: ("guidance_method", "guidance_rescale", "guidance_interval", "apg_momentum", "apg_norm_threshold"),
    SOLVER: (
        *("grid", "order", "sigma_max", "sigma_min", "final_sigma", "rho", "steps_offset", "interpolation"),
        *("eta", "variance", "corrections", "lower_order_final"),
    ),
    "Noise and clipping": (
        *("noise_sampler", "churn", "churn_interval", "s_noise", "restart"),
        *("clip", "threshold_quantile", "threshold_max", "epsilon_from"),
    ),
}
SCALES = "Guidance scale: 1 plain conditional, above 1 stronger; class=3,age=1 for single conditions."
SCALE = opt(SCALES, None, "--guidance", parse=guidance_scales, default=MODELS_OWN)
GUIDED = [parameter("scales", Annotated[str | None, SCALE])]
EVERY_SETTING = [*options_of("SamplingConfig", FIELDS, MODELS_OWN), *GUIDED]
SET = opt("Any other setting of sampling; may be repeated.", SOLVER, "--set", metavar="SETTING=VALUE")
SAMPLING_OPTIONS = [
    *(each for each in EVERY_SETTING if each.name in ("steps", "solver", "grid", "scales")),
    parameter("more", Annotated[list[str] | None, SET]),
]
SEED = [parameter("seed", Annotated[int, opt("Seed of everything random.")], 0)]
_STRIP = opt("Also draw the trajectory as a strip and an animation.", None, "--trajectory")
TRAJECTORY = [parameter("trajectory", Annotated[bool, _STRIP], False)]
_OUT = "Folder to write to; a new one in the run's folder when left out."
_DOWNLOAD = "Let the model's text encoder be fetched from the hub."
_TUNED = "Tune the model by adapters: a run's adapters/, or a folder that peft wrote."
COMMON = [
    parameter("out", Annotated[Path | None, opt(_OUT)]),
    parameter("weights", Annotated[str | None, opt("ema or online; the better ones when left out.", "Model")]),
    parameter("adapters", Annotated[Path | None, opt(_TUNED, "Model")]),
    parameter("encoder", Annotated[str | None, opt("Where the text encoder is now, if it was moved.", "Model")]),
    parameter("download", Annotated[bool, opt(_DOWNLOAD, "Model", "--download")], False),
    parameter("device", Annotated[str | None, opt("cpu, cuda, …", "Model")]),
]


@dataclass
class Job:
    """What a command works on.

    place: of its results.   condition_texts: by option.   sampling: settings given.   strengths: guidance scales, where `sample`
    lists several.
    """

    run: Path
    model: Model
    place: ResultsFolder
    stack: ExitStack
    condition_texts: dict[str, list[str] | None]
    sampling: dict[str, Any]
    seed: int
    trajectory: bool
    strengths: list[float] = field(default_factory=list)
    recorder: TrajectoryRecorder | None = None
    _phases: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def conditions(self) -> dict[str, object]:
        """The conditions: one value for all examples, several for one each."""
        found = read_conditions(self.model, self.condition_texts).values
        return {name: values[0] if len(values) == 1 else values for name, values in found.items()}

    @property
    def described(self) -> dict[str, str]:
        """The conditions as text, by name."""
        return {name: str(value) for name, value in self.conditions.items()}

    def read(self, names: Sequence[str], codec: CodecConfig | None = None, missing: bool = False) -> NamedExamples:
        """The examples that are named, with a note of what was done to any that did not fit.   codec: where not the model's."""
        from undiffuse.runs.examples import named_examples

        return named_examples(self.run, names, codec or self.model.config.codec, missing, shared.note)

    def mask(self, name: str, values: Tensor, images: Sequence[str]) -> Tensor:
        """Where to fill in, bool (n, 1 or C, *size), of values (n, C, *size) that were read from the images."""
        import torch

        from undiffuse.data.mask_files import MASK_SUFFIXES
        from undiffuse.models.masks import read_mask
        from undiffuse.runs.examples import fit_of

        hidden = read_mask(name, values.numpy(), self.seed, fit_of(self.run), images, shared.note)
        if Path(name).suffix.lower() in MASK_SUFFIXES:
            typer.echo(f"the mask hides {hidden.mean():.0%} of the picture")
        return torch.from_numpy(hidden)

    def record(self, focus: int = 0, alone: bool = False, ways: Sequence[Way] = ("up", "down")) -> None:
        """Records the trajectory, where it is to be drawn; see TrajectoryRecorder."""
        from undiffuse.pictures.edits import TrajectoryRecorder

        if self.trajectory:
            self.recorder = TrajectoryRecorder(self.model.codec.shape, focus, alone, ways)

    def arguments(self, settings: Mapping[str, Any], steps: int | None = None) -> dict[str, Any]:
        """What every edit of the library takes.   settings: of sampling.   steps: of one batch, where the bar shows batches."""
        if self.recorder is None:
            self.record()
        watch = self.recorder.record if self.recorder else None
        progress = steps_shown(self.bar, "sampling", steps)
        return {"conditions": self.conditions, "seed": self.seed, "watch": watch, "progress": progress, **settings}

    @cached_property
    def bar(self) -> Progress:
        """A progress bar, shown from now on until the command is done."""
        return self.stack.enter_context(progress_bar(STEPS_COLUMN))

    def phase(self, what: str, share: float) -> None:
        """Shows the share that is done, from 0 to 1, of a phase of the work, on a line of its own."""
        if what not in self._phases:
            self._phases[what] = self.bar.add_task(what, total=1.0, text="")
        self.bar.update(self._phases[what], completed=share)


def job_command(
    kind: str, *groups: Sequence[Parameter], own: Sequence[Parameter] = ()
) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Makes a function of a Job a command, with its own options, those of the groups, and those that all have.

    kind: the folder of a run that results are written to.   groups: options that the job takes.   own: more that the function takes.
    """
    of_job = [*(option for group in groups for option in group), *COMMON]

    def decorate(function: Callable[..., Result]) -> Callable[..., None]:
        _, *parameters = signature(function, eval_str=True).parameters.values()
        mine = [*(p.replace(kind=p.KEYWORD_ONLY) for p in parameters if p.kind is not Parameter.VAR_KEYWORD), *own]

        def command(run: Path, out: Path | None, **options: Any) -> None:
            chosen = {option.name: options.pop(option.name) for option in mine}
            place = results_folder(run, kind, out)
            with place:
                with ExitStack() as stack:
                    job = _open(run, place, stack, options, chosen.get("compare", False))
                    result = function(job, **chosen)
                written = write_result(place.folder, job.model, result, job.recorder)
            for line in result.lines:
                typer.echo(line)
            typer.echo(f"wrote {place.final}/: {', '.join(written)}")
            if result.next:
                typer.echo(f"next: {result.next}")

        command.__signature__ = Signature([parameter("run", RunArgument, Parameter.empty), *mine, *of_job])  # type: ignore[attr-defined]
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate


def _open(run: Path, place: ResultsFolder, stack: ExitStack, options: dict[str, Any], compare: bool) -> Job:
    """The job of a command.   options: the values of the shared options.   compare: whether several guidance scales are."""
    from undiffuse.models.file import load
    from undiffuse.sampling.solvers.registry import grid_note

    known = settings()["SamplingConfig"]["properties"]
    sampling = not_none({name: value for name, value in options.items() if name in known})
    sampling |= assignments(options.get("more"))
    if unknown := [name for name in sampling if name not in known]:
        there = f"see 'undiffuse schema sampling'{nearest(unknown[0], known) or '.'}"
        raise UsageError(f"there is no setting of sampling {unknown[0]!r}, {there}")
    strengths, each = options.get("scales") or ([], {})
    if len(strengths) > 1 and not compare:
        raise UsageError("--guidance lists several scales: use one at a time, or 'sample --compare'.")
    if len(strengths) == 1:
        sampling["guidance"] = strengths[0]
    if each:
        sampling["guidance_scales"] = each
    model = load(run, options["device"], *(options[name] for name in ("weights", "encoder", "download", "adapters")))
    usual = model.config.sampling.solver
    if text := grid_note(sampling.get("solver", usual), sampling.get("grid"), usual):
        shared.note(text)
    texts = {kind: options.get(f"{kind}_") for kind in KINDS}
    return Job(
        run, model, place, stack, texts, sampling, options.get("seed", 0), options.get("trajectory", False), strengths
    )
