"""A noise schedule as data: its name, and what is set of it; and what a network receives as its timestep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.betas import BETAS, REFERENCE_STEPS, zero_terminal_snr
from undiffuse.process.chains import Chain
from undiffuse.process.predictions import CNoise
from undiffuse.process.schedules import CONTINUOUS, Schedule
from undiffuse.registry import Registry, no_such

DEFAULT_T = 1000
RANGE = ("beta_start", "beta_end")
SHAPE = ("start", "end", "tau", "power", "precision")
SCHEDULE_SETTINGS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("linear", "scaled_linear", "sigmoid", "vp", "sub_vp"), RANGE),
    "sigmoid_alpha_bar": ("start", "end", "tau"),
    "polynomial": ("power", "precision"),
    "flow_polynomial": ("power",),
}


@dataclass(frozen=True)
class ScheduleEntry:
    """A noise schedule by name.   make: the betas of a chain, float64 (T,), from T and its settings; or a Schedule, from its settings.

    continuous: whether it is a Schedule.   settings: the fields of ScheduleConfig that it has.
    """

    make: Callable[..., Any]
    continuous: bool
    settings: tuple[str, ...] = ()


_MAKERS: dict[str, Callable[..., Any]] = {**BETAS, **CONTINUOUS}
SCHEDULES: Registry[ScheduleEntry] = Registry(
    "noise schedule",
    "undiffuse.schedules",
    {name: ScheduleEntry(make, name in CONTINUOUS, SCHEDULE_SETTINGS.get(name, ())) for name, make in _MAKERS.items()},
)


def register_schedule(
    name: str, *, betas: Callable[[int], Tensor] | None = None, schedule: Callable[[], Schedule] | None = None
) -> None:
    """Makes a noise schedule of one's own known as `name`, to `ScheduleConfig(name=name)` and to `undiffuse.train(schedule=name)`.

    betas: T → the betas of a chain of T steps, each above 0 and below 1 (1 for the last), (T,).   schedule: instead, what makes a
    continuous schedule, such as a subclass of `process.schedules.Schedule`.
    Raises UsageError for a name that is taken, and unless one of the two is given.
    """
    make = betas or schedule
    if make is None or (betas is not None and schedule is not None) or name == "betas":
        raise UsageError(
            f"the schedule {name!r} is registered by betas=…, a function of T, or by schedule=…, a Schedule: give one of them"
            f"{', under another name' if name == 'betas' else ''}."
        )
    SCHEDULES.register(name, ScheduleEntry(make, schedule is not None), make)


class ScheduleConfig(BaseModel):
    """A noise schedule by name. Curves' settings belong to single schedules and are refused by the others."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(
        "cosine",
        description="Noise schedule, such as linear, cosine, flow, vp or edm; 'undiffuse schedule' compares them.",
    )
    T: int | None = Field(
        None, le=1_000_000, description="Timesteps of a discrete schedule, at most a million; 1000 when left out."
    )
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
        entry = None if self.betas is not None else SCHEDULES.find(self.name)
        if entry is None and self.betas is None:
            raise UsageError(no_such("noise schedule", self.name, [*SCHEDULES.names(), "betas"]))
        self._refuse_foreign(() if entry is None else entry.settings)
        settings = {name: value for name in SHAPE if (value := getattr(self, name)) is not None}
        if entry is not None and entry.continuous:
            if self.T is not None or self.zero_terminal_snr:
                raise UsageError(
                    f"the schedule {self.name!r} is continuous: it has no number of steps T and no zero-terminal-SNR form; "
                    "use a discrete one, such as cosine, for these."
                )
            beta = {
                name: REFERENCE_STEPS * value
                for name, value in (("beta_min", self.beta_start), ("beta_max", self.beta_end))
                if value is not None
            }
            return _shifted(entry.make(**beta, **settings), self.shift)
        settings |= {name: value for name in RANGE if (value := getattr(self, name)) is not None}
        if entry is None:
            betas = torch.tensor(self.betas, dtype=torch.float64)
        else:
            T = DEFAULT_T if self.T is None else self.T
            betas = entry.make(T, **settings)
            if not isinstance(betas, Tensor) or betas.shape != (T,):
                shape = tuple(betas.shape) if isinstance(betas, Tensor) else type(betas).__name__
                raise UsageError(
                    f"the schedule {self.name!r} makes {shape} for T = {T}: it returns a tensor of {T} betas."
                )
        return _shifted(Chain(zero_terminal_snr(betas) if self.zero_terminal_snr else betas), self.shift)

    def _refuse_foreign(self, own: tuple[str, ...]) -> None:
        """Raises UsageError for a setting that this schedule does not have.   own: those that it has."""
        for name in (*RANGE, *SHAPE):
            if getattr(self, name) is None or name in own:
                continue
            owners = [other for other, entry in SCHEDULES.items() if name in entry.settings]
            if name in RANGE:
                raise UsageError(
                    f"the schedule {self.name!r} is not made from a range of betas: choose one of {', '.join(owners)}, or set schedule.shift."
                )
            raise UsageError(
                f"schedule.{name} belongs to {' and '.join(map(repr, owners))}, and {self.name!r} has none: leave it out."
            )


class CNoiseConfig(BaseModel):
    """What the network receives as the timestep: scale · v + shift; process/predictions.py, eq. (3).

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
                "c_noise.scale is 0, so the network would get the same timestep at every noise level: give another number."
            )
        return None if self == CNoiseConfig() else CNoise(self.of, self.scale, self.shift)


def _shifted(schedule: Schedule, shift: float) -> Schedule:
    return schedule.shifted(shift) if shift else schedule
