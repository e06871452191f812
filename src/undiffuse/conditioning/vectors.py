"""A vector as a condition: an embedding of the user's own, from whatever made it.

Standardised by the data, number by number, so that its scale does not matter.  Encoded with a last 1, all zeros where
the vector is absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.conditioning.base import ConditionModule, ConditionSettings, as_token, two_layers, width_for
from undiffuse.conditioning.fitting import Column, Fitting
from undiffuse.data.arrays import load_one
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.spec import Condition


class VectorConfig(ConditionSettings):
    """A vector, standardised by the statistics of the training data."""

    numeric: ClassVar[bool] = True

    kind: Literal["vector"] = Field("vector", description="Which kind of condition this is.")
    mean: tuple[float, ...] = Field(min_length=1, description="Mean of the training data, one number per component.")
    std: tuple[float, ...] = Field(description="Standard deviation of the training data, one number per component.")

    @classmethod
    def read_column(cls, column: np.ndarray, data: Dataset, declared: Condition) -> Column:
        """Vectors float64 (N, d)."""
        if column.dtype.kind not in "fiub" or column.ndim != 2:
            raise UsageError(
                f"a vector is a row of numbers for each example, but this column has the shape {column.shape} and type {column.dtype}."
            )
        return Column(torch.from_numpy(column.astype(np.float64)))

    @classmethod
    def fit(cls, column: Column, how: Fitting) -> VectorConfig:
        vectors = column.values
        if not isinstance(vectors, Tensor) or vectors.ndim != 2:
            raise UsageError("a vector is a row of numbers for each example: (examples, numbers).")
        there = ~vectors.isnan().any(1)
        present = vectors[there].double()
        if len(present) < 2 or not present.isfinite().all():
            raise UsageError("the vectors hold infinite numbers, or are all missing: fix them.")
        if not present.std(0).any():
            raise UsageError("the vectors are the same in every row: there is nothing to learn from them.")
        if how.rows is not None:
            of_rows = vectors[list(how.rows)][there[list(how.rows)]].double()
            present = of_rows if len(of_rows) > 1 and of_rows.std(0).any() else present
        deviation = present.std(0)
        return cls(
            mean=tuple(present.mean(0).tolist()),
            std=tuple(torch.where(deviation > 0, deviation, 1.0).tolist()),
            **how.common(missing=not bool(there.all())),
        )

    @classmethod
    def parse(cls, text: str, config: VectorConfig | None = None, fit: str = "crop") -> tuple[list[Any], list[str]]:
        """The path of an .npy file of one vector, or of one in each row."""
        path = Path(text)
        if path.suffix.lower() != ".npy" or not path.exists():
            raise UsageError(f"{path} is no .npy file that is here: give one with a vector, or with one in each row.")
        content = load_one(path)
        rows = content[None] if content.ndim == 1 else content
        return list(rows), [path.stem if len(rows) == 1 else f"{path.stem}[{k}]" for k in range(len(rows))]

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
                raise UsageError("the vector holds numbers that are NaN or infinite: fix it.")
            rows.append(vector)
        z = (torch.stack(rows) - torch.tensor(self.config.mean, dtype=torch.float64)) / torch.tensor(
            self.config.std, dtype=torch.float64
        )
        return torch.cat([z, torch.ones(len(z), 1)], 1).float()
