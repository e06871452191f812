"""Operators: measurements of an example, y = A x + noise, for linear A.

Filling in, upscaling, colouring and deblurring are one problem with four matrices:

    Mask        the numbers that are known, zeros elsewhere          A Aᵀ = A
    Downsample  averages of blocks, factor numbers along every axis  A Aᵀ = I / factor^axes
    Grey        one weighted sum of the channels                     A Aᵀ = I |weights|²
    Blur        a Gaussian, x mirrored at its borders                A Aᵀ = A², diagonal in the cosine transform

Because A Aᵀ is diagonal in a known basis, all that methods need of a matrix is closed: A, its transpose, and

    solve       (on_operator · A Aᵀ + on_identity · I)^-1 y,     y in the range of A.                                     (1)

The example of least length that explains y, A⁺ y = Aᵀ (A Aᵀ)^-1 y, is (1) with (1, 0) and the transpose after it.

x is (B, C, *size), of any number of axes, y is (B, …) and nothing here looks across examples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undiffuse.errors import UsageError

REC_601 = (
    0.299,
    0.587,
    0.114,
)  # how bright red, green and blue look (ITU-R BT.601), as Pillow's conversion to grey has them


class Operator(ABC):
    """A linear map x → y."""

    @abstractmethod
    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of y, without its batch, for x of (C, *size). Raises UsageError where A does not fit such examples."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """y = A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, of the shape of x."""

    @abstractmethod
    def solve(self, y: Tensor, on_operator: float, on_identity: float) -> Tensor:
        """Equation (1), for numbers >= 0 that are not both 0."""

    @abstractmethod
    def picture(self, y: Tensor) -> Tensor:
        """y as an example, in the shape of x: what a person would draw of it."""

    def pseudo_inverse(self, y: Tensor, ridge: float = 0.0) -> Tensor:
        """Aᵀ (A Aᵀ + ridge I)^-1 y; A⁺ y for ridge 0, which a blur answers with its rounding errors, multiplied."""
        return self.adjoint(self.solve(y, 1.0, ridge))


@dataclass(frozen=True)
class Mask(Operator):
    """known: bool, (C or 1, *size), or (B, C or 1, *size) with one for each example."""

    known: Tensor

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        one = tuple(self.known.shape[-len(shape) :])
        if one not in (tuple(shape), (1, *shape[1:])):
            raise UsageError(
                f"the mask has the shape {tuple(self.known.shape)}, the examples have {tuple(shape)}: give one of their size."
            )
        return tuple(shape)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self.known.to(x.device), x, 0)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, y: Tensor, on_operator: float, on_identity: float) -> Tensor:
        return self(y) / (on_operator + on_identity)

    def picture(self, y: Tensor) -> Tensor:
        return y


@dataclass(frozen=True)
class Downsample(Operator):
    """factor: along every axis but the channels'."""

    factor: int

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        if self.factor < 2:
            raise UsageError(f"a factor of {self.factor} makes nothing larger: give 2 or more.")
        if any(length % self.factor for length in shape[1:]):
            size, factors = (
                "×".join(map(str, shape[1:])),
                [k for k in range(2, max(shape[1:]) + 1) if not any(n % k for n in shape[1:])],
            )
            fit = f"these do: {', '.join(map(str, factors))}" if factors else "none does"
            raise UsageError(f"a factor of {self.factor} does not divide the size {size}; {fit}.")
        return (shape[0], *(length // self.factor for length in shape[1:]))

    def __call__(self, x: Tensor) -> Tensor:
        blocks = x.reshape(
            *x.shape[:2], *(part for length in x.shape[2:] for part in (length // self.factor, self.factor))
        )
        return blocks.mean(tuple(range(3, blocks.ndim, 2)))

    def adjoint(self, y: Tensor) -> Tensor:
        out: Tensor = self.picture(y) / self.factor ** (y.ndim - 2)
        return out

    def solve(self, y: Tensor, on_operator: float, on_identity: float) -> Tensor:
        out: Tensor = y / (on_operator / self.factor ** (y.ndim - 2) + on_identity)
        return out

    def picture(self, y: Tensor) -> Tensor:
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, axis)
        return y


@dataclass(frozen=True)
class Grey(Operator):
    """weights: of each channel, such as REC_601 or 1/3 each."""

    weights: tuple[float, ...]

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        if shape[0] == 1:
            raise UsageError("these examples have one channel, so they are grey already: colour needs several.")
        if len(self.weights) != shape[0] or not any(self.weights):
            raise UsageError(
                f"{self.weights} are no weights of {shape[0]} channels: give one for each, not all of them 0."
            )
        return (1, *shape[1:])

    def _column(self, like: Tensor) -> Tensor:
        return torch.tensor(self.weights, dtype=like.dtype, device=like.device).reshape(-1, *[1] * (like.ndim - 2))

    def __call__(self, x: Tensor) -> Tensor:
        return (x * self._column(x)).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self._column(y)

    def solve(self, y: Tensor, on_operator: float, on_identity: float) -> Tensor:
        return y / (on_operator * sum(weight**2 for weight in self.weights) + on_identity)

    def picture(self, y: Tensor) -> Tensor:
        return (y / sum(self.weights)).expand(-1, len(self.weights), *y.shape[2:])


@dataclass(frozen=True)
class Blur(Operator):
    """radius: the Gaussian's standard deviation, in steps of the grid.

    A frequency of f cycles a step is multiplied by exp(-2 pi² radius² f²), the Gaussian's own transform.
    """

    radius: float

    def shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        if not 0 < self.radius < math.inf:
            raise UsageError(f"a blur of radius {self.radius:g} is none: give a number above 0.")
        return tuple(shape)

    def _filtered(self, x: Tensor, on_operator: float | None = None, on_identity: float = 0.0) -> Tensor:
        """x with each frequency multiplied by h, or by 1/(on_operator h² + on_identity)."""
        size, axes = x.shape[2:], tuple(range(2, x.ndim))
        for axis in axes:
            x = torch.cat([x, x.flip(axis)], axis)
        h = torch.ones((), dtype=x.dtype, device=x.device)
        for k, length in enumerate(size):
            frequencies = torch.fft.rfftfreq if k == len(size) - 1 else torch.fft.fftfreq
            f = frequencies(2 * length, dtype=x.dtype, device=x.device)
            h = h * torch.exp(-2 * (math.pi * self.radius * f) ** 2).reshape(-1, *[1] * (len(size) - 1 - k))
        factor = h if on_operator is None else 1 / (on_operator * h**2 + on_identity)
        filtered = torch.fft.irfftn(torch.fft.rfftn(x, dim=axes) * factor, s=x.shape[2:], dim=axes)
        out: Tensor = filtered[(..., *(slice(length) for length in size))]
        return out

    def __call__(self, x: Tensor) -> Tensor:
        return self._filtered(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y)

    def solve(self, y: Tensor, on_operator: float, on_identity: float) -> Tensor:
        return self._filtered(y, on_operator, on_identity)

    def picture(self, y: Tensor) -> Tensor:
        return y


def hidden_places(mask: object, shape: Sequence[int], inputs: int, channels: bool = True) -> Tensor:
    """Where to fill in: bool (inputs, 1 or C, *size), from an array or tensor, not 0 where examples (C, *size) are hidden.

    mask: of the shape (*size), (1 or C, *size) or (inputs, 1 or C, *size).   channels: whether it may differ between channels.
    Raises UsageError for another shape, and for a mask that hides everything or nothing of an example.
    """
    try:
        given = (mask if isinstance(mask, Tensor) else torch.tensor(mask)).cpu() != 0
    except (TypeError, ValueError):
        raise UsageError(f"a mask is an array or a tensor, true where to fill in, and not {mask!r}.") from None
    size, wide = tuple(shape[1:]), {1, shape[0]} if channels else {1}
    whole = given[None] if given.shape == size else given
    whole = whole[None] if whole.ndim == len(shape) else whole
    if (
        whole.ndim != len(shape) + 1
        or whole.shape[2:] != size
        or whole.shape[1] not in wide
        or len(whole) not in (1, inputs)
    ):
        expected = "×".join(map(str, size))
        raise UsageError(
            f"the mask has the shape {tuple(given.shape)}, and the examples are {expected}: give one of their size, or one for each."
        )
    for k, part in enumerate(whole):
        if part.all() or not part.any():
            what, fix = (
                ("nothing", "there is nothing to fill in")
                if not part.any()
                else ("everything", "nothing is left to go by")
            )
            raise UsageError(f"the mask hides {what} of example {k}: {fix}.")
    return whole.expand(inputs, *whole.shape[1:])
