"""The design of a run: a preset's or that of a fine-tuning, with the settings that are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undiffuse.config import changed
from undiffuse.errors import UsageError
from undiffuse.models.config import with_sampling_completed
from undiffuse.process.chains import Chain
from undiffuse.runs.autoencoder import load_autoencoder
from undiffuse.runs.design import Design, LatentDesign
from undiffuse.runs.presets import design_for, latents


def choose_design(
    source: str,
    shape: tuple[int, ...],
    settings: Mapping[str, Any],
    preset: str | None,
    cpu: bool,
    network: str | None,
    factor: int | None,
    autoencoder: Path | None,
) -> Design:
    """The preset's design with the settings."""
    latent = None
    if factor is not None or autoencoder is not None:
        latent = latents(shape, cpu, factor or 4) if autoencoder is None else _latents_of(autoencoder, shape)
    elif any(path.startswith("latent.") for path in settings):
        raise UsageError("settings of latents belong to a model that has them: add `latent`.")
    design = design_for(source, shape, preset, cpu, network, latent)
    design = changed(design, with_sampling_completed(design.sampling, settings))
    if design.adapters:
        raise UsageError(
            "adapters tune weights that were trained before: say whose, by `start`, or leave `adapter_rank` out."
        )
    return design


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
