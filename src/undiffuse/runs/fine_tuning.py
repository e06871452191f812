"""Fine-tuning: what a run takes over from a trained model, and what it may change.

network, prediction     the model's: they are what its weights mean
noise schedule          the model's or another; the network's clock is translated (process/predictions.py, eq. 2)
range of the data       the model's unit, so a value keeps its meaning; of integers of another type or range, black to white (codecs.py)
conditions              known ones go on with their scales and vocabularies, which grow; new ones start without effect; those that
                        the data does not have are never given again (conditions.py)
weights                 copied, see models/transfer.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from undiffuse.config import changed, differences
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.resizing import size_text
from undiffuse.data.sources import of_images, open_data
from undiffuse.errors import UsageError
from undiffuse.models.config import ModelConfig, StartConfig, rescheduled, with_sampling_completed
from undiffuse.models.denoiser import Denoiser
from undiffuse.models.file import load, weights_digest
from undiffuse.models.model import Model
from undiffuse.models.transfer import transfer_weights
from undiffuse.networks.adapters import AdapterConfig, adapt, adaptable
from undiffuse.networks.latents import Latents
from undiffuse.process.config import ScheduleConfig
from undiffuse.runs.design import Design
from undiffuse.training.settings import TrainingConfig

FROZEN_SETTINGS = ("network", "c_in", "c_noise", "prediction", "variance_type", "sigma_data")
LEARNING_RATE = {"weights": 3e-4, "adapters": 3e-3}
FINE_TUNING_STEPS = 1000


@dataclass(frozen=True)
class PretrainedModel:
    """The model that a fine-tuning starts from.   path: where it is.   start: how the run's configuration names it."""

    path: str
    model: Model
    start: StartConfig

    @property
    def config(self) -> ModelConfig:
        """The model's."""
        return self.model.config

    def latents(self, shape: tuple[int, ...], device: torch.device) -> Latents | None:
        """The model's latents, where it has any, for examples (C, *size)."""
        return self.model.latents.of_shape(shape).to(device) if self.model.latents else None


def load_pretrained(path: str | Path) -> PretrainedModel:
    """The model in a run folder or a model file. Raises UsageError where there is none."""
    model, whole = load(path, "cpu"), Path(path).resolve()
    name = whole.name if whole.is_dir() else f"{whole.parent.name}/{whole.name}"
    return PretrainedModel(str(path), model, StartConfig(name=name, sha256=weights_digest(model)))


def fine_tuned_design(base: ModelConfig, settings: Mapping[str, Any], planned: Design | None = None) -> Design:
    """The design of a fine-tuning.   settings: by dotted path, replacing the model's and the defaults, or those of the plan.

    Raises UsageError for settings that would make the weights mean something else, with a list.
    """
    of, learned = base, base.variance_type.startswith("learned")
    before = Design(
        network=of.network,
        schedule=of.schedule,
        trained_schedule=of.trained_schedule,
        c_in=of.c_in,
        c_noise=of.c_noise,
        prediction=of.prediction,
        variance_type=of.variance_type,
        sigma_data=of.sigma_data,
        sampling=of.sampling,
        degradations=of.degradations,
        training=TrainingConfig(
            steps=FINE_TUNING_STEPS,
            batch_size=64,
            learning_rate=LEARNING_RATE["adapters" if settings.get("adapters") else "weights"],
            objective="hybrid" if learned else "simple",
            timestep_sampling="uniform" if learned else "logit_normal",
        ),
    )
    design = _with_settings(of, before, settings) if planned is None else changed(planned, settings)
    other = {
        path: values
        for path, values in differences(before, design).items()
        if path.startswith(FROZEN_SETTINGS) and path != "network.dropout"
    }
    if other and not (
        other.keys() == {"variance_type"} and not learned and not design.variance_type.startswith("learned")
    ):
        listed = "; ".join(f"{path}: {old!r} there, {new!r} now" for path, (old, new) in list(other.items())[:6])
        raise UsageError(
            f"the weights to start from were trained with other settings of the network ({listed}): leave these out."
        )
    return design


def _with_settings(of: ModelConfig, before: Design, settings: Mapping[str, Any]) -> Design:
    """The design of a model, for its own schedule, with settings by dotted path, another schedule's among them."""
    noise = {path: value for path, value in settings.items() if path.partition(".")[0] == "schedule"}
    another = (
        noise.get("schedule.name", of.schedule.name) != of.schedule.name
    )  # which keeps nothing of the old one, such as its T
    schedule = changed(of.model_copy(update={"schedule": ScheduleConfig()}) if another else of, noise).schedule
    schedule.build()
    moved, rest = (
        rescheduled(before, schedule),
        {path: value for path, value in settings.items() if path not in noise},
    )
    return changed(moved, with_sampling_completed(moved.sampling, rest))


def open_for(base: ModelConfig, data: DataConfig) -> tuple[DataConfig, Dataset]:
    """The data to go on with, images of the model's size where none is asked for. Raises UsageError as `open_data` does."""
    if data.size is not None or data.shrink is not None or base.codec.mode is None or not of_images(data):
        return data, open_data(data)
    size = cast(tuple[int, int], base.codec.shape[1:])
    sized = data.model_copy(update={"size": size})
    opened = open_data(sized)
    note = f"images are brought to {size_text(size)}, the size of the model to start from; `size` asks for another"
    return sized, replace(opened, notes=(*opened.notes, note))


def initialize(
    denoiser: Denoiser, base: Model, shape: tuple[int, ...], adapters: AdapterConfig | None
) -> dict[str, Tensor]:
    """Fills a denoiser with the model's weights, and gives it adapters; returns which entries of its parameters are new.

    With adapters only these are trained, and the parameters that hold anything new.
    """
    fresh = transfer_weights(base.denoiser, denoiser, shape, base.config.build_trained_schedule())
    if adapters is not None:
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(bool(fresh[name].any()))
        adapt(
            denoiser.network,
            adapters,
            [path for path in adaptable(denoiser.network) if not fresh[f"network.{path}.weight"].any()],
        )
    return fresh
