"""The settings of training: data, frozen and validated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from undiffuse.errors import UsageError
from undiffuse.training.cadence import parse_duration
from undiffuse.training.objectives import LOSS_WEIGHTS, OBJECTIVES


class TrainingConfig(BaseModel):
    """How a network is trained.  Objectives and weights: objectives.py; distributions of timesteps: timesteps.py."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: int | None = Field(
        None, gt=0, description="Training updates, at least 1; with a budget, whichever ends first."
    )
    budget: Annotated[float | None, BeforeValidator(lambda given: None if given is None else parse_duration(given))] = (
        Field(
            None, description="Seconds of training, above 0, or a duration like 15m; with steps, whichever ends first."
        )
    )
    batch_size: int = Field(
        128, gt=0, le=2**31, description="Examples per update, of all devices and micro-batches together."
    )
    accumulate: int = Field(1, gt=0, description="Micro-batches per update (gradient accumulation).")
    learning_rate: float = Field(1e-3, gt=0, description="Learning rate after the warm-up, above 0.")
    adam_betas: tuple[float, float] = Field((0.9, 0.99), description="Adam's two betas, between 0 and 1.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (AdamW), 0 or more.")
    warmup: int = Field(100, ge=0, description="Updates over which the learning rate rises from 0.")
    cooldown: float = Field(
        0.3, ge=0, le=1, description="Share of the run, 0 to 1, over which the learning rate falls to 0 at the end."
    )
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient, above 0.")
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="Decay of the exponential moving average of the weights, from 0 to less than 1."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Precision of the network: fp32, bf16, or auto (bf16 where the device is fast at it)."
    )
    deterministic: bool = Field(
        False,
        description="Only algorithms that give the same bits every time, for exact resume on a GPU; slower there.",
    )
    objective: Annotated[str, AfterValidator(OBJECTIVES.checked)] = Field(
        "simple",
        description="Training objective: simple (weighted mean squared error), bound (variational bound) or hybrid (both).",
    )
    weight: Annotated[str, AfterValidator(LOSS_WEIGHTS.checked)] = Field(
        "unit", description="Weight of the loss over noise levels, of simple: unit, snr, min_snr, p2, sigmoid or edm."
    )
    gamma: float | None = Field(
        None, gt=0, description="Constant of the weights min_snr and p2, above 0; the paper's value when left out."
    )
    bias: float | None = Field(None, description="Constant of the weight sigmoid; the paper's value when left out.")
    timestep_sampling: Literal["uniform", "log_normal", "logit_normal", "loss_aware"] = Field(
        "uniform", description="Distribution of training timesteps: uniform, log_normal, logit_normal or loss_aware."
    )
    timestep_mean: float | None = Field(
        None, description="Mean of log_normal and logit_normal; the paper's value when left out."
    )
    timestep_std: float | None = Field(
        None,
        gt=0,
        description="Standard deviation of log_normal and logit_normal, above 0; the paper's value when left out.",
    )
    stratified: bool = Field(True, description="Spread the timesteps of a batch evenly over their distribution.")
    balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How evenly classes are drawn: 0 as they are, 1 every class alike, in between by their number to the power of 1 less this. "
        "Samples that are made without a class then show rare ones as often.",
    )
    balance_by: str | None = Field(
        None, description="The class that is balanced, by its name; the first when left out."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of everything random, 0 or more.")

    @model_validator(mode="after")
    def _nothing_ignored(self) -> TrainingConfig:
        """A constant that the chosen weight or density does not have is refused rather than ignored."""
        for name, owner, owners in (
            ("gamma", self.weight, _weights_with("gamma")),
            ("bias", self.weight, _weights_with("bias")),
            ("timestep_mean", self.timestep_sampling, ("log_normal", "logit_normal")),
            ("timestep_std", self.timestep_sampling, ("log_normal", "logit_normal")),
        ):
            if getattr(self, name) is not None and owner not in owners:
                raise UsageError(
                    f"{name} is a constant of {' and '.join(owners)}, and {owner!r} has none: leave it out."
                )
        if self.balance_by is not None and not self.balance:
            raise UsageError("balance_by says which class is balanced, and balance is 0: set it, or leave both out.")
        return self

    def learning_rate_at(self, step: int, done: float) -> float:
        """The learning rate of update `step` when a share `done` in [0, 1] of the run lies behind."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        cool = min(1.0, max(0.0, 1 - done) / self.cooldown) if self.cooldown else 1.0
        return self.learning_rate * warm * cool


def _weights_with(constant: str) -> tuple[str, ...]:
    """The loss weights that have this constant."""
    return tuple(name for name, entry in LOSS_WEIGHTS.items() if constant in entry.constants)
