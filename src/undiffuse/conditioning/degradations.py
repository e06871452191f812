"""Degradations: what a network that is trained for tasks gets of an example, drawn anew at every step.

    y = A x + s n,      n ~ N(0, I),

with A an operator (process/operators.py) and s drawn between two bounds.  The network receives, beside x_t and of its size,

    the picture of y      what a person would draw of it, 0 where nothing is known
    what is known         1 or 0
    s                     the same number everywhere

and the task's label where there are several.  So one network learns to fill in, upscale, colour, deblur and denoise
(Saharia et al. 2022, "Palette"), and a second stage that knows how noisy its small example is can follow a first one whose
examples are not perfect: noise conditioning augmentation (Ho et al. 2022, "Cascaded diffusion models", section 4.2).

Units are the model's: images lie in [-1, 1].  Everything drawn is a function of the generator alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.process.operators import REC_601, Blur, Downsample, Grey, Mask, Operator
from undiffuse.rng import GeneratorStream, generator

NO_NOISE = (0.0, 0.0)
Bounds = tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]]


class Degradation(BaseModel, ABC):
    """What is done to an example before it is restored; noise is added last."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    noise: Bounds = Field(
        NO_NOISE,
        description="Lowest and highest standard deviation of the noise that is added, in the model's range (black to "
        "white is 2).",
    )

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        for name, value in self:
            if isinstance(value, tuple) and value[0] > value[1]:
                raise UsageError(f"the bounds of {name} are {value[0]:g} and {value[1]:g}: give the lower one first.")
        return self

    @abstractmethod
    def operator(self, shape: Sequence[int], n: int, generator: torch.Generator) -> Operator:
        """A for n examples (C, *size). Raises UsageError where it does not fit them."""

    def observe(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """What is shown of x (B, C, *size): (B, C + 2, *size)."""
        operator = self.operator(tuple(x.shape[1:]), len(x), generator)
        low, high = self.noise
        s = low + (high - low) * torch.rand(len(x), generator=generator).to(x)
        y = operator(x)
        y = y + s.reshape(-1, *[1] * (x.ndim - 1)) * torch.randn(y.shape, generator=generator).to(x)
        return observation_channels(operator, y, s)


def observation_channels(operator: Operator, y: Tensor, s: Tensor) -> Tensor:
    """What the network is shown of y with noise of the deviations s (B,): (B, C + 2, *size)."""
    picture = operator.picture(y)
    known = torch.ones_like(picture[:, :1])
    if isinstance(operator, Mask):
        known = (
            operator.known.to(picture.device)
            .expand(len(y), *operator.known.shape[-picture.ndim + 1 :])[:, :1]
            .to(picture)
        )
        picture = picture * known
    return torch.cat([picture, known, s.reshape(-1, *[1] * (picture.ndim - 1)).expand_as(known)], 1)


class Inpaint(Degradation):
    """A box, a half or scattered places are hidden."""

    kind: Literal["inpaint"] = Field("inpaint", description="Which kind of degradation this is.")
    hidden: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=0, lt=1)]] = Field(
        (0.1, 0.8), description="Lowest and highest share of the example that is hidden, between 0 and 1."
    )

    def operator(self, shape: Sequence[int], n: int, generator: torch.Generator) -> Mask:
        size = tuple(shape[1:])
        share = self.hidden[0] + (self.hidden[1] - self.hidden[0]) * torch.rand(n, generator=generator)
        which = torch.randint(3, (n,), generator=generator)
        box, half = torch.ones(n, *size, dtype=torch.bool), torch.ones(n, *size, dtype=torch.bool)
        axis, side = torch.randint(len(size), (n,), generator=generator), torch.randint(2, (n,), generator=generator)
        for k, length in enumerate(size):
            place = (torch.arange(length) + 0.5).reshape(-1, *[1] * (len(size) - 1 - k)) / length
            extent = share ** (1 / len(size))
            start = (1 - extent) * torch.rand(n, generator=generator)
            low, high, at, of = (t.reshape(-1, *[1] * len(size)) for t in (start, start + extent, axis, side))
            box &= (place >= low) & (place <= high)
            half &= (at != k) | ((place < 0.5) == (of == 0))
        scattered = torch.rand(n, *size, generator=generator) < share.reshape(-1, *[1] * len(size))
        kind = which.reshape(-1, *[1] * len(size))
        hidden = torch.where(kind == 0, box, torch.where(kind == 1, half, scattered)).reshape(n, -1)
        # of something small, chance may hide nothing or all
        hidden[:, 0] |= ~hidden.any(1)
        hidden[:, -1] &= ~hidden.all(1)
        return Mask(~hidden.reshape(n, 1, *size))


class Upscale(Degradation):
    """Blocks of `factor` values along each axis are averaged."""

    kind: Literal["upscale"] = Field("upscale", description="Which kind of degradation this is.")
    factor: int = Field(2, ge=2, description="Values along each axis that are averaged to one, at least 2.")

    def operator(self, shape: Sequence[int], n: int, generator: torch.Generator) -> Downsample:
        operator = Downsample(self.factor)
        operator.shape_of(shape)
        return operator


class Colorize(Degradation):
    """Grey: how bright red, green and blue look; the mean of other numbers of channels."""

    kind: Literal["colorize"] = Field("colorize", description="Which kind of degradation this is.")

    def operator(self, shape: Sequence[int], n: int, generator: torch.Generator) -> Grey:
        operator = Grey(REC_601 if shape[0] == 3 else (1 / shape[0],) * shape[0])
        operator.shape_of(shape)
        return operator


class Deblur(Degradation):
    """A Gaussian blur."""

    kind: Literal["deblur"] = Field("deblur", description="Which kind of degradation this is.")
    radius: float = Field(1.0, gt=0, description="Standard deviation of the Gaussian blur, in pixels.")

    def operator(self, shape: Sequence[int], n: int, generator: torch.Generator) -> Blur:
        return Blur(self.radius)


class AddNoise(Degradation):
    """Nothing but noise."""

    kind: Literal["denoise"] = Field("denoise", description="Which kind of degradation this is.")
    noise: Bounds = Field(
        (0.1, 1.0),
        description="Lowest and highest standard deviation of the noise that is added, in the model's range (black to "
        "white is 2).",
    )

    def operator(self, shape: Sequence[int], n: int, generator: torch.Generator) -> Mask:
        return Mask(torch.ones(1, *shape[1:], dtype=torch.bool))


DegradationConfig = Annotated[Inpaint | Upscale | Colorize | Deblur | AddNoise, Field(discriminator="kind")]
DEGRADATIONS: dict[str, type[Degradation]] = {
    "inpaint": Inpaint,
    "upscale": Upscale,
    "colorize": Colorize,
    "deblur": Deblur,
    "denoise": AddNoise,
}
TASK_NUMBERS = {"upscale": "factor", "deblur": "radius"}


def second_stage(factor: int) -> Upscale:
    """Upscaling of examples that may be noisy, up to a quarter of the range. Raises UsageError for a factor below 2."""
    if factor < 2:
        raise UsageError(f"a factor of {factor} makes nothing larger: give 2 or more.")
    return Upscale(factor=factor, noise=(0.0, 0.5))


def parse_tasks(text: str) -> dict[str, Degradation]:
    """ "inpaint,upscale:4,deblur:1.5" → corruptions by the names they are written with. Raises UsageError."""
    found = {}
    for name in text.split(","):
        kind, colon, number = name.strip().partition(":")
        if kind not in DEGRADATIONS or (colon and kind not in TASK_NUMBERS):
            raise UsageError(
                f"there is no task {name.strip()!r}: choose of inpaint, upscale:FACTOR, colorize, deblur:RADIUS and denoise."
            )
        settings: dict[str, float | int] = {}
        if colon:
            try:
                settings = {TASK_NUMBERS[kind]: int(number) if kind == "upscale" else float(number)}
                DEGRADATIONS[kind](**settings)  # type: ignore[arg-type]
            except ValueError:
                raise UsageError(
                    f"{name.strip()!r} is no task: write {kind}:{'4' if kind == 'upscale' else '1.5'}."
                ) from None
        found[name.strip()] = DEGRADATIONS[kind](**settings)  # type: ignore[arg-type]
    return found


def training_tasks(degradation: str | None, upscale_factor: int | None) -> dict[str, Degradation] | None:
    """The degradations to train on: those of a text, or the second stage of a factor; None for a model that restores nothing.

    Raises UsageError for both at once.
    """
    if degradation and upscale_factor is not None:
        raise UsageError(
            "upscale_factor is a degradation of its own, upscaling noisy examples: leave degradation out, or train two models."
        )
    if upscale_factor is not None:
        return {f"upscale:{upscale_factor}": second_stage(upscale_factor)}
    return parse_tasks(degradation) if degradation else None


class Degradations:
    """Several corruptions by name, one for each example."""

    def __init__(self, corruptions: Mapping[str, Degradation]) -> None:
        self.each, self.names = dict(corruptions), tuple(corruptions)

    def check(self, shape: Sequence[int]) -> None:
        """Raises UsageError for a corruption that does not fit examples (C, *size)."""
        for name, corruption in self.each.items():
            try:
                corruption.operator(shape, 1, generator(GeneratorStream.DISCARDED))
            except ValueError as error:
                raise UsageError(f"the task {name!r} does not suit this data: {error}") from None

    def conditions(self, x: Tensor, generator: torch.Generator, which: Tensor | None = None) -> dict[str, Tensor]:
        """What the network receives of x (B, C, *size).   which: task of each example, int64 (B,) on the CPU; drawn when None."""
        which = torch.randint(len(self.names), (len(x),), generator=generator) if which is None else which
        observed = torch.empty(len(x), x.shape[1] + 2, *x.shape[2:], dtype=x.dtype, device=x.device)
        for k, corruption in enumerate(self.each.values()):
            rows = (which == k).nonzero()[:, 0].to(x.device)
            if len(rows):
                observed[rows] = corruption.observe(x[rows], generator)
        return {"observation": observed} | ({"task": which.to(x.device)} if len(self.names) > 1 else {})
