"""A number as a condition: any number on a scale, also one that no example of the data has.

Standardised by the data, z = (value - mean)/deviation, and embedded continuously: z itself with sines and cosines of
it at a few frequencies, the lowest with a period longer than the data's range, so that neighbours stay neighbours
between the values of training (Tancik et al. 2020, Fourier features).  Encoded as (z, 1), (0, 0) where the value is absent.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.conditioning.base import ConditionModule, ConditionSettings, Note, as_token, two_layers, width_for
from undiffuse.conditioning.fitting import Column, Fitting, one_value_each
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.spec import Condition

DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
NUMBER_FREQUENCIES = tuple(math.pi / 8 * 2**k for k in range(5))  # periods of 16 … 1 standard deviations

MOST_LISTED = 10


class NumberConfig(ConditionSettings):
    """A number, standardised by the statistics of the training data."""

    numeric: ClassVar[bool] = True

    kind: Literal["number"] = Field("number", description="Which kind of condition this is.")
    mean: float = Field(description="Mean of the training data, in its own unit.")
    std: float = Field(gt=0, description="Standard deviation of the training data, in its own unit.")
    low: float = Field(description="Lowest value in the data.")
    high: float = Field(description="Highest value in the data.")

    @classmethod
    def read_column(cls, column: np.ndarray, data: Dataset, declared: Condition) -> Column:
        return Column(one_value_each(column, declared.kind, whole=False))

    @classmethod
    def fit(cls, column: Column, how: Fitting) -> NumberConfig:
        values = column.present()
        for row, value in enumerate(column.values):
            try:
                _ = value if value is None else as_number(value)
            except UsageError as error:
                example = row + 1 if how.examples is None else how.examples[row]
                raise UsageError(f"of example {example}, {error}") from None
        numbers = torch.tensor([as_number(value) for value in values], dtype=torch.float64)
        whole = {
            int(digits) for value in values if (digits := str(value).strip()).removeprefix("-").isdecimal()
        }  # exactly, unlike floats
        if len(whole) > len({float(value) for value in whole}) and not how.continued:  # an older run goes on
            raise UsageError(
                "different whole numbers beyond 2^53 would be read as the same: subtract the smallest from all of them."
            )
        low, high = numbers.min().item(), numbers.max().item()
        if low == high and not how.continued:
            raise UsageError(f"it is {low:g} in every row: there is nothing to learn from it.")
        measured = [as_number(value) for value in how.measured(column.values)]
        numbers = torch.tensor(measured, dtype=torch.float64) if len(set(measured)) > 1 else numbers
        return cls(
            mean=numbers.mean().item(),
            std=numbers.std().item() if low < high else 1.0,
            low=low,
            high=high,
            **how.common(len(values) < len(column)),
        )

    @classmethod
    def parse(cls, text: str, config: NumberConfig | None = None, fit: str = "crop") -> tuple[list[Any], list[str]]:
        """ "30", "20,30" or "0:40:5", five numbers from 0 to 40."""
        if text.count(":") != 2:
            numbers = [as_number(part) for part in text.split(",")]
        else:
            low, high, count = (as_number(part) for part in text.split(":"))
            if count != int(count) or count < 2:
                raise UsageError(
                    f"{text!r} is no range: write low:high:count with a count of at least 2, like 20:60:5."
                )
            numbers = [low + (high - low) * k / (count - 1) for k in range(int(count))]
        return list(numbers), [f"{number:g}" for number in numbers]

    def merged_with(self, data: NumberConfig) -> NumberConfig:
        return self._merged(data, low=min(self.low, data.low), high=max(self.high, data.high))


class NumberCondition(ConditionModule):
    """Standardised numbers (B, 2) → embeddings (B, width)."""

    config: NumberConfig
    frequencies: Tensor

    def __init__(self, config: NumberConfig, width: int) -> None:
        super().__init__(config)
        self.mlp = two_layers(2 * len(NUMBER_FREQUENCIES) + 2, width_for(config, width))
        self.register_buffer("frequencies", torch.tensor(NUMBER_FREQUENCIES), persistent=False)

    def forward(self, encoded: Tensor) -> Tensor:
        z, present = encoded[:, :1], encoded[:, 1:]
        angles = z * self.frequencies
        return as_token(
            self.mlp(torch.cat([present * torch.cat([z, angles.sin(), angles.cos()], 1), present], 1)), self.config
        )

    def null_token(self) -> Tensor:
        return torch.zeros(2)

    def read(self, values: Sequence[object]) -> Tensor:
        numbers = [as_number(value) for value in values]
        outside = sorted({number for number in numbers if not self.config.low <= number <= self.config.high})
        if outside:
            listed = ", ".join(f"{number:g}" for number in outside[:MOST_LISTED]) + (
                ", …" if len(outside) > MOST_LISTED else ""
            )
            warnings.warn(
                f"{self.name + ': ' if self.name else ''}{listed} {'lies' if len(outside) == 1 else 'lie'} outside {self.config.low:g} to "
                f"{self.config.high:g}, the range of training: the model can only guess there",
                Note,
                stacklevel=2,
            )
        z = (torch.tensor(numbers, dtype=torch.float64) - self.config.mean) / self.config.std
        return torch.stack([z, torch.ones_like(z)], 1).float()


def as_number(value: object) -> float:
    """A finite number, or a text that reads as one. Raises UsageError."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        if isinstance(value, str) and DECIMAL_COMMA.fullmatch(value.strip()):
            raise UsageError(
                f"{value!r} is no number: for a decimal comma write a point, {value.strip().replace(',', '.')}."
            ) from None
        raise UsageError(f"{value!r} is no number: write one like 30 or 0.5.") from None
    if not math.isfinite(number):
        raise UsageError(f"{value!r} is no finite number: write one like 30 or 0.5.")
    return number
