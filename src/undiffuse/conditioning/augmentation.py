"""How an example was augmented, as a condition: what keeps augmentation from leaking into the samples.

A model trained on shifted pictures would make shifted pictures.  One that receives each shift can be sampled with none
(Karras et al. 2022, appendix F.2).  What the numbers say is data/augmentation.py's to know.  Sampling always sets none; it is
never dropped, and users cannot set it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undiffuse.conditioning.base import ConditionModule, ConditionSettings, ParameterMap
from undiffuse.errors import UsageError


class AugmentationConfig(ConditionSettings):
    """What an augmentation did to the training example."""

    declarable: ClassVar[bool] = False

    kind: Literal["augmentation"] = Field("augmentation", description="Which kind of condition this is.")
    numbers: int = Field(
        gt=0, description="How many numbers describe an augmentation; all are 0 where nothing was done."
    )
    dropout: Literal[0] = Field(0, description="Always 0: this condition is never left out.")
    inject: Literal["embedding"] = Field("embedding", description="Always embedding.")
    missing: Literal[True] = Field(
        True, description="Always true: no example of a data set has a value of its own."
    )  # every example of a data set says nothing of its own

    def merged_with(self, data: AugmentationConfig) -> AugmentationConfig:
        return self._merged(data)


class AugmentationCondition(ConditionModule):
    """Descriptions (B, numbers) → embeddings (B, width), the zero vector for none."""

    settable = False
    config: AugmentationConfig

    def __init__(self, config: AugmentationConfig, width: int) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.numbers, width, bias=False)

    def forward(self, encoded: Tensor) -> Tensor:
        out: Tensor = self.linear(encoded)
        return out

    def parameter_map(self, old: AugmentationCondition) -> dict[str, ParameterMap]:
        """Of another menu than the old one's, the numbers say something else: they start without effect."""
        n = self.config.numbers
        return {} if n == old.config.numbers else {"linear.weight": ParameterMap(1, (None,) * n)}

    def null_token(self) -> Tensor:
        return torch.zeros(self.config.numbers)

    def read(self, values: Sequence[object]) -> Tensor:
        raise UsageError("how an example was augmented cannot be set.")
