"""Fine-tuning: what a run takes over from a trained model, and what it may change.

network, prediction     the model's: they are what its weights mean
noise schedule          the model's or another; the network's clock is translated (process/predictions.py, eq. 2)
range of the data       the model's unit, so a value keeps its meaning; of integers of another type or range, black to white
conditions              known ones go on with their scales and vocabularies, which grow; new ones start silent; of those that
                        the data does not say, nothing is said any more
weights                 copied, see carrying.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from undiffuse.conditioning.augmentation import AugmentationConfig
from undiffuse.conditioning.columns import fit_conditions
from undiffuse.conditioning.conditions import ConditionConfig, cross_attended
from undiffuse.conditioning.spec import Condition
from undiffuse.config import changed, differences
from undiffuse.data.codec import CodecConfig, fitted_codec
from undiffuse.data.dataset import Dataset
from undiffuse.data.pixels import size_text
from undiffuse.data.ranges import colours, found_range
from undiffuse.data.sources import DataConfig, of_images, open_data
from undiffuse.errors import UsageError
from undiffuse.models.config import ModelConfig, StartConfig, rescheduled, with_sampling_completed
from undiffuse.models.denoiser import Denoiser
from undiffuse.models.file import load, weights_digest
from undiffuse.models.transfer import transfer_weights
from undiffuse.networks.adapters import AdapterConfig, adapt, adaptable
from undiffuse.networks.latents import Latents
from undiffuse.process.config import ScheduleConfig
from undiffuse.runs.design import Design
from undiffuse.training.settings import TrainingConfig

FROZEN_SETTINGS = ("network", "c_in", "c_noise", "prediction", "variance_type", "sigma_data")
SMALLEST, LARGEST = 0.05, 5.0  # deviation, and mean, of float data in the model's unit, where its own have 0.5 and 0
LEARNING_RATE = {"weights": 3e-4, "adapters": 3e-3}
FINE_TUNING_STEPS = 1000
MOST_UNFILLED = (
    4  # times the range of the data that the model's may have, to stay the unit; masks of 0 and 1 are no dark photos
)


class FineTuning:
    """The model in a run folder or a model file, as the start of another run. Raises UsageError for a path that holds none."""

    def __init__(self, path: str | Path) -> None:
        self.model = load(path, "cpu")
        path = Path(path).resolve()
        self.config = StartConfig(
            name=path.name if path.is_dir() else f"{path.parent.name}/{path.name}",
            sha256=weights_digest(self.model),
        )

    @property
    def base_config(self) -> ModelConfig:
        """The configuration of the model that is fine-tuned."""
        return self.model.config

    def design(self, settings: Mapping[str, Any]) -> Design:
        """The design of a fine-tuning.   settings: by dotted path, replacing the model's and the defaults.

        Raises UsageError for settings that would make the weights mean something else, with a list.
        """
        of, learned = self.base_config, self.base_config.variance_type.startswith("learned")
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
        design = changed(moved, with_sampling_completed(moved.sampling, rest))
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

    def open(self, data: DataConfig) -> tuple[DataConfig, Dataset]:
        """The data to go on with, images of the model's size where none is asked for. Raises UsageError as `open_data` does."""
        if (
            data.size is not None
            or data.shrink is not None
            or self.base_config.codec.mode is None
            or not of_images(data)
        ):
            return data, open_data(data)
        size = cast(tuple[int, int], self.base_config.codec.shape[1:])
        sized = data.model_copy(update={"size": size})
        opened = open_data(sized)
        note = f"images are brought to {size_text(size)}, the size of the model to start from; --size asks for another"
        return sized, replace(opened, notes=(*opened.notes, note))

    def codec(self, data: Dataset, rows: np.ndarray | None = None, *, all_alike: bool = False) -> CodecConfig:
        """The codec for new data.   rows, all_alike: see `fitted_codec`.

        Raises UsageError for examples that the network cannot take, or of another unit.
        """
        fitted, of = fitted_codec(data, rows, all_alike=all_alike), self.base_config.codec
        if len(fitted.shape) != len(of.shape) or fitted.shape[0] != of.shape[0]:
            raise UsageError(
                f"the model to start from makes examples of {_described(of.shape)}, and the data has {_described(fitted.shape)}: "
                "fine-tuning keeps both numbers; convert the data (--channels, for images), or train a new model."
            )
        same = {"shape": fitted.shape, "mode": fitted.mode}
        inside = of.kind == "integer" and of.holds(data.values)
        filled = all_alike or of.high[0] - of.low[0] <= MOST_UNFILLED * (fitted.high[0] - fitted.low[0])
        if fitted.dtype == of.dtype and inside and filled and (data.low is None or all_alike):
            return of.model_copy(update=same)
        if fitted.kind == "integer" or of.kind == "integer":
            return fitted
        codec = fitted.model_copy(update={"offset": of.offset, "scale": of.scale})
        for channel, (mean, own, zero, known) in enumerate(
            zip(fitted.offset, fitted.scale, of.offset, of.scale, strict=True)
        ):
            if not SMALLEST <= own / known / 2 <= LARGEST or abs(mean - zero) / known > LARGEST:
                raise UsageError(
                    f"channel {channel} of the data is {mean:g} ± {own / 2:g}, and in the model's training it was {zero:g} ± {known / 2:g}: "
                    "bring the data to the same unit."
                )
        return codec

    def latents(self, shape: tuple[int, ...], device: torch.device) -> Latents | None:
        """The model's latents, where it has any, for examples (C, *size)."""
        return self.model.latents.of_shape(shape).to(device) if self.model.latents else None

    def declared(self, conditions: Mapping[str, Condition]) -> dict[str, Condition]:
        """Conditions as declared, with what is not said of them as the model has it. Raises UsageError for another kind."""
        found = {}
        for name, condition in conditions.items():
            known = self.base_config.conditions.get(name)
            if known is not None and known.kind != condition.kind:
                raise UsageError(
                    f"the model was told {name!r} as a {known.kind}, not as a {condition.kind}: declare it so, or give the new one another "
                    f"name, as in --{condition.kind} new={condition.column or name}."
                )
            if known is not None:
                condition = condition.model_copy(
                    update={
                        "inject": condition.inject or known.inject,
                        "dropout": known.dropout if condition.dropout is None else condition.dropout,
                    }
                )
            elif cross_attended(self.base_config.conditions):
                if condition.inject == "cross_attention":
                    raise UsageError(
                        f"{name!r} would take attention from what the model attends to already: tell it by --inject {name}=embedding."
                    )
                condition = condition.model_copy(
                    update={"inject": condition.inject or ("embedding" if condition.kind == "text" else None)}
                )
            found[name] = condition
        return found

    def conditions(
        self,
        data: Dataset,
        declared: Mapping[str, Condition],
        drop: float,
        download: bool,
        rows: np.ndarray | None = None,
        all_alike: bool = False,
    ) -> dict[str, ConditionConfig]:
        """The conditions of the new model: the old ones first, in their order. Raises UsageError where they cannot go on."""
        fitted = fit_conditions(data, declared, drop, download, self.base_config.conditions, rows, all_alike)
        found: dict[str, ConditionConfig] = {}
        for name, known in self.base_config.conditions.items():
            if name in fitted:
                try:
                    found[name] = known.merged_with(fitted[name])  # of one kind, see declared
                except ValueError as error:
                    raise UsageError(f"{known.kind} {name!r}: {error}") from None
            elif self.base_config.degradations and name in ("observation", "task"):
                continue  # made from the examples themselves, see corruptions.py
            elif not isinstance(
                known, AugmentationConfig
            ):  # nothing shifted is the zero vector, so without it nothing changes
                if not known.droppable:
                    raise UsageError(
                        f"the model must always be told {name!r}, a {known.kind}, and nothing says it: add it, as in --{known.kind} {name}=COLUMN."
                    )
                found[name] = known.retire()
        return found | {name: config for name, config in fitted.items() if name not in found}

    def initialize(
        self, denoiser: Denoiser, shape: tuple[int, ...], adapters: AdapterConfig | None
    ) -> dict[str, Tensor]:
        """Fills a denoiser with the model's weights, and gives it adapters; returns which entries of its parameters are new.

        With adapters only these are trained, and the parameters that hold anything new.
        """
        fresh = transfer_weights(self.model.denoiser, denoiser, shape, self.base_config.build_trained_schedule())
        if adapters is not None:
            for name, parameter in denoiser.named_parameters():
                parameter.requires_grad_(bool(fresh[name].any()))
            adapt(
                denoiser.network,
                adapters,
                [path for path in adaptable(denoiser.network) if not fresh[f"network.{path}.weight"].any()],
            )
        return fresh


def _described(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} channel{'s' * (shape[0] > 1)} and {len(shape) - 1} axes"


def kept_codec(before: ModelConfig | None, fitted: CodecConfig, folder: Path) -> CodecConfig:
    """The codec of a run that goes on: the one its network learned, whatever the data of now would suggest.

    before: the run's own model, None for a new run.   Raises UsageError for examples of another shape or type.
    """
    if before is None:
        return fitted
    same = [(codec.shape, codec.kind, codec.dtype) for codec in (before.codec, fitted)]
    if same[0] != same[1]:
        raise UsageError(
            f"the run in {folder} learned examples of shape {same[0][0]} and type {same[0][2]}, and the data has shape {same[1][0]} and type "
            f"{same[1][2]} now: choose another --name."
        )
    return before.codec


def refuse_outside(before: ModelConfig | None, data: Dataset, asked: tuple[float, float] | None) -> None:
    """Raises UsageError for whole numbers beyond the range that a run's network learned, or another range that is asked for."""
    if before is None or before.codec.kind != "integer" or not np.issubdtype(data.values.dtype, np.integer):
        return
    shown = colours(data.values, data.mode)
    low, high, smallest, largest = before.codec.low[0], before.codec.high[0], shown.min(), shown.max()
    if smallest < low or largest > high:
        wanted = asked or found_range(data.values, data.mode)
        raise UsageError(
            f"the values lie in [{smallest}, {largest}] now, and this run keeps {low:g} to {high:g}: choose another --name to read "
            f"{wanted[0]:g} to {wanted[1]:g}."
        )
    if asked is not None and asked != (low, high):
        raise UsageError(
            f"this run keeps {low:g} to {high:g}, as its network learned them: leave --range out, or choose another --name to read "
            f"{asked[0]:g} to {asked[1]:g}."
        )


def kept_conditions(
    before: ModelConfig | None, fitted: Mapping[str, ConditionConfig], folder: Path
) -> dict[str, ConditionConfig]:
    """The conditions of a run that goes on: as its network learned them.

    Raises UsageError for a name that the data says now and the network does not know, or where a condition is of another kind.
    """
    found = dict(fitted)
    for name, known in (before.conditions if before else {}).items():
        now = fitted.get(name)
        if now is None or now == known:
            continue
        if now.kind != known.kind:
            raise UsageError(
                f"the run in {folder} learned {name!r} as a {known.kind}, and it is a {now.kind} now: choose another --name."
            )
        known.merged_with(now)  # of one kind
        new = [value for value in getattr(now, "names", ()) if value not in getattr(known, "names", ())]
        if new:
            raise UsageError(
                f"the data says the {known.kind} {', '.join(repr(value) for value in new[:3])}, which the network in {folder} does not know: leave "
                f"these examples out, or fine-tune a new run by --from {folder} --name NAME."
            )
        found[name] = known
    return found
