"""The design of a run: a preset's or that of a fine-tuning, with the settings that are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undiffuse.config import changed
from undiffuse.data.augmentation import parse_augmentation
from undiffuse.errors import UsageError
from undiffuse.models.config import with_sampling_completed
from undiffuse.process.chains import Chain
from undiffuse.runs.autoencoder import load_autoencoder
from undiffuse.runs.design import Design, LatentDesign
from undiffuse.runs.presets import design_for, latents
from undiffuse.training.cadence import parse_duration


def design_settings(
    settings: Mapping[str, Any],
    *,
    condition_dropout: float | None = None,
    adapter_rank: int | None = None,
    latent: int | Path | None = None,
    latent_steps: int | None = None,
    latent_budget: float | str | None = None,
    augment: str | None = None,
    augment_probability: float | None = None,
) -> dict[str, Any]:
    """Settings of a Design by dotted path, with those that have a name of their own; the path wins over the name.

    latent: the factor of an autoencoder that is to be trained, or the folder of one that was.   latent_steps, latent_budget: updates, or
    the time, of its training; a third of the budget of all where neither is given.   augment: the menu in words, "flip,rotate:15".
    """
    named = {
        "condition_dropout": condition_dropout,
        "adapters": None if adapter_rank is None else {"rank": adapter_rank},
    }
    chosen: dict[str, Any] = {path: value for path, value in named.items() if value is not None}
    if augment is not None:
        chosen |= parse_augmentation(augment, augment_probability)
    elif augment_probability is not None:
        chosen["augment.probability"] = augment_probability
    chosen |= settings
    first = {"latent.training.steps": latent_steps, "latent.training.budget": latent_budget}
    whole = chosen.get("training.budget")
    if isinstance(latent, int) and chosen.get("training.deterministic"):
        chosen = {"latent.training.deterministic": True} | chosen
    if latent_steps is not None or latent_budget is not None:
        chosen = first | chosen
    elif isinstance(latent, int) and whole is not None and not first.keys() & chosen.keys():
        chosen |= first | {
            "latent.training.budget": parse_duration(whole) / 3,
            "training.budget": parse_duration(whole) * 2 / 3,
        }
    return chosen


def choose_design(
    source: str,
    shape: tuple[int, ...],
    settings: Mapping[str, Any],
    preset: str | None,
    cpu: bool,
    network: str | None,
    latent: int | Path | None,
    rows: int | None = None,
) -> Design:
    """The preset's design with the settings.   latent: the factor of an autoencoder to train, or the folder of one that was.

    rows: of a table that is to be trained on; None for other data.
    """
    latents_ = None
    if latent is not None:
        latents_ = latents(shape, cpu, latent) if isinstance(latent, int) else _latents_of(latent, shape)
    elif any(path.startswith("latent.") for path in settings):
        raise UsageError("settings of latents belong to a model that has them: add `latent`.")
    design = design_for(source, shape, preset, cpu, network, latents_, rows)
    return changed(design, with_sampling_completed(design.sampling, settings))


def with_end(design: Design, settings: Mapping[str, Any]) -> Design:
    """The design with no more steps of sampling than its schedule has. Raises UsageError for a training without an end."""
    schedule = design.schedule.build()
    if isinstance(schedule, Chain) and design.sampling.steps > len(schedule) and "sampling.steps" not in settings:
        design = changed(design, {"sampling.steps": len(schedule)})
    if design.training.steps is None and design.training.budget is None:
        raise UsageError("training needs an end: give a number of steps or a time budget.")
    return design


def _latents_of(folder: Path, shape: tuple[int, ...]) -> LatentDesign:
    """Latents of a trained autoencoder."""
    autoencoder = load_autoencoder(folder, shape[0])
    if autoencoder.config.dims != len(shape) - 1:
        raise UsageError(
            f"the autoencoder in {folder} is for {autoencoder.config.dims} axes, and the data has {len(shape) - 1}."
        )
    return LatentDesign(autoencoder=autoencoder.config, source=str(folder))
