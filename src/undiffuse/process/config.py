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
    """name: of BETAS (a chain of T steps), of CONTINUOUS, or "betas" with a list of them.

    beta_start, beta_end: the range of the rate beta, in the unit of the papers, a step out of 1000; of linear, scaled_linear,
    sigmoid, vp and sub_vp, and the paper's where None.
    start, end, tau: of sigmoid_alpha_bar.   power: of polynomial and flow_polynomial.   precision: of polynomial.  None for the papers'.
    zero_terminal_snr: rescale a chain to end in pure noise.   shift: added to every log-SNR.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = "cosine"
    T: int | None = None
    betas: tuple[float, ...] | None = None
    beta_start: float | None = Field(None, gt=0)
    beta_end: float | None = Field(None, gt=0)
    start: float | None = None
    end: float | None = None
    tau: float | None = Field(None, gt=0)
    power: float | None = Field(None, gt=0)
    precision: float | None = Field(None, gt=0, lt=0.5)
    zero_terminal_snr: bool = False
    shift: FiniteFloat = 0.0

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
    """What the network is given as the timestep: scale · v + shift, v the timestep or ln(sigma/alpha); see process/predictions.py, eq. (3).

    timestep: the index of a chain, 1000 · t of a continuous schedule, 250 ln(sigma) of edm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    of: Literal["timestep", "log_sigma"] = "timestep"
    scale: float = 1.0
    shift: float = 0.0

    def build(self) -> CNoise | None:
        """None for the timestep itself. Raises UsageError for a timestep that never changes."""
        if self.scale == 0:
            raise UsageError(
                "c_noise.scale is 0, so the network would hear the same at every noise level: give it another number."
            )
        return None if self == CNoiseConfig() else CNoise(self.of, self.scale, self.shift)


def _shifted(schedule: Schedule, shift: float) -> Schedule:
    return schedule.shifted(shift) if shift else schedule
