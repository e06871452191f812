"""Tags as a condition: any number of names from a vocabulary at once.

Encoded as one number per name, 1 where it applies, and a last 1 where tags were given: an example without any
tag is something else than one of which nothing is known.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.conditioning.base import (
    ConditionModule,
    ConditionSettings,
    ParameterMap,
    as_token,
    merged_vocabulary,
    old_indices,
    two_layers,
    width_for,
)
from undiffuse.conditioning.classes import unknown, vocabulary
from undiffuse.conditioning.encoded import Encoded, Ragged, starts_of
from undiffuse.conditioning.fitting import Column, Fitting, one_value_each, several
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.spec import Condition

SEPARATORS = re.compile(r"[;|,]")
NO_TAGS = "-"  # how to say in words that none applies


class TagsConfig(ConditionSettings):
    """Any number of names of a fixed vocabulary."""

    naming: ClassVar[bool] = True

    kind: Literal["tags"] = Field("tags", description="Which kind of condition this is.")
    names: tuple[str, ...] = Field(min_length=1, description="The tag names, in the order of their indices.")

    @classmethod
    def read_column(cls, column: np.ndarray, data: Dataset, declared: Condition) -> Column:
        """Texts of tags, or a column of 0 or 1 for each tag."""
        if column.ndim != 2:
            return Column(one_value_each(column, declared.kind, missing=()))
        known = column[~np.isnan(column).any(1)] if column.dtype.kind == "f" else column
        if column.dtype.kind not in "fiub" or not np.isin(known, (0, 1)).all():
            raise UsageError(
                "a table of tags holds 1 where a tag applies and 0 where it does not, but this one holds other values."
            )
        return Column([None if (row != row).any() else [str(k) for k in np.flatnonzero(row)] for row in column])

    @classmethod
    def fit(cls, column: Column, how: Fitting) -> TagsConfig:
        values = column.present()
        names = vocabulary(name for value in values for name in names_in(value))
        return cls(names=several(names, how.continued), **how.common(len(values) < len(column)))

    @classmethod
    def names_of(cls, value: Any) -> list[str]:
        return names_in(value)

    def merged_with(self, data: TagsConfig) -> TagsConfig:
        return self._merged(data, names=merged_vocabulary(self.names, data.names))


class TagsCondition(ConditionModule):
    """Tags (B, names + 1) → embeddings (B, width)."""

    config: TagsConfig

    def __init__(self, config: TagsConfig, width: int) -> None:
        super().__init__(config)
        self.place = {name: k for k, name in enumerate(config.names)}
        self.mlp = two_layers(len(config.names) + 1, width_for(config, width))

    def forward(self, encoded: Tensor) -> Tensor:
        return as_token(self.mlp(encoded), self.config)

    def parameter_map(self, old: TagsCondition) -> dict[str, ParameterMap]:
        """A new name adds nothing at first."""
        names = old.config.names
        return {"mlp.0.weight": ParameterMap(1, (*old_indices(self.config.names, names), len(names)))}

    def is_one(self, value: object) -> bool:
        """A text, a tuple or a set is the tags of one example; a list is those of several."""
        return not isinstance(value, list) and not getattr(value, "ndim", 0)

    def null_token(self) -> Tensor:
        return torch.zeros(len(self.config.names) + 1)

    def read(self, values: Sequence[object]) -> Tensor:
        """Texts like "red;round", or sequences of names; "-" or an empty sequence for no tag at all."""
        rows = torch.zeros(len(values), len(self.config.names) + 1)
        rows[:, -1] = 1
        for row, value in enumerate(values):
            rows[row, self._indices(value)] = 1
        return rows

    def encode_all(self, values: Sequence[object] | Tensor) -> Encoded:
        """The tags of each example as the indices of their names."""
        indices, lengths, which = array("i"), array("q"), array("q")
        for row, value in enumerate(values):
            found = [] if value is None else self._indices(value)
            indices.extend(found)
            lengths.append(len(found))
            which.append(-1 if value is None else row)
        if -1 in which:
            self.require_null_token()
        content = torch.tensor(indices, dtype=torch.int32)
        return Ragged(
            content, starts_of(lengths), torch.tensor(which), len(self.config.names), torch.float32, named=True
        )

    def _indices(self, value: object) -> list[int]:
        names = names_in(value)
        for name in names:
            if name not in self.place:
                raise UsageError(unknown(name, self.config.names, "tag"))
        return [self.place[name] for name in names]


def names_in(value: object) -> list[str]:
    """The tags in a text separated by ; | or commas, or in a sequence."""
    if getattr(value, "ndim", 0):
        value = value.tolist()  # type: ignore[attr-defined]
    if isinstance(value, list | tuple | set | frozenset):
        return [str(name) for name in value]
    parts = [part.strip() for part in SEPARATORS.split(str(value))]
    return [part for part in parts if part and part != NO_TAGS]
