"""How an example was augmented, as a condition: what keeps augmentation from leaking into the samples.

A model trained on shifted pictures would make shifted pictures.  One that is told each shift can be asked for none
(Karras et al. 2022, appendix F.2).  Sampling always asks for none; it is never dropped, and users cannot ask for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class AugmentationConfig(BaseModel):
    """numbers: how many numbers describe what was done; all are 0 where nothing was."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["augmentation"] = "augmentation"
    numbers: int = Field(gt=0)


class AugmentationCondition(nn.Module):
    """Descriptions (B, numbers) → embeddings (B, width), the zero vector for none."""

    asked_by_name = False

    def __init__(self, config: AugmentationConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.numbers, width, bias=False)

    def forward(self, description: Tensor) -> Tensor:
        return self.linear(description)

    def encode(self, values: Sequence[object]) -> Tensor:
        """No augmentation, once for each of `values`."""
        return torch.zeros(len(values), self.config.numbers)

    def null(self, n: int, device: torch.device) -> Tensor:
        return torch.zeros(n, self.config.numbers, device=device)

    def dropped(self, description: Tensor, uniform: Tensor) -> Tensor:
        return description
