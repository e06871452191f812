"""Settings of training by name, and their types."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from undiffuse.errors import UsageError, unknown_setting
from undiffuse.training.settings import TrainingConfig


class TrainingOverrides(TypedDict, total=False):
    """The fields of TrainingConfig, any of which may be given by name in place of a design's own."""

    steps: int | None
    budget: float | str | None
    batch_size: int
    accumulate: int
    learning_rate: float
    adam_betas: tuple[float, float]
    weight_decay: float
    warmup: int
    cooldown: float
    clip: float
    ema_decay: float
    precision: Literal["auto", "fp32", "bf16"]
    deterministic: bool
    objective: str
    weight: str
    gamma: float | None
    bias: float | None
    timestep_sampling: Literal["uniform", "log_normal", "logit_normal", "loss_aware"]
    timestep_mean: float | None
    timestep_std: float | None
    stratified: bool
    balance: float
    balance_by: str | None
    seed: int


def training_paths(training: Mapping[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Fields of TrainingConfig as paths in a Design, {"training.steps": 2000}; raises UsageError for a name that is none.

    function: that takes them beside arguments of its own, the nearest of which are named too.
    Updates or a budget, where one is given, replace both of a preset's.
    """
    for name in training:
        if name not in TrainingConfig.model_fields:
            own = [each for each in inspect.signature(function).parameters if each not in ("self", "training")]
            raise UsageError(unknown_setting(name, [*own, *TrainingConfig.model_fields]))
    ends = {"steps": None, "budget": None} if "steps" in training or "budget" in training else {}
    return {f"training.{name}": value for name, value in {**ends, **training}.items()}
