"""Classes as a condition: a name from the vocabulary → one learned vector.

A condition is dropped during training, for each example on its own, by replacing it with the null token, one row past
the vocabulary (never a fixed number).  That trains the unconditional model along with the conditional one, which is
what classifier-free guidance needs (Ho & Salimans 2022, Algorithm 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class ClassConfig(BaseModel):
    """names: the vocabulary, in index order.   drop: probability of the null token in training; 0 has none."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["class"] = "class"
    names: tuple[str, ...] = Field(min_length=1)
    drop: float = Field(0.1, ge=0, lt=1)


class ClassCondition(nn.Module):
    """Class indices (B,) → embeddings (B, width)."""

    asked_by_name = True

    def __init__(self, config: ClassConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(len(config.names) + bool(config.drop), width)

    def forward(self, index: Tensor) -> Tensor:
        return self.table(index)

    def encode(self, values: Sequence[object]) -> Tensor:
        """Names (or numbers that read as names), None for the null token → int64 (B,)."""
        return torch.tensor([self._index(value) for value in values], dtype=torch.int64)

    def _index(self, value: object) -> int:
        if value is None:
            return self.null_index()
        name = str(value)
        if name in self.config.names:
            return self.config.names.index(name)
        close = difflib.get_close_matches(name, self.config.names, n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        shown = ", ".join(self.config.names[:20]) + (", …" if len(self.config.names) > 20 else "")
        raise ValueError(f"there is no class {name!r}: {hint}the {len(self.config.names)} classes are {shown}.")

    def null_index(self) -> int:
        if not self.config.drop:
            raise ValueError(
                "this model was trained without ever dropping its class (drop = 0), so it has no unconditional "
                "mode: name a class, use guidance 1, or train with a drop of 0.1."
            )
        return len(self.config.names)

    def null(self, n: int, device: torch.device) -> Tensor:
        """The null token for n examples, (n,)."""
        return torch.full((n,), self.null_index(), device=device)

    def dropped(self, index: Tensor, uniform: Tensor) -> Tensor:
        """The indices with each one replaced by the null token where its own uniform number is below `drop`."""
        return torch.where(uniform < self.config.drop, self.null_index(), index) if self.config.drop else index
