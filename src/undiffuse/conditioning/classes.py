"""Classes and task labels as conditions: a name from the vocabulary → one learned vector.

The null token of a class is one row past the vocabulary, never a fixed number.  A task label says which of several jobs
one network is to do (paint in, enlarge, …): it is never dropped, always present, and guidance leaves it as it is.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undiffuse.conditioning.base import (
    ConditionModule,
    ConditionSettings,
    ParameterMap,
    as_token,
    merged_vocabulary,
    old_indices,
    width_for,
)
from undiffuse.conditioning.fitting import Column, Fitting, several
from undiffuse.errors import UsageError


class ClassConfig(ConditionSettings):
    """One class of a fixed vocabulary."""

    naming: ClassVar[bool] = True

    kind: Literal["class"] = Field("class", description="Which kind of condition this is.")
    names: tuple[str, ...] = Field(min_length=1, description="The class names, in the order of their indices.")

    @classmethod
    def fit(cls, column: Column, how: Fitting) -> ClassConfig:
        values = column.present()
        return cls(names=several(vocabulary(values), how.continued), **how.common(len(values) < len(column)))

    @classmethod
    def parse(cls, text: str, config: ClassConfig | None = None, fit: str = "crop") -> tuple[list[Any], list[str]]:
        """One class, or several with commas in between."""
        return listed(text, config)

    def merged_with(self, data: ClassConfig) -> ClassConfig:
        return self._merged(data, names=merged_vocabulary(self.names, data.names))


class TaskConfig(ConditionSettings):
    """One task of a fixed list."""

    naming: ClassVar[bool] = True

    kind: Literal["task"] = Field("task", description="Which kind of condition this is.")
    names: tuple[str, ...] = Field(min_length=1, description="The task names, in the order of their indices.")
    dropout: Literal[0] = Field(0, description="Always 0: this condition is never left out.")

    @classmethod
    def fit(cls, column: Column, how: Fitting) -> TaskConfig:
        values = column.present()
        if len(values) < len(column):
            raise UsageError(
                f"{len(column) - len(values)} rows name no task, and every example needs one: fill them in."
            )
        return cls(names=several(vocabulary(values), how.continued), **how.common(missing=False) | {"dropout": 0})

    @classmethod
    def parse(cls, text: str, config: TaskConfig | None = None, fit: str = "crop") -> tuple[list[Any], list[str]]:
        """One task, or several with commas in between."""
        return listed(text, config)

    def merged_with(self, data: TaskConfig) -> TaskConfig:
        return self._merged(data, names=merged_vocabulary(self.names, data.names))


class ClassCondition(ConditionModule):
    """Class indices (B,) → embeddings (B, width)."""

    config: ClassConfig | TaskConfig

    def __init__(self, config: ClassConfig | TaskConfig, width: int) -> None:
        super().__init__(config)
        self.place = {name: k for k, name in enumerate(config.names)}
        self.table = nn.Embedding(len(config.names) + config.droppable, width_for(config, width))

    def forward(self, encoded: Tensor) -> Tensor:
        return as_token(self.table(encoded), self.config)

    def null_token(self) -> Tensor:
        return torch.tensor(len(self.config.names))

    def read(self, values: Sequence[object]) -> Tensor:
        """Names, or numbers that read as names → int64 (n,)."""
        return torch.tensor([self._index(str(value)) for value in values], dtype=torch.int64)

    def parameter_map(self, old: ClassCondition) -> dict[str, ParameterMap]:
        """A new name starts as the null token, or where there was none as the mean of the old ones."""
        names, null = old.config.names, (len(old.config.names),) if old.config.droppable else ()
        rows = [*old_indices(self.config.names, names)]
        rows += [null[0] if null else None] if self.config.droppable else []
        return {"table.weight": ParameterMap(0, tuple(rows), null or tuple(range(len(names))))}

    def _index(self, name: str) -> int:
        if name in self.place:
            return self.place[name]
        raise UsageError(unknown(name, self.config.names, self.config.kind))


def unknown(name: str, names: Sequence[str], what: str) -> str:
    """The sentence for a name that is not in a vocabulary, with near matches."""
    close = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    plural = {"class": "classes"}.get(what, f"{what}s")
    return f"there is no {what} {name!r}: {hint}the {len(names)} {plural} are {shown}."


def listed(text: str, config: ClassConfig | TaskConfig | None) -> tuple[list[Any], list[str]]:
    """The names in a text of the command line, and the same to be shown. A name with commas in it is one name."""
    names = [text] if config is not None and text in config.names else text.split(",")
    return names, list(names)


def vocabulary(values: Iterable[object]) -> tuple[str, ...]:
    """The different values but None, in order: numbers by size, anything else by name."""
    names = {str(value) for value in values if value is not None}
    try:
        return tuple(sorted(sorted(names), key=float))  # "1" before "1.0", every time
    except ValueError:
        return tuple(sorted(names))
