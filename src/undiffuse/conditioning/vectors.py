"""A vector as a condition: an embedding of the user's own, from whatever made it.

Standardised by the data, number by number, so that its scale does not matter.  Encoded with a last 1, all zeros where
nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from undiffuse.conditioning.base import ConditionModule, ConditionSettings, as_token, two_layers, width_for
from undiffuse.errors import UsageError


class VectorConfig(ConditionSettings):
    """A vector, standardised by the statistics of the training data."""

    kind: Literal["vector"] = Field("vector", description="Which kind of condition this is.")
    mean: tuple[float, ...] = Field(min_length=1, description="Mean of the training data, one number per component.")
    std: tuple[float, ...] = Field(description="Standard deviation of the training data, one number per component.")

    def merged_with(self, data: VectorConfig) -> VectorConfig:
        if len(data.mean) != len(self.mean):
            raise UsageError(
                f"its vectors have {len(data.mean)} numbers, and the model takes {len(self.mean)}: give the same embedding."
            )
        return self._merged(data)


class VectorCondition(ConditionModule):
    """Standardised vectors (B, d + 1) → embeddings (B, width)."""

    config: VectorConfig
    axes = 1

    def __init__(self, config: VectorConfig, width: int) -> None:
        super().__init__(config)
        self.mlp = two_layers(len(config.mean) + 1, width_for(config, width))

    def forward(self, encoded: Tensor) -> Tensor:
        return as_token(self.mlp(encoded), self.config)

    def null_token(self) -> Tensor:
        return torch.zeros(len(self.config.mean) + 1)

    def read(self, values: Sequence[object]) -> Tensor:
        """Sequences of d numbers each. Raises UsageError for another length, or numbers that are not finite."""
        rows, d = [], len(self.config.mean)
        for value in values:
            try:
                vector = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
            except (TypeError, ValueError, RuntimeError):
                raise UsageError(
                    f"{str(value)[:40]!r} is no vector: give {d} numbers, or an .npy file of them."
                ) from None
            if vector.shape != (d,):
                raise UsageError(
                    f"the vector has the shape {tuple(vector.shape)}, but the model takes ({d},): give the embedding of training."
                )
            if not vector.isfinite().all():
                raise UsageError("the vector holds numbers that are NaN or infinite: mend it.")
            rows.append(vector)
        z = (torch.stack(rows) - torch.tensor(self.config.mean, dtype=torch.float64)) / torch.tensor(
            self.config.std, dtype=torch.float64
        )
        return torch.cat([z, torch.ones(len(z), 1)], 1).float()
