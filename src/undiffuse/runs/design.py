"""What a run is, as data: a design is everything about a model and its training except the data; a run's configuration adds that."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from undiffuse.conditioning.base import Name
from undiffuse.conditioning.degradations import DegradationConfig
from undiffuse.conditioning.spec import Condition
from undiffuse.config import Config
from undiffuse.data.augmentation import AugmentConfig
from undiffuse.data.config import DataConfig
from undiffuse.data.splitting import SplitConfig
from undiffuse.errors import UsageError
from undiffuse.models.config import StartConfig
from undiffuse.models.denoiser import VarianceKind
from undiffuse.networks.adapters import AdapterConfig
from undiffuse.networks.building import NetworkConfig
from undiffuse.networks.kl_autoencoder import KLAutoencoderConfig
from undiffuse.networks.latents import FirstStageConfig
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.process.chains import Chain
from undiffuse.process.config import CNoiseConfig, ScheduleConfig
from undiffuse.process.predictions import make_prediction
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.training.objectives import OBJECTIVES
from undiffuse.training.settings import TrainingConfig


class LatentDesign(Config):
    """How a model gets its latents.

    The loss of x and its reconstruction is their mean difference, plus the KL divergence, the perceptual and the adversarial loss, each
    by its weight.
    """

    autoencoder: FirstStageConfig = Field(KLAutoencoderConfig(), description="The autoencoder's architecture.")
    source: str | None = Field(
        None, description="Folder of a trained autoencoder, of undiffuse or of diffusers; None to train one."
    )
    difference: Literal["absolute", "squared"] = Field(
        "absolute", description="Reconstruction loss: the mean of the absolute or of the squared difference."
    )
    kl: float = Field(
        1e-4, ge=0, description="Weight of the KL divergence of z from N(0, I), in nats per number of x; 0 or more."
    )
    extractor: str | None = Field(
        None, description="Folder of a classifier whose features measure the perceptual loss."
    )
    perceptual: float = Field(
        1.0, ge=0, description="Weight of the perceptual loss, 0 or more; counts only with an extractor."
    )
    adversarial: float = Field(0.0, ge=0, description="Weight of the loss of a discriminator of patches, 0 or more.")
    training: TrainingConfig = Field(TrainingConfig(), description="How the autoencoder is trained.")

    @model_validator(mode="after")
    def _nothing_ignored(self) -> LatentDesign:
        if self.training.balance:
            raise UsageError("an autoencoder is trained on examples as they are: leave latent.training.balance out.")
        return self


class Design(Config):
    """Everything about a model and its training except the data: what a preset is."""

    latent: LatentDesign | None = Field(
        None, description="How the model gets its latents; None to diffuse the data itself."
    )
    network: NetworkConfig = Field(UNetConfig(), description="The network's architecture.")
    schedule: ScheduleConfig = Field(ScheduleConfig(), description="The noise schedule.")
    trained_schedule: ScheduleConfig | None = Field(
        None,
        description="The schedule that the network was first trained on, where that is another; process/predictions.py, eq. (2).",
    )
    c_in: Literal["scaled", "one"] = Field(
        "scaled", description="What x_t is multiplied by for the network: scaled (to unit variance) or one."
    )
    c_noise: CNoiseConfig = Field(CNoiseConfig(), description="What the network is given as the timestep.")
    prediction: Literal["epsilon", "x0", "posterior_mean", "v", "flow", "edm"] = Field(
        "v", description="What the network predicts: epsilon, x0, posterior_mean, v, flow or edm."
    )
    variance_type: VarianceKind = Field(
        "fixed_small",
        description="Variance of the reverse transitions: fixed_small, fixed_large, learned_range or learned.",
    )
    sigma_data: float = Field(
        0.5, gt=0, description="Standard deviation of x in the model's range, above 0; used by the prediction edm."
    )
    condition_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Probability, from 0 to less than 1, that training leaves a condition out; conditions may have one of "
        "their own.",
    )
    degradations: dict[Name, DegradationConfig] = Field(
        default_factory=dict, description="Degradations that the model is trained to restore, by name."
    )
    adapters: AdapterConfig | None = Field(
        None, description="Train low-rank adapters (LoRA) and keep the weights that a fine-tuning starts from."
    )
    augment: AugmentConfig = Field(
        AugmentConfig(),
        description="Random changes of the training examples; they are a condition of the model, so that samples show none.",
    )
    training: TrainingConfig = Field(TrainingConfig(), description="How the model is trained.")
    sampling: SamplingConfig = Field(SamplingConfig(), description="How the model samples by default.")

    @model_validator(mode="after")
    def _consistent(self) -> Design:
        schedule = self.schedule.build()
        trained = self.trained_schedule.build() if self.trained_schedule else None
        make_prediction(
            self.prediction, schedule, trained_schedule=trained, noise=self.c_noise.build(), unscaled=self.c_in == "one"
        )
        learned = self.variance_type.startswith("learned")
        objective, entry = self.training.objective, OBJECTIVES[self.training.objective]
        if learned and entry.variance == "none":
            raise UsageError(
                f"variance_type {self.variance_type!r} is not trained by the objective {objective!r}, which only sees the mean: "
                "use the objective 'hybrid' (or 'bound')."
            )
        if entry.bound and not isinstance(schedule, Chain):
            raise UsageError(
                f"the objective {objective!r} is a bound over a discrete chain, but the schedule {self.schedule.name!r} is "
                "continuous: use a discrete one, such as cosine."
            )
        if entry.variance == "learned" and not learned:
            raise UsageError(
                f"the objective {objective!r} adds the bound only to train the variance: use it with 'learned_range' or 'learned'."
            )
        return self


class RunConfig(Config):
    """A whole run: config.json of the run folder."""

    measured_on: Literal["all", "training"] = Field(
        "all",
        description="Examples that means and deviations are measured on: training, or all in runs of older versions.",
    )
    data: DataConfig = Field(description="The data set, and how it is read.")
    fingerprint: str = Field(description="Hash of the data.")
    examples: int | None = Field(None, description="Number of examples in the data; None in runs of older versions.")
    split: SplitConfig | None = Field(
        None,
        description="Which examples are held out; None in runs of older versions, whose split follows from data.held_out "
        "and training.seed.",
    )
    fingerprints: dict[str, str] = Field(
        default_factory=dict,
        description="Hashes of the .npy files and pictures that conditions are read from, by name.",
    )
    conditions: dict[Name, Condition] = Field(description="The conditions as declared, by name.")
    design: Design = Field(description="Everything about the model and its training except the data.")
    start: StartConfig | None = Field(
        None, description="The model it was fine-tuned from; None for a model trained from scratch."
    )
