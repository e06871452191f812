"""Settings of training by name, and their types."""

from __future__ import annotations

from typing import Literal, TypedDict


class TrainingOverrides(TypedDict, total=False):
    """The fields of TrainingConfig, any of which may be given by name in place of a design's own."""

    steps: int | None
    budget: float | None
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
    seed: int
