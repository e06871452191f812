"""Configurations: everything a model or a run is, as data.  Frozen, strict, unknown keys are errors, written as JSON.

`ModelConfig` is what the model file says of itself: enough to sample with no other setting.  `RunConfig` adds where the
data came from and how it was trained.  Contradictions between settings are refused when a configuration is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from undiffuse.conditioning.conditions import ConditionConfig, Conditions, attended, channels_beside
from undiffuse.conditioning.declared import Condition
from undiffuse.data.codec import CodecConfig
from undiffuse.data.sources import DataConfig
from undiffuse.denoiser import Denoiser, Variance
from undiffuse.networks.building import NetworkConfig, build_network
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.process.betas import BETAS, zero_terminal_snr
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.predictions import make_prediction
from undiffuse.process.schedules import CONTINUOUS, Schedule
from undiffuse.sampling.grids import at_logsnrs, churned, make_grid, restarted
from undiffuse.sampling.solvers.base import Solver
from undiffuse.sampling.solvers.registry import Settings, make_solver
from undiffuse.sampling.trajectory import NoiseKind
from undiffuse.training.settings import TrainingConfig

DEFAULT_T = 1000


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ScheduleConfig(Config):
    """name: of BETAS (a chain of T steps), of CONTINUOUS, or "betas" with a list of them.

    zero_terminal_snr: rescale a chain to end in pure noise.   shift: added to every log-SNR.
    """

    name: str = "cosine"
    T: int | None = None
    betas: tuple[float, ...] | None = None
    zero_terminal_snr: bool = False
    shift: float = 0.0

    def build(self) -> Schedule:
        """Raises ValueError for an unknown name, or settings that contradict each other."""
        if (self.name == "betas") != (self.betas is not None):
            raise ValueError("a list of betas and the schedule name 'betas' go together: give both or neither.")
        if self.name in CONTINUOUS:
            if self.T is not None or self.zero_terminal_snr:
                raise ValueError(
                    f"the schedule {self.name!r} is continuous: it has no number of steps T and no zero-terminal-SNR form; "
                    "use a discrete one, such as cosine, for these."
                )
            return _shifted(CONTINUOUS[self.name](), self.shift)
        if self.name not in BETAS and self.betas is None:
            names = ", ".join([*BETAS, *CONTINUOUS, "betas"])
            raise ValueError(f"there is no noise schedule {self.name!r}: choose one of {names}.")
        if self.betas is not None:
            betas = torch.tensor(self.betas, dtype=torch.float64)
        else:
            betas = BETAS[self.name](DEFAULT_T if self.T is None else self.T)
        return _shifted(Chain(zero_terminal_snr(betas) if self.zero_terminal_snr else betas), self.shift)


def _shifted(schedule: Schedule, shift: float) -> Schedule:
    return schedule.shifted(shift) if shift else schedule


UNGUIDED: dict[str, Any] = {
    "guidance": 1.0, "guidance_scales": None, "guidance_form": "plain", "guidance_rescale": 0.0, "guidance_interval": None,
}  # fmt: skip


class SamplingConfig(Config):
    """How a model samples when nothing else is said: by default 16 steps, and evaluations of the network, of the corrected
    Adams method in the angle; docs/solvers.md has the measurements behind this choice.

    grid, steps: see sampling/grids.py; grid "aligned" has `logsnrs`, its levels.   order, eta, variance, corrections: of
    the solver, None for its own; see sampling/solvers/registry.py.   churn: EDM's, total over the grid.
    restart: (low, high, times), the stretch of sigma/alpha to walk again.   noise: "brownian" is the same for any grid.
    guidance: 1 plain conditional, 0 unconditional.   guidance_scales: of conditions by name, `guidance` of the others.
    guidance_form: plain, projected (APG) or plus (CFG++, guidance in [0, 1]);   guidance_rescale: of the plain form;
    guidance_interval: of sigma/alpha; see sampling/guidance.py.
    clip: of x̂: "range" of the data, "dynamic", "none".
    keep_eps: walk with the noise of the unclipped x̂ (diffusers' convention) instead of re-deriving it (OpenAI's).
    """

    solver: str = "adams"
    grid: str = "angle_beta"
    steps: int = Field(16, ge=1)
    logsnrs: tuple[float, ...] | None = None
    order: int | None = None
    eta: float | None = Field(None, ge=0, le=1)
    variance: float | None = Field(None, ge=0, le=1)
    corrections: int | None = Field(None, ge=1)
    churn: float = Field(0.0, ge=0)
    restart: tuple[float, float, Annotated[int, Field(ge=1)]] | None = None
    noise: NoiseKind = "independent"
    guidance: float = 1.0
    guidance_scales: dict[str, float] | None = None
    guidance_form: Literal["plain", "projected", "plus"] = "plain"
    guidance_rescale: float = Field(0.0, ge=0, le=1)
    guidance_interval: tuple[float, float] | None = None
    clip: Literal["range", "dynamic", "none"] = "range"
    keep_eps: bool = False

    @model_validator(mode="after")
    def _grid_of_levels(self) -> SamplingConfig:
        if (self.grid == "aligned") != (self.logsnrs is not None):
            raise ValueError("the grid 'aligned' and a list of log-SNRs go together: give both or neither.")
        return self

    @model_validator(mode="after")
    def _one_guidance(self) -> SamplingConfig:
        if self.guidance_rescale and self.guidance_form != "plain":
            raise ValueError(f"guidance_rescale belongs to the plain form of guidance, not to {self.guidance_form!r}: leave one out.")
        if self.guidance_scales and (self.guidance_form != "plain" or self.guidance_rescale):
            raise ValueError("scales for each condition belong to the plain form of guidance, without rescaling: leave one out.")
        if self.guidance_form == "plus" and not 0 <= self.guidance <= 1:
            raise ValueError(f"the guidance of the form 'plus' (CFG++) lies between 0 and 1, but is {self.guidance:g}: try 0.6.")
        if self.guidance == 1 and not self.guidance_scales and self.guidance_form != "plus" and (self.guidance_rescale or self.guidance_interval):
            raise ValueError("guidance 1 guides nothing, so there is nothing to rescale or to keep in an interval: give another guidance.")
        if self.guidance_interval is not None and not 0 <= self.guidance_interval[0] < self.guidance_interval[1]:
            raise ValueError("a guidance interval goes from a lower to a higher sigma/alpha, none below 0: swap or change them.")
        if self.guidance_interval is not None and math.isinf(self.guidance_interval[1]):
            raise ValueError("a guidance interval ends at a number, for it is written into files: 1000000 is above any level.")
        return self

    def build_solver(self, schedule: Schedule) -> Solver:
        return make_solver(self.solver, Settings(self.order, self.eta, self.variance, self.corrections), schedule)

    def build_levels(self, schedule: Schedule) -> Level:
        """The table of levels to visit."""
        levels = make_grid(schedule, self.grid, self.steps) if self.logsnrs is None else at_logsnrs(schedule, self.logsnrs)
        if self.restart:
            levels = restarted(levels, *self.restart)
        return churned(schedule, levels, self.churn) if self.churn else levels


class AugmentConfig(Config):
    """Against copying of small data. probability: that an example is shifted, by up to `shift` places along each axis."""

    probability: float = Field(0.0, ge=0, le=1)
    shift: int = Field(1, ge=1)


class Design(Config):
    """Everything about a model and its training except the data: what a preset is.

    drop: probability that a condition is dropped in training, so that guidance has an unconditional model; of conditions
    that have none of their own.
    augment: of the training examples; the model is told, so that samples show none of it.
    sigma_data: standard deviation of x in the model's range, for karras and edm.
    """

    network: NetworkConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    prediction: Literal["noise", "clean", "mean", "velocity", "flow", "karras"] = "velocity"
    variance: Variance = "fixed_small"
    sigma_data: float = Field(0.5, gt=0)
    drop: float = Field(0.1, ge=0, lt=1)
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Design:
        schedule = self.schedule.build()
        make_prediction(self.prediction, schedule)
        learned = self.variance.startswith("learned")
        objective = self.training.objective
        if learned and objective == "simple":
            raise ValueError(
                f"variance {self.variance!r} is not trained by the objective 'simple', which only sees the mean: "
                "use the objective 'hybrid' (or 'bound')."
            )
        if objective != "simple" and not isinstance(schedule, Chain):
            raise ValueError(
                f"the objective {objective!r} is a bound over a discrete chain, but the schedule {self.schedule.name!r} is "
                "continuous: use a discrete one, such as cosine."
            )
        if objective == "hybrid" and not learned:
            raise ValueError("the objective 'hybrid' adds the bound only to train the variance: use it with 'learned_range' or 'learned'.")
        return self


class ModelConfig(Config):
    """What a model file says of itself.

    provenance: where it came from: versions, data, steps, scores; for people, never read by the code.
    weights: the set that samples, "averaged" or "raw", whichever was better on held-out data.
    """

    codec: CodecConfig
    network: NetworkConfig
    schedule: ScheduleConfig
    prediction: Literal["noise", "clean", "mean", "velocity", "flow", "karras"]
    variance: Variance
    sigma_data: float
    conditions: dict[str, ConditionConfig]
    sampling: SamplingConfig
    weights: Literal["averaged", "raw"] = "averaged"
    provenance: dict[str, Any] = Field(default_factory=dict)

    def build(self) -> tuple[Denoiser, Schedule]:
        """The network with fresh weights, as a denoiser on its schedule. Raises ValueError for a network that does not suit the data."""
        schedule = self.schedule.build()
        channels, *size = self.codec.shape
        network = build_network(
            self.network, channels + channels_beside(self.conditions), 2 * channels if self.variance.startswith("learned") else channels,
            size, tokens=attended(self.conditions),
        )  # fmt: skip
        prediction = make_prediction(self.prediction, schedule, self.sigma_data)
        if len(size) == 2:  # images are convolved faster with their channels innermost
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        conditions = Conditions(self.conditions, network.embedding_width)
        return Denoiser(network, prediction, conditions, self.variance), schedule


class RunConfig(Config):
    """A whole run: config.json of the run folder.

    fingerprint: of the data.   fingerprints: of the .npy files that conditions are read from.   conditions: as declared, by name.
    """

    data: DataConfig
    fingerprint: str
    fingerprints: dict[str, str] = Field(default_factory=dict)
    conditions: dict[str, Condition]
    design: Design


C = TypeVar("C", bound=BaseModel)


def parsed(kind: type[C], content: Any, what: str) -> C:
    """A configuration from plain data, JSON's lists for tuples. Raises ValueError: one sentence, the first problem."""
    try:
        return kind.model_validate_json(json.dumps(content))
    except ValidationError as error:
        raise ValueError(f"{what}: {explained(error)}") from None


def explained(error: ValidationError) -> str:
    """The first problem of a validation, as a sentence."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"there is no setting {place!r}."
    return f"{place}: {message} (it is {first['input']!r})." if place and first["type"] != "value_error" else f"{message}."


def changed(config: C, settings: Mapping[str, Any], what: str = "these settings do not work") -> C:
    """A copy with settings replaced by dotted path, {"training.steps": 2000}, validated as a whole."""
    content = config.model_dump(mode="json")
    for path, value in settings.items():
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                raise ValueError(f"there is no setting {path!r}: {parent!r} is none of {', '.join(place)}.")
            place = place[parent]
        if last not in place:
            raise ValueError(f"there is no setting {path!r}: choose one of {', '.join(place)}.")
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
