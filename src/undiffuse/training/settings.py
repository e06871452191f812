"""What a training run can be told about training: data, frozen and validated."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from undiffuse.errors import UsageError


class TrainingConfig(BaseModel):
    """steps, budget: the run ends after so many steps or so many seconds of training, whichever comes first.

    batch_size: examples per update, of all devices and micro-batches together.   accumulate: micro-batches per update.
    learning_rate: reached after `warmup` steps, kept, and brought to zero linearly over the last `cooldown` share.
    clip: largest norm of the gradient.   ema_decay: of the weights' moving average.
    precision: what the network computes in; "auto" is bf16 where the device is fast at it, else fp32.
    deterministic: only algorithms of torch that give the same bits every time, which on a GPU an exact resume needs; slower there, and
    an operation that has none ends the run with a sentence.
    objective, weight: see objectives.py.   gamma: of min_snr and p2.   bias: of sigmoid.
    timestep_sampling, stratified: see level_samplers.py.   timestep_mean, timestep_std: of log_normal and logit_normal.
    Where gamma, bias, timestep_mean or timestep_std are None, the paper's value is used.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: int | None = Field(None, gt=0)
    budget: float | None = Field(None, gt=0)
    batch_size: int = Field(128, gt=0)
    accumulate: int = Field(1, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    adam_betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(0.0, ge=0)
    warmup: int = Field(100, ge=0)
    cooldown: float = Field(0.3, ge=0, le=1)
    clip: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    deterministic: bool = False
    objective: Literal["simple", "bound", "hybrid"] = "simple"
    weight: Literal["unit", "snr", "min_snr", "p2", "sigmoid", "edm"] = "unit"
    gamma: float | None = Field(None, gt=0)
    bias: float | None = None
    timestep_sampling: Literal["uniform", "log_normal", "logit_normal", "loss_aware"] = "uniform"
    timestep_mean: float | None = None
    timestep_std: float | None = Field(None, gt=0)
    stratified: bool = True
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _nothing_ignored(self) -> TrainingConfig:
        """A constant that the chosen weight or density does not have is refused rather than ignored."""
        for name, owner, owners in (
            ("gamma", self.weight, ("min_snr", "p2")),
            ("bias", self.weight, ("sigmoid",)),
            ("timestep_mean", self.timestep_sampling, ("log_normal", "logit_normal")),
            ("timestep_std", self.timestep_sampling, ("log_normal", "logit_normal")),
        ):
            if getattr(self, name) is not None and owner not in owners:
                raise UsageError(
                    f"{name} is a constant of {' and '.join(owners)}, and {owner!r} has none: leave it out."
                )
        return self

    def learning_rate_at(self, step: int, done: float) -> float:
        """The learning rate of update `step` when a share `done` in [0, 1] of the run lies behind."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        cool = min(1.0, max(0.0, 1 - done) / self.cooldown) if self.cooldown else 1.0
        return self.learning_rate * warm * cool
