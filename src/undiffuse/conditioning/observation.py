"""The observation, what is known of the example to be made, as a condition: channels beside the noisy input, in the model's range of x.

Made from each example while training (degradations.py), and always present.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from undiffuse.conditioning.base import ConditionModule, ConditionSettings
from undiffuse.errors import UsageError


class ObservationConfig(ConditionSettings):
    """What a degradation left of the example."""

    declarable: ClassVar[bool] = False

    kind: Literal["observation"] = Field("observation", description="Which kind of condition this is.")
    shape: tuple[int, ...] = Field(min_length=2, description="Shape of the observation: (channels, *size).")
    dropout: Literal[0] = Field(0, description="Always 0: this condition is never left out.")
    inject: Literal["concat"] = Field("concat", description="Always concat.")

    def merged_with(self, data: ObservationConfig) -> ObservationConfig:
        if data.shape[0] != self.shape[0]:
            raise UsageError(
                f"the model's observation has {self.shape[0]} channels, and this has {data.shape[0]}: keep the degradations."
            )
        return self._merged(data, shape=data.shape)

    @property
    def concat_channels(self) -> int:
        return self.shape[0]


class ObservationCondition(ConditionModule):
    """(B, channels, *size) → the same."""

    config: ObservationConfig

    def __init__(self, config: ObservationConfig, width: int) -> None:
        super().__init__(config)
        self.axes = len(config.shape)

    def encode(self, values: Sequence[object]) -> Tensor:
        if any(value is None for value in values):
            raise UsageError(
                "this model makes examples of what is left of them: use 'undiffuse restore RUN IMAGE', or undiffuse.restore in Python."
            )
        return self.read(values)

    def forward(self, encoded: Tensor) -> Tensor:
        return encoded

    def null_token(self) -> Tensor:
        return torch.zeros(self.config.shape)

    def read(self, values: Sequence[object]) -> Tensor:
        rows = [torch.as_tensor(value, dtype=torch.float32).cpu() for value in values]
        for row in rows:
            if tuple(row.shape) != self.config.shape:
                raise UsageError(
                    f"the observation has the shape {tuple(row.shape)}, but the model takes {self.config.shape}."
                )
        return torch.stack(rows)
