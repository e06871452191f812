"""A noise schedule as data: its name, and what is set of it; and what a network is given as their timestep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.betas import (
    BETAS,
    REFERENCE_STEPS,
    linear_betas,
    scaled_linear_betas,
    sigmoid_betas,
    zero_terminal_snr,
)
from undiffuse.process.chains import Chain
from undiffuse.process.predictions import CNoise
from undiffuse.process.schedules import CONTINUOUS, VP, Schedule, SubVP

DEFAULT_T = 1000
RANGED: dict[str, Callable[..., Tensor]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "sigmoid": sigmoid_betas,
}
DIFFUSIONS: dict[str, Callable[..., Schedule]] = {"vp": VP, "sub_vp": SubVP}
SHAPES = {
    "sigmoid_alpha_bar": ("start", "end", "tau"),
    "polynomial": ("power", "precision"),
    "flow_polynomial": ("power",),
}


class ScheduleConfig(BaseModel):
    """A noise schedule by name. Curves' settings belong to single schedules and are refused by the others."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(
        "cosine",
        description="Noise schedule, such as linear, cosine, flow, vp or edm; 'undiffuse schedule' compares them.",
    )
    T: int | None = Field(None, description="Timesteps of a discrete schedule; 1000 when left out.")
    betas: tuple[float, ...] | None = Field(
        None, description="The betas of every timestep, between 0 and 1, of the schedule named betas."
    )
    beta_start: float | None = Field(
        None,
        gt=0,
        description="First beta, in the unit of a chain of 1000 steps; of linear, scaled_linear, sigmoid, vp and sub_vp.",
    )
    beta_end: float | None = Field(
        None,
        gt=0,
        description="Last beta, in the unit of a chain of 1000 steps; of linear, scaled_linear, sigmoid, vp and sub_vp.",
    )
    start: float | None = Field(
        None, description="Where the sigmoid of sigmoid_alpha_bar starts; the paper's value when left out."
    )
    end: float | None = Field(
        None, description="Where the sigmoid of sigmoid_alpha_bar ends; the paper's value when left out."
    )
    tau: float | None = Field(
        None,
        gt=0,
        description="Temperature of the sigmoid of sigmoid_alpha_bar, above 0; the paper's value when left out.",
    )
    power: float | None = Field(
        None, gt=0, description="Power of polynomial and flow_polynomial, above 0; the paper's value when left out."
    )
    precision: float | None = Field(
        None, gt=0, lt=0.5, description="Precision of polynomial, between 0 and 0.5; the paper's value when left out."
    )
    zero_terminal_snr: bool = Field(False, description="Rescale a discrete schedule to end in pure noise.")
    shift: FiniteFloat = Field(0.0, description="Added to every log-SNR; 2 ln(64/side) suits larger images.")

    def build(self) -> Schedule:
        """Raises UsageError for an unknown name, or settings that contradict each other."""
        if (self.name == "betas") != (self.betas is not None):
            raise UsageError("a list of betas and the schedule name 'betas' go together: give both or neither.")
        shape = self._shape()
        if self.name in CONTINUOUS:
            if self.T is not None or self.zero_terminal_snr:
                raise UsageError(
                    f"the schedule {self.name!r} is continuous: it has no number of steps T and no zero-terminal-SNR form; "
                    "use a discrete one, such as cosine, for these."
                )
            return _shifted(self._continuous(shape), self.shift)
        if self.name not in BETAS and self.betas is None:
            names = ", ".join([*BETAS, *CONTINUOUS, "betas"])
            raise UsageError(f"there is no noise schedule {self.name!r}: choose one of {names}.")
        range_ = self._range("beta_start", "beta_end")
        if self.betas is None:
            chain: Callable[..., Tensor] = BETAS[self.name]
            betas = chain(DEFAULT_T if self.T is None else self.T, **range_, **shape)
        else:
            betas = torch.tensor(self.betas, dtype=torch.float64)
        return _shifted(Chain(zero_terminal_snr(betas) if self.zero_terminal_snr else betas), self.shift)

    def _continuous(self, shape: dict[str, float]) -> Schedule:
        found = self._range("beta_min", "beta_max")
        schedule: Callable[..., Schedule] = CONTINUOUS[self.name]
        return schedule(**{name: REFERENCE_STEPS * beta for name, beta in found.items()}, **shape)

    def _shape(self) -> dict[str, float]:
        """What is set of the curve of a schedule that has one to set."""
        names = dict.fromkeys(name for settings in SHAPES.values() for name in settings)
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        for name in found:
            if name not in SHAPES.get(self.name, ()):
                owners = " and ".join(repr(other) for other, settings in SHAPES.items() if name in settings)
                raise UsageError(f"schedule.{name} belongs to {owners}, and {self.name!r} has none: leave it out.")
        return found

    def _range(self, start: str, end: str) -> dict[str, float]:
        """What is set of the range of beta, under the two names it has there."""
        found = {name: beta for name, beta in ((start, self.beta_start), (end, self.beta_end)) if beta is not None}
        ranged = [*RANGED, *DIFFUSIONS]
        if found and self.name not in ranged:
            raise UsageError(
                f"the schedule {self.name!r} is not made from a range of betas: choose one of {', '.join(ranged)}, or set schedule.shift."
            )
        return found


class CNoiseConfig(BaseModel):
    """What the network is given as the timestep: scale · v + shift; process/predictions.py, eq. (3).

    The timestep is the index of a chain, 1000 · t of a continuous schedule, 250 ln(sigma) of edm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    of: Literal["timestep", "log_sigma"] = Field(
        "timestep", description="What is scaled: the timestep, or log_sigma, which is ln(sigma/alpha)."
    )
    scale: float = Field(1.0, description="What it is multiplied by; not 0.")
    shift: float = Field(0.0, description="What is then added.")

    def build(self) -> CNoise | None:
        """None for the timestep itself. Raises UsageError for a timestep that never changes."""
        if self.scale == 0:
            raise UsageError(
                "c_noise.scale is 0, so the network would hear the same at every noise level: give it another number."
            )
        return None if self == CNoiseConfig() else CNoise(self.of, self.scale, self.shift)


def _shifted(schedule: Schedule, shift: float) -> Schedule:
    return schedule.shifted(shift) if shift else schedule
