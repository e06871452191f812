"""All the conditions of a model: encoding what the user says, embedding it, dropping it.

A model's conditions are a mapping from a name ("class") to a configuration.  Their embeddings add up to one vector,
which the network adds to that of the clock and sends into every layer.  New kinds of condition are modules with the
methods of `ClassCondition`, listed in KINDS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from undiffuse.conditioning.augmentation import AugmentationCondition, AugmentationConfig
from undiffuse.conditioning.classes import ClassCondition, ClassConfig

KINDS = {"class": ClassCondition, "augmentation": AugmentationCondition}

ConditionConfig = ClassConfig | AugmentationConfig
Condition = ClassCondition | AugmentationCondition

Values = dict[str, Tensor]
"""Encoded conditions: one tensor per condition, with one row per example."""


class Conditions(nn.Module):
    """The conditions of one model; `Values` → (B, width)."""

    def __init__(self, configs: Mapping[str, ConditionConfig], width: int) -> None:
        super().__init__()
        self.each = nn.ModuleDict({name: KINDS[config.kind](config, width) for name, config in configs.items()})

    @property
    def askable(self) -> list[str]:
        """The names of the conditions that a user can ask for."""
        return [name for name, module in self._items() if module.asked_by_name]

    def _items(self) -> list[tuple[str, Condition]]:
        return [(name, cast(Condition, module)) for name, module in self.each.items()]

    def forward(self, values: Values) -> Tensor | None:
        """The sum of the embeddings; None for a model without conditions."""
        if values.keys() != set(self.each.keys()):
            raise ValueError(f"conditions {sorted(values)} were given to a model whose conditions are {sorted(self.each)}.")
        embeddings = [module(values[name]) for name, module in self._items()]
        return torch.stack(embeddings).sum(0) if len(embeddings) > 1 else embeddings[0] if embeddings else None

    def encode(self, asked: Mapping[str, object], n: int) -> Values:
        """What the user asks for, one value for all or a sequence of n, → Values for n examples.

        A condition that is not mentioned is the null token.  Raises ValueError for a name the model does not have.
        """
        for name in asked:
            if name not in self.askable:
                known = f"its conditions are: {', '.join(self.askable)}" if self.askable else "it is unconditional"
                raise ValueError(f"this model cannot be told {name!r}: {known}.")
        values = {}
        for name, module in self._items():
            value = asked.get(name)
            each = list(value) if isinstance(value, Sequence | Tensor) and not isinstance(value, str) else [value] * n
            if len(each) != n:
                raise ValueError(f"{len(each)} values of {name!r} were given for {n} examples: give one, or one each.")
            values[name] = module.encode([v.item() if isinstance(v, Tensor) else v for v in each])
        return values

    def null(self, n: int, device: torch.device) -> Values:
        """The unconditional Values for n examples."""
        return {name: module.null(n, device) for name, module in self._items()}

    def dropped(self, values: Values, generator: torch.Generator) -> Values:
        """Training's Values: every condition of every example dropped on its own."""
        return {
            name: module.dropped(values[name], torch.rand(len(values[name]), generator=generator).to(values[name].device))
            for name, module in self._items()
        }
