"""Classifier: what can be read off a noisy example, p(y | x_t), for guidance by its gradient.

The encoder half of a U-Net, shown x_t/hypot(alpha, sigma) and the timestep, answers with the numbers of a distribution of y:

    class    logits                          log p(y | x_t) = log softmax                  (Dhariwal & Nichol 2021, section 4)
    number   a mean m and log-variance v     log p = -((z - m)² exp(-v) + v + log 2 pi)/2   of the standardised number z
    tags     a logit each                    the sum of log sigmoid(± logit)
    vector   a mean m                        -|z - m|²/2

A model can be guided by a classifier that knows the same x_t: data of the same shape and scale, noise of the same schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undiffuse.conditioning.base import ConditionModule, Name
from undiffuse.conditioning.classes import ClassCondition, ClassConfig
from undiffuse.conditioning.numbers import NumberCondition, NumberConfig
from undiffuse.conditioning.tags import TagsCondition, TagsConfig
from undiffuse.conditioning.vectors import VectorCondition, VectorConfig
from undiffuse.config import Config, parsed
from undiffuse.data.codec import CodecConfig
from undiffuse.errors import UsageError
from undiffuse.models import storage
from undiffuse.models.config import ModelConfig
from undiffuse.models.devices import usable_device
from undiffuse.networks.encoder import UNetEncoder
from undiffuse.networks.latents import LatentConfig
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.process.config import ScheduleConfig
from undiffuse.process.levels import Level, broadcast_to
from undiffuse.sampling.classifier_guidance import Guide

CLASSIFIER_FILE = "classifier.safetensors"
LOGVAR_RANGE = (-8.0, 4.0)  # of standardised numbers
Target = ClassConfig | NumberConfig | TagsConfig | VectorConfig
READERS: dict[str, Callable[[Any, int], ConditionModule]] = {
    "class": ClassCondition,
    "number": NumberCondition,
    "tags": TagsCondition,
    "vector": VectorCondition,
}


class ClassifierConfig(Config):
    """The configuration in a classifier file."""

    codec: CodecConfig = Field(description="How stored values become the model's range and back.")
    latent: LatentConfig | None = Field(None, description="The autoencoder, where x is its latents.")
    network: UNetConfig = Field(description="The network: the encoder half of a U-Net.")
    schedule: ScheduleConfig = Field(description="The noise schedule of its inputs.")
    name: Name = Field(description="Name of the condition that it predicts.")
    target: Target = Field(
        discriminator="kind", description="The condition that it predicts, with its class names or statistics."
    )
    weights: Literal["ema", "online"] = Field(
        "ema", description="The weights that are used: ema or online, whichever was better on held-out data."
    )
    can_guide: tuple[float, float] | None = Field(
        None,
        description="Lowest and highest sigma/alpha where it does better than chance on held-out examples; None for "
        "nowhere known.",
    )
    provenance: dict[str, Any] = Field(
        default_factory=dict, description="Where it came from. For people; no code reads it."
    )

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *size) of x."""
        return self.codec.x_shape if self.latent is None else self.latent.latent_shape

    def build(self) -> Classifier:
        """With fresh weights."""
        return Classifier(self)


class Classifier(nn.Module):
    """(x_t, level) → the numbers of a distribution, (B, outputs)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.network = UNetEncoder(config.network, config.shape, outputs(config.target))
        # reads values of users as a condition of this kind does; its embedding is not used, so it is kept out of the parameters
        self._reader = (READERS[config.target.kind](config.target, 1),)

    def forward(self, x_t: Tensor, level: Level) -> Tensor:
        """The numbers of the distribution of y, (B, outputs), given x_t (B, *shape) at a level."""
        timestep = level.timestep.to(device=x_t.device, dtype=torch.float32).expand(len(x_t))
        scale = broadcast_to(1 / torch.hypot(level.alpha, level.sigma), x_t)
        out: Tensor = self.network(scale * x_t, timestep).to(torch.promote_types(x_t.dtype, torch.float32))
        return out

    def features(self, x: Tensor) -> list[Tensor]:
        """What the network makes of clean examples on the way to its answer, (B, channels, *size) each."""
        schedule = self.config.schedule.build()
        level = schedule(schedule.t_min)
        scale = broadcast_to(level.alpha / torch.hypot(level.alpha, level.sigma), x)
        return self.network.features(scale * x, level.timestep.to(device=x.device, dtype=torch.float32).expand(len(x)))

    def read(self, values: list[Any]) -> Tensor:
        """Values of the condition, encoded, (n, …). Raises UsageError for what cannot be understood."""
        try:
            return self._reader[0].read(values)
        except ValueError as error:
            raise UsageError(f"{self.config.name}: {error}") from None

    def log_likelihood(self, answer: Tensor, encoded: Tensor) -> Tensor:
        """log p(y | x_t) (B,) of encoded y (B, …), for an answer of `forward`."""
        return log_likelihood(self.config.target, answer, encoded)

    def guide(
        self,
        requested: object,
        n: int,
        scale: float = 1.0,
        form: Literal["score", "mean"] = "score",
        interval: tuple[float, float] | None = None,
    ) -> Guide:
        """The guide towards a value for each of n examples: one value for all, or a list of n.

        scale, form, interval: see Guide; where no interval is given, up to the noisiest level at which it beats chance.
        """
        reader = self._reader[0]
        each = reader.each(requested, n, self.config.name)
        if any(value is None for value in each):
            raise UsageError(f"{self.config.name}: a classifier guides towards a value: give one for every example.")
        encoded = self.read(each).to(next(self.parameters()).device)

        def function(x_t: Tensor, level: Level, index: Tensor) -> Tensor:
            return self.log_likelihood(self(x_t, level), encoded[index])

        useful = (0.0, math.inf) if self.config.can_guide is None else (0.0, self.config.can_guide[1])
        return Guide(function, scale, "x_t", form, interval or useful)

    def refuse_other(self, model: ModelConfig) -> None:
        """Raises UsageError for a model whose x_t this classifier was not trained on."""
        if model.codec.shape != self.config.codec.shape:
            raise UsageError(
                f"the classifier reads examples of shape {self.config.codec.shape}, but the model makes {model.codec.shape}."
            )
        if model.latent != self.config.latent:
            raise UsageError(
                "the classifier and the model have different latents: train one with 'undiffuse classifier RUN'."
            )
        if model.codec != self.config.codec:
            raise UsageError(
                "the classifier was trained on data of another range or type than the model's: train one on the model's run."
            )
        if model.schedule != self.config.schedule:
            raise UsageError(
                f"the classifier was trained on the noise schedule {self.config.schedule.name!r}, the model on {model.schedule.name!r}"
                f"{'' if model.schedule.name != self.config.schedule.name else ' with other settings'}: train one with 'undiffuse classifier RUN'."
            )


def outputs(target: Target) -> int:
    """How many numbers describe a distribution of the target."""
    if isinstance(target, NumberConfig):
        return 2
    return len(target.mean) if isinstance(target, VectorConfig) else len(target.names)


def log_likelihood(target: Target, answer: Tensor, encoded: Tensor) -> Tensor:
    """See the top of this file; (B,), 0 where the value is absent."""
    if isinstance(target, ClassConfig):
        present = encoded < len(target.names)
        chosen = answer.log_softmax(1).gather(1, encoded.clamp(max=len(target.names) - 1)[:, None])[:, 0]
        return torch.where(present, chosen, 0.0)
    present, values = encoded[:, -1], encoded[:, :-1]
    if isinstance(target, NumberConfig):
        mean, log_variance = answer[:, :1], answer[:, 1:].clamp(*LOGVAR_RANGE)
        each = -((values - mean) ** 2 * (-log_variance).exp() + log_variance + math.log(2 * math.pi)) / 2
    elif isinstance(target, TagsConfig):
        each = nn.functional.logsigmoid(answer * (2 * values - 1))
    else:
        each = -((values - answer) ** 2) / 2
    return present * each.sum(1)


def save_classifier(
    path: Path, config: ClassifierConfig, online: Mapping[str, Tensor], ema: Mapping[str, Tensor]
) -> None:
    """Writes a classifier file atomically and reads it back."""
    storage.write(path, "classifier", config.model_dump_json(), storage.named(online=online, ema=ema))


def load_classifier(path: str | Path, device: torch.device | str = "cpu") -> Classifier:
    """The classifier in a file, or in a folder that 'undiffuse classifier' made. Raises UsageError."""
    path = Path(path)
    path = path / CLASSIFIER_FILE if path.is_dir() else path
    if not path.exists():
        raise UsageError(f"there is no classifier at {path}: train one with 'undiffuse classifier RUN'.")
    header = storage.read_header(path, "classifier")
    config = parsed(ClassifierConfig, header.content, f"{path} has a header this version cannot use")
    classifier = config.build()
    storage.fill(header, (dict(classifier.named_parameters()), config.weights, storage.SETS))
    return classifier.to(usable_device(device)).eval().requires_grad_(False)
