"""Configurations: everything a model or a run is, as data.  Frozen, strict, unknown keys are errors, written as JSON.

`ModelConfig` is what the model file says of itself: enough to sample with no other setting.  `RunConfig` adds where the
data came from and how it was trained.  Contradictions between settings are refused when a configuration is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from undiffuse.conditioning.base import Name
from undiffuse.conditioning.conditions import ConditionConfig, Conditions, attended, channels_beside
from undiffuse.conditioning.declared import Condition
from undiffuse.corruptions import CorruptionConfig
from undiffuse.data.codec import CodecConfig
from undiffuse.data.sources import DataConfig
from undiffuse.data.splitting import SplitConfig
from undiffuse.denoiser import Denoiser, Variance
from undiffuse.errors import UsageError, explained
from undiffuse.latents import FirstStageConfig, LatentConfig
from undiffuse.networks.adapters import AdapterConfig
from undiffuse.networks.building import NetworkConfig, build_network
from undiffuse.networks.kl_autoencoder import KLAutoencoderConfig
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.process.chains import Chain
from undiffuse.process.predictions import Prediction, make_prediction
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.settings import SamplingConfig, completed
from undiffuse.scheduling import CNoiseConfig, ScheduleConfig
from undiffuse.training.settings import TrainingConfig


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AugmentConfig(Config):
    """Against copying of small data. probability: that an example is shifted, by up to `shift` places along each axis."""

    probability: float = Field(0.0, ge=0, le=1)
    shift: int = Field(1, ge=1)


class LatentDesign(Config):
    """How a model gets its latents.

    source: a folder with a trained autoencoder, of ours or of diffusers; None to train one, of the kind `autoencoder`.
    The loss of x and its reconstruction is their mean difference, plus each of these by its weight:
    kl: KL of z to N(0, I), in nats per number of x.   perceptual: difference of the features of `extractor`, a classifier of
    'undiffuse classifier'.   adversarial: of a discriminator that looks at patches.
    """

    autoencoder: FirstStageConfig = KLAutoencoderConfig()
    source: str | None = None
    difference: Literal["absolute", "squared"] = "absolute"
    kl: float = Field(1e-4, ge=0)
    extractor: str | None = None
    perceptual: float = Field(1.0, ge=0)
    adversarial: float = Field(0.0, ge=0)
    training: TrainingConfig = TrainingConfig()


class Design(Config):
    """Everything about a model and its training except the data: what a preset is.

    drop: probability that a condition is dropped in training, so that guidance has an unconditional model; of conditions
    that have none of their own.
    tasks: what is shown of each example to be made, by the name of the task; see corruptions.py.
    augment: of the training examples; the model is told, so that samples show none of it.
    sigma_data: standard deviation of x in the model's range, for karras and edm.
    latent: where x is an autoencoder's latents.
    clock: the schedule that the network was first trained on, where that is not `schedule`; see process/predictions.py, eq. (2).
    c_in: what x_t is multiplied by for the network: "scaled", to unit length, as the table of process/predictions.py has it, or "one".
    c_noise: what the network's clock is told.
    adapters: train these instead of the weights that a fine-tuning starts from.
    """

    latent: LatentDesign | None = None
    network: NetworkConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clock: ScheduleConfig | None = None
    c_in: Literal["scaled", "one"] = "scaled"
    c_noise: CNoiseConfig = CNoiseConfig()
    prediction: Literal["noise", "clean", "mean", "velocity", "flow", "karras"] = "velocity"
    variance: Variance = "fixed_small"
    sigma_data: float = Field(0.5, gt=0)
    drop: float = Field(0.1, ge=0, lt=1)
    tasks: dict[Name, CorruptionConfig] = Field(default_factory=dict)
    adapters: AdapterConfig | None = None
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Design:
        schedule = self.schedule.build()
        clock = self.clock.build() if self.clock else None
        make_prediction(self.prediction, schedule, clock=clock, noise=self.c_noise.build(), unscaled=self.c_in == "one")
        learned = self.variance.startswith("learned")
        objective = self.training.objective
        if learned and objective == "simple":
            raise UsageError(
                f"variance {self.variance!r} is not trained by the objective 'simple', which only sees the mean: "
                "use the objective 'hybrid' (or 'bound')."
            )
        if objective != "simple" and not isinstance(schedule, Chain):
            raise UsageError(
                f"the objective {objective!r} is a bound over a discrete chain, but the schedule {self.schedule.name!r} is "
                "continuous: use a discrete one, such as cosine."
            )
        if objective == "hybrid" and not learned:
            raise UsageError("the objective 'hybrid' adds the bound only to train the variance: use it with 'learned_range' or 'learned'.")
        return self


class ModelConfig(Config):
    """What a model file says of itself.

    latent: of a model whose x is an autoencoder's latents.
    clock: the schedule that its network was first trained on, where that is not `schedule`.   c_in, c_noise: see Design.
    provenance: where it came from: versions, data, steps, scores; for people, never read by the code.
    weights: the set that samples, "averaged" or "raw", whichever was better on held-out data.
    """

    codec: CodecConfig
    latent: LatentConfig | None = None
    network: NetworkConfig
    schedule: ScheduleConfig
    clock: ScheduleConfig | None = None
    c_in: Literal["scaled", "one"] = "scaled"
    c_noise: CNoiseConfig = CNoiseConfig()
    prediction: Literal["noise", "clean", "mean", "velocity", "flow", "karras"]
    variance: Variance
    sigma_data: float
    conditions: dict[Name, ConditionConfig]
    tasks: dict[Name, CorruptionConfig] = Field(default_factory=dict)
    sampling: SamplingConfig
    weights: Literal["averaged", "raw"] = "averaged"
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *size) of x, which is the data's unless it is an autoencoder's latents."""
        return self.codec.shape if self.latent is None else self.latent.latent_shape

    def build(self) -> tuple[Denoiser, Schedule]:
        """The network with fresh weights, as a denoiser on its schedule.

        Raises UsageError for a network that does not suit the data, and where torch makes new numbers in another precision.
        """
        if torch.get_default_dtype() != torch.float32:
            raise UsageError(f"models are float32, and torch's default is {torch.get_default_dtype()}: call torch.set_default_dtype(torch.float32).")
        schedule = self.schedule.build()
        channels, *size = self.shape
        network = build_network(
            self.network, channels + channels_beside(self.conditions), 2 * channels if self.variance.startswith("learned") else channels,
            size, tokens=attended(self.conditions),
        )  # fmt: skip
        if len(size) == 2:  # images are convolved faster with their channels innermost
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        conditions = Conditions(self.conditions, network.embedding_width, network.conditioning_width)
        return Denoiser(network, self.build_prediction(), conditions, self.variance), schedule

    def build_clock(self) -> Schedule:
        """The schedule that the network's clock is of."""
        return (self.clock or self.schedule).build()

    def build_prediction(self) -> Prediction:
        clock = self.clock.build() if self.clock else None
        return make_prediction(self.prediction, self.schedule.build(), self.sigma_data, clock, self.c_noise.build(), self.c_in == "one")


def with_sampling_completed(own: SamplingConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a Design by dotted path, with what those of its sampling leave open; see sampling/settings.py, `completed`."""
    wanted = {path.removeprefix("sampling."): value for path, value in settings.items() if path.startswith("sampling.")}
    return dict(settings) | {f"sampling.{name}": value for name, value in completed(own, wanted).items()}


OfModel = TypeVar("OfModel", Design, ModelConfig)


def rescheduled(config: OfModel, schedule: ScheduleConfig) -> OfModel:
    """A model on another schedule: its clock goes on as it was, and its way of sampling where that works there.

    Raises UsageError for a learned variance, which is that of one chain's transitions.
    """
    clock = config.clock or config.schedule
    if schedule == config.schedule:
        return config
    if config.variance == "learned":
        raise UsageError("the variance 'learned' is that of one chain's transitions, so its schedule cannot change: leave the schedule as it is.")
    built, sampling = schedule.build(), config.sampling
    try:
        sampling.build_levels(built)
        sampling.build_solver(built)
    except ValueError:  # such as a grid of one chain
        sampling = SamplingConfig()
        if isinstance(built, Chain) and sampling.steps > len(built):
            sampling = SamplingConfig(steps=len(built))
    return config.model_copy(update={"schedule": schedule, "clock": None if schedule == clock else clock, "sampling": sampling})


class StartConfig(Config):
    """What a fine-tuning starts from.   name: of its run or file.   sha256: of the weights."""

    name: str
    sha256: str


class RunConfig(Config):
    """A whole run: config.json of the run folder.

    fingerprint: of the data.   fingerprints: of the .npy files and pictures that conditions are read from.   conditions: as declared, by name.
    start: the model it starts from, where it is a fine-tuning.   examples: how many the data has; None in files of before.
    measured_on: the examples that mean and deviation, of values and of conditions, are measured on; "all" in runs of older code, to
    which whole numbers of a type had the range of the type (data/ranges.py).
    split: which of them are held out; None in files of before, whose split follows from data.held_out and training.seed.
    """

    measured_on: Literal["all", "training"] = "all"
    data: DataConfig
    fingerprint: str
    examples: int | None = None
    split: SplitConfig | None = None
    fingerprints: dict[str, str] = Field(default_factory=dict)
    conditions: dict[Name, Condition]
    design: Design
    start: StartConfig | None = None


C = TypeVar("C", bound=BaseModel)


def parsed(kind: type[C], content: Any, what: str) -> C:
    """A configuration from plain data, JSON's lists for tuples. Raises UsageError: one sentence, the first problem."""
    try:
        return kind.model_validate_json(json.dumps(content, default=_plain))
    except ValidationError as error:
        raise UsageError(f"{what}: {explained(error)}") from None


def _plain(value: Any) -> Any:
    """What JSON has no form for: numbers and arrays of NumPy and torch, and paths. Raises UsageError for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    raise UsageError(f"{value!r} is no value of a setting: give a number, a text, or a list of these.")


def changed(config: C, settings: Mapping[str, Any], what: str = "these settings do not work") -> C:
    """A copy with settings replaced by dotted path, {"training.steps": 2000}, validated as a whole."""
    content = config.model_dump(mode="json")
    for path, value in settings.items():
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                raise UsageError(f"there is no setting {path!r}: {parent!r} is none of {', '.join(place)}.")
            place = place[parent]
        if last not in place:
            raise UsageError(f"there is no setting {path!r}: choose one of {', '.join(place)}.")
        place[last] = value
    return parsed(type(config), content, what)


def differences(old: BaseModel, new: BaseModel) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations differ, by dotted path: (old, new)."""

    def flat(content: Any, prefix: str = "") -> dict[str, Any]:
        if isinstance(content, dict) and content:
            return {path: v for key, value in content.items() for path, v in flat(value, f"{prefix}.{key}" if prefix else key).items()}
        return {prefix: content}

    before, after = flat(old.model_dump(mode="json")), flat(new.model_dump(mode="json"))
    paths = sorted(before.keys() | after.keys())
    return {path: (before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)}


def stored(path: Path, kind: type[C], mend: str) -> C | None:
    """The configuration in a file, None where there is none. Raises UsageError for one that cannot be read.   mend: what to do then."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}): {mend}.") from None
    return parsed(kind, content, f"{path} has settings this version cannot use")


def refuse_other(
    path: Path, now: BaseModel, mend: str, free: tuple[str, ...] = (), overridable: tuple[str, ...] = (), override: bool = False,
    fixed: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """Raises UsageError where a configuration written at `path` is not the one of now, with a list of what differs.

    mend: what to do then.   free: beginnings of settings that may differ.   overridable: of those that may where `override` says so, but
    for those of `fixed`.
    """
    before = stored(path, type(now), mend)
    if before is None:
        return
    other = {p: v for p, v in differences(before, now).items() if not p.startswith(free)}
    never = [p for p in other if p.startswith(fixed) or not p.startswith(overridable)]
    if other and (never or not override):
        listed = "; ".join(_difference(p, before, now, *values) for p, values in list(other.items())[:6])
        also = "" if never or not overridable else ", or go on with the new ones by --override"
        fixed_ = f", and {', '.join(never)} cannot change later, also not by --override" if never and override else ""
        raise UsageError(f"{path.parent} was made with another configuration ({listed}){fixed_}: {mend}{also}.")


def begun_before(path: Path) -> bool:
    """Whether a configuration written at `path`, if any, is of code that did not say what it measures, and measured all (`measured_on`)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # whoever reads the configuration says what is wrong
        return False
    return isinstance(content, dict) and content.get("measured_on", "all") == "all"


def _difference(path: str, before: BaseModel, now: BaseModel, old: Any, new: Any) -> str:
    if path != "fingerprint":
        return f"{path}: {old!r} there, {new!r} now"
    counts = getattr(before, "examples", None), getattr(now, "examples", None)
    if None in counts:
        return "the data has changed"
    same = f"the same number of examples, {counts[0]:,}, with other values"
    return f"the data has changed: {same if counts[0] == counts[1] else f'{counts[0]:,} examples then, {counts[1]:,} now'}"
