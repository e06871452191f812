"""The configuration in a model file: enough to build the network and to sample with no other setting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from pydantic import Field

from undiffuse.conditioning.base import Name
from undiffuse.conditioning.conditions import ConditionConfig, Conditions, concat_channels, cross_attended
from undiffuse.conditioning.degradations import DegradationConfig
from undiffuse.config import Config
from undiffuse.data.codec import CodecConfig
from undiffuse.data.file_formats import FileFormat
from undiffuse.errors import UsageError
from undiffuse.models.denoiser import Denoiser, VarianceKind
from undiffuse.networks.building import NetworkConfig, build_network
from undiffuse.networks.latents import LatentConfig
from undiffuse.process.categories import Categories, CategoryBlock
from undiffuse.process.chains import Chain
from undiffuse.process.config import CNoiseConfig, ScheduleConfig
from undiffuse.process.predictions import Prediction, make_prediction
from undiffuse.process.schedules import Schedule
from undiffuse.sampling.settings import SamplingConfig, completed


class StartConfig(Config):
    """The model that a fine-tuning starts from."""

    name: str = Field(description="Name of the run or file that the fine-tuning started from.")
    sha256: str = Field(description="SHA-256 of its weights, in hexadecimal digits.")


class ModelConfig(Config):
    """The configuration in a model file."""

    codec: CodecConfig = Field(description="How stored values become the model's range and back.")
    file_format: FileFormat | None = Field(
        None, description="The files that samples are written in, where pictures and arrays do not hold all; else None."
    )
    latent: LatentConfig | None = Field(
        None, description="The autoencoder, where x is its latents; None for a model of the data itself."
    )
    network: NetworkConfig = Field(description="The network's architecture.")
    schedule: ScheduleConfig = Field(description="The noise schedule it samples on.")
    trained_schedule: ScheduleConfig | None = Field(
        None, description="The schedule that the network was first trained on, where that is another."
    )
    c_in: Literal["scaled", "one"] = Field(
        "scaled", description="What x_t is multiplied by for the network: scaled (to unit variance) or one."
    )
    c_noise: CNoiseConfig = Field(CNoiseConfig(), description="What the network is given as the timestep.")
    prediction: Literal["epsilon", "x0", "posterior_mean", "v", "flow", "edm"] = Field(
        description="What the network predicts: epsilon, x0, posterior_mean, v, flow or edm."
    )
    variance_type: VarianceKind = Field(
        description="Variance of the reverse transitions: fixed_small, fixed_large, learned_range or learned."
    )
    sigma_data: float = Field(
        description="Standard deviation of x in the model's range, above 0; used by the prediction edm."
    )
    conditions: dict[Name, ConditionConfig] = Field(description="The conditions, by name.")
    degradations: dict[Name, DegradationConfig] = Field(
        default_factory=dict, description="The degradations that it was trained to restore, by name."
    )
    sampling: SamplingConfig = Field(description="How it samples by default.")
    weights: Literal["ema", "online"] = Field(
        "ema", description="The weights that sample: ema or online, whichever was better on held-out data."
    )
    provenance: dict[str, Any] = Field(
        default_factory=dict,
        description="Where it came from: versions, data, steps, scores. For people; no code reads it.",
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *size) of x, which is the data's unless it is an autoencoder's latents."""
        return self.codec.x_shape if self.latent is None else self.latent.latent_shape

    def build(self) -> tuple[Denoiser, Schedule]:
        """The network with fresh weights, as a denoiser on its schedule.

        Raises UsageError for a network that does not suit the data, and where torch makes new numbers in another precision.
        """
        if torch.get_default_dtype() != torch.float32:
            raise UsageError(
                f"models are float32, and torch's default is {torch.get_default_dtype()}: call torch.set_default_dtype(torch.float32)."
            )
        schedule = self.schedule.build()
        channels, *size = self.shape
        network = build_network(
            self.network,
            channels + concat_channels(self.conditions),
            2 * channels if self.variance_type.startswith("learned") else channels,
            size,
            tokens=cross_attended(self.conditions),
            embeds=any(config.inject == "embedding" for config in self.conditions.values()),
        )
        if len(size) == 2:  # images are convolved faster with their channels innermost
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        conditions = Conditions(self.conditions, network.embedding_width, network.conditioning_width)
        encoder = self.codec.encoder
        blocks = [] if encoder is None else [CategoryBlock(*block) for block in encoder.blocks]
        categories = Categories(blocks, channels) if blocks else None
        return Denoiser(network, self.build_prediction(), conditions, self.variance_type, categories), schedule

    def build_trained_schedule(self) -> Schedule:
        """The schedule that the network was first trained on."""
        return (self.trained_schedule or self.schedule).build()

    def build_prediction(self) -> Prediction:
        """What the network's output means, with the schedule it was trained on."""
        trained = self.trained_schedule.build() if self.trained_schedule else None
        return make_prediction(
            self.prediction, self.schedule.build(), self.sigma_data, trained, self.c_noise.build(), self.c_in == "one"
        )


def with_sampling_completed(own: SamplingConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a Design by dotted path, with what those of its sampling leave open; see sampling/settings.py, `completed`."""
    requested = {
        path.removeprefix("sampling."): value for path, value in settings.items() if path.startswith("sampling.")
    }
    return dict(settings) | {f"sampling.{name}": value for name, value in completed(own, requested).items()}


class OnSchedule(Protocol):
    """What a model's configuration and a design have in common."""

    @property
    def schedule(self) -> ScheduleConfig:
        """The noise schedule."""

    @property
    def trained_schedule(self) -> ScheduleConfig | None:
        """The schedule that the network was first trained on, where that is another."""

    @property
    def variance_type(self) -> VarianceKind:
        """The variance of the reverse transition."""

    @property
    def sampling(self) -> SamplingConfig:
        """The sampling settings."""

    def model_copy(self, *, update: Mapping[str, Any]) -> Self:
        """A copy with some fields replaced."""


OfModel = TypeVar("OfModel", bound=OnSchedule)


def rescheduled(config: OfModel, schedule: ScheduleConfig) -> OfModel:
    """A model on another schedule: its network is evaluated at the levels that it was trained on, and its way of sampling where that works there.

    Raises UsageError for a learned variance, which is that of one chain's transitions.
    """
    trained = config.trained_schedule or config.schedule
    if schedule == config.schedule:
        return config
    if config.variance_type == "learned":
        raise UsageError(
            "the variance 'learned' is that of one chain's transitions, so its schedule cannot change: leave the schedule as it is."
        )
    built, sampling = schedule.build(), config.sampling
    try:
        sampling.build_levels(built)
        sampling.build_solver(built)
    except ValueError:  # such as a grid of one chain
        sampling = SamplingConfig()
        if isinstance(built, Chain) and sampling.steps > len(built):
            sampling = SamplingConfig(steps=len(built))
    return config.model_copy(
        update={
            "schedule": schedule,
            "trained_schedule": None if schedule == trained else trained,
            "sampling": sampling,
        }
    )
