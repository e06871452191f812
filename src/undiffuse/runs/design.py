"""What a run is, as data: a design is everything about a model and its training except the data; a run's configuration adds that."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from undiffuse.conditioning.base import Name
from undiffuse.conditioning.degradations import DegradationConfig
from undiffuse.conditioning.spec import Condition
from undiffuse.config import Config
from undiffuse.data.sources import DataConfig
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
from undiffuse.training.settings import TrainingConfig


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
    trained_schedule: the schedule that the network was first trained on, where that is not `schedule`; see process/predictions.py, eq. (2).
    c_in: what x_t is multiplied by for the network: "scaled", to unit length, as the table of process/predictions.py has it, or "one".
    c_noise: what the network is given as its timestep.
    adapters: train these instead of the weights that a fine-tuning starts from.
    """

    latent: LatentDesign | None = None
    network: NetworkConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    trained_schedule: ScheduleConfig | None = None
    c_in: Literal["scaled", "one"] = "scaled"
    c_noise: CNoiseConfig = CNoiseConfig()
    prediction: Literal["epsilon", "x0", "posterior_mean", "v", "flow", "edm"] = "v"
    variance: VarianceKind = "fixed_small"
    sigma_data: float = Field(0.5, gt=0)
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    tasks: dict[Name, DegradationConfig] = Field(default_factory=dict)
    adapters: AdapterConfig | None = None
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Design:
        schedule = self.schedule.build()
        trained = self.trained_schedule.build() if self.trained_schedule else None
        make_prediction(
            self.prediction, schedule, trained_schedule=trained, noise=self.c_noise.build(), unscaled=self.c_in == "one"
        )
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
            raise UsageError(
                "the objective 'hybrid' adds the bound only to train the variance: use it with 'learned_range' or 'learned'."
            )
        return self


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
