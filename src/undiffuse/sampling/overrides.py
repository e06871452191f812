"""Single settings of sampling by name, in place of a model's own: their types, and what they lead to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from undiffuse.config import changed
from undiffuse.errors import UsageError, unknown_setting
from undiffuse.sampling.loop import NoiseKind
from undiffuse.sampling.settings import SamplingConfig, completed
from undiffuse.sampling.spacings import GridInterpolation


class SamplingOverrides(TypedDict, total=False):
    """The fields of SamplingConfig, any of which may be given by name in place of a model's own."""

    solver: str
    grid: str
    steps: int
    logsnrs: tuple[float, ...] | None
    sigma_max: float | None
    sigma_min: float | None
    rho: float | None
    steps_offset: int | None
    interpolation: GridInterpolation | None
    final_sigma: Literal["zero", "schedule"]
    order: int | None
    eta: float | None
    variance: float | None
    corrections: int | None
    lower_order_final: bool
    churn: float
    churn_interval: tuple[float, float] | None
    s_noise: float
    restart: tuple[float, float, int] | None
    noise_sampler: NoiseKind
    guidance: float
    guidance_scales: dict[str, float] | None
    guidance_method: str
    guidance_rescale: float
    apg_momentum: float
    apg_norm_threshold: float | None
    guidance_interval: tuple[float, float] | None
    clip: Literal["range", "dynamic", "none"]
    threshold_quantile: float
    threshold_max: float | None
    epsilon_from: Literal["clipped", "unclipped"]


def refuse_unknown(overrides: Mapping[str, Any], function: Callable[..., object]) -> None:
    """Raises UsageError for a name that is no setting's, which names the nearest setting or argument of the function it was given to."""
    for name in overrides:
        if name not in SamplingConfig.model_fields:
            known = [each for each in inspect.signature(function).parameters if each not in ("self", "overrides")]
            raise UsageError(unknown_setting(name, [*known, *SamplingConfig.model_fields]))


def resolved(
    stored: SamplingConfig,
    sampling: SamplingConfig | None,
    overrides: Mapping[str, Any],
    function: Callable[..., object],
) -> SamplingConfig:
    """The settings to sample with: `sampling`, or a model's own where None, with the overrides and what they leave open (`completed`).

    function: the public function that these were given to, for the sentence about a misspelt one.
    Raises UsageError for settings that contradict each other, an unknown one, or a `sampling` that is no SamplingConfig.
    """
    if not isinstance(sampling, SamplingConfig | None):
        raise UsageError(
            f"sampling is a SamplingConfig, as of model.sampling_config(), and not {sampling!r}: give single settings by name."
        )
    refuse_unknown(overrides, function)
    base = sampling or stored
    return changed(base, completed(base, overrides))
