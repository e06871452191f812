"""All the conditions of a model: encoding their values, dropping them, embedding them.

A model's conditions are a mapping from a name ("class", "age") to a configuration.  What goes into every layer adds up to
one vector, beside that of the time step; what goes beside the noisy input and what is attended to is put in a row.

In training every condition of every example is dropped on its own.  Independent drops would hardly ever drop all of
several conditions at once, and guidance starts from the unconditional network: so now and then all are dropped
together, as often as the one that is dropped least.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from undiffuse.conditioning.augmentation import AugmentationCondition, AugmentationConfig
from undiffuse.conditioning.base import ConditionModule, ConditionSettings
from undiffuse.conditioning.classes import ClassCondition, ClassConfig, TaskConfig
from undiffuse.conditioning.known import KNOWN, KnownCondition, KnownConfig
from undiffuse.conditioning.numbers import NumberCondition, NumberConfig
from undiffuse.conditioning.observation import ObservationCondition, ObservationConfig
from undiffuse.conditioning.pictures import ImageCondition, ImageConfig
from undiffuse.conditioning.tags import TagsCondition, TagsConfig
from undiffuse.conditioning.texts import TextCondition, TextConfig
from undiffuse.conditioning.vectors import VectorCondition, VectorConfig
from undiffuse.config import OneOf, kind_of
from undiffuse.errors import UsageError
from undiffuse.registry import Registry


@dataclass(frozen=True)
class ConditionEntry:
    """A kind of condition by name.   config: its configuration.   module: it, from the configuration and the width of embeddings."""

    config: type[ConditionSettings]
    module: Callable[[Any, int], ConditionModule]


CONDITIONS: Registry[ConditionEntry] = Registry(
    "kind of condition",
    "undiffuse.conditions",
    {
        "class": ConditionEntry(ClassConfig, ClassCondition),
        "task": ConditionEntry(TaskConfig, ClassCondition),
        "tags": ConditionEntry(TagsConfig, TagsCondition),
        "number": ConditionEntry(NumberConfig, NumberCondition),
        "vector": ConditionEntry(VectorConfig, VectorCondition),
        "text": ConditionEntry(TextConfig, TextCondition),
        "image": ConditionEntry(ImageConfig, ImageCondition),
        "augmentation": ConditionEntry(AugmentationConfig, AugmentationCondition),
        "observation": ConditionEntry(ObservationConfig, ObservationCondition),
        "known": ConditionEntry(KnownConfig, KnownCondition),
    },
)
ConditionConfig = Annotated[ConditionSettings, OneOf(CONDITIONS)]
"""The configuration of a condition, of any kind in CONDITIONS."""


def register_condition(
    kind: str, config: type[ConditionSettings], module: Callable[[Any, int], ConditionModule]
) -> None:
    """Makes a kind of condition of one's own known, to `Condition(kind=kind)` and wherever conditions are named.

    config: a subclass of ConditionSettings with `kind: Literal["…"] = "…"`, the same name, and whatever its module must know of the data;
    it says how it is fitted to a column (`fit`), and overrides `read_column`, `parse` and others only where they are different for it.
    module: a subclass of ConditionModule, called with (configuration, width of the embedding).
    Raises UsageError for a name that is taken, or that is not the configuration's `kind`.
    """
    if kind_of(config) != kind:
        raise UsageError(
            f"the configuration of {kind!r} is recognised by its kind: write kind: Literal[{kind!r}] = {kind!r} in it."
        )
    CONDITIONS.register(kind, ConditionEntry(config, module), module)


EncodedConditions = dict[str, Tensor]
"""Encoded conditions: one tensor per condition, with one row per example."""


class NetworkConditioning(NamedTuple):
    """What the network receives for B examples, see base.py.

    embedding: (B, width).   concat: channels, each (B, c) or (B, c, *size).   tokens: (B, n, width) with padding_mask (B, n), True
    where a token is not there.  None, or empty, where there is nothing of the kind.
    known: bool (B, C or 1, *size), False where an example has a hole and x̂ is 0; None where all is known.
    """

    embedding: Tensor | None = None
    concat: tuple[Tensor, ...] = ()
    tokens: Tensor | None = None
    padding_mask: Tensor | None = None
    known: Tensor | None = None


def _key(name: str) -> str:
    """A name of any kind as one that ModuleDict takes: without dots, and none of its own attributes', such as "type"."""
    key = name.replace("%", "%25").replace(".", "%2E")
    return key + "%" if not key or hasattr(nn.ModuleDict(), key) else key


def concat_channels(configs: Mapping[str, ConditionConfig]) -> int:
    """How many channels these conditions put beside the noisy input."""
    return sum(config.concat_channels for config in configs.values())


def cross_attended(configs: Mapping[str, ConditionConfig]) -> bool:
    """Whether any of these conditions is attended to."""
    return any(config.inject == "cross_attention" for config in configs.values())


class Conditions(nn.Module):
    """The conditions of one model; `Values` → NetworkConditioning.

    width: of embeddings and tokens.   layers: of the embeddings that go into every layer, where it is another.
    """

    def __init__(self, configs: Mapping[str, ConditionConfig], width: int, layers: int | None = None) -> None:
        super().__init__()
        self.names = tuple(configs)
        widths = {
            name: (layers or width) if config.inject == "embedding" else width for name, config in configs.items()
        }
        self.each = nn.ModuleDict(
            {_key(name): CONDITIONS[config.kind].module(config, widths[name]) for name, config in configs.items()}
        )
        for name, module in self.items():
            module.name = name
        # a token that is always there, so that attention has something to attend to where every condition is absent
        self.start = nn.Parameter(torch.randn(1, 1, width)) if cross_attended(configs) else None

    @property
    def settable(self) -> list[str]:
        """The names of the conditions that a user can set."""
        return [name for name, module in self.items() if module.settable and not module.config.retired]

    @property
    def droppable(self) -> list[str]:
        """The names of those that may be absent."""
        return [name for name in self.settable if self[name].config.droppable]

    def path(self, name: str) -> str:
        """Where the parameters of a condition are."""
        return f"each.{_key(name)}"

    def null(self, n: int) -> EncodedConditions:
        """The null tokens of n examples, encoded, (n, …) each, on the CPU. Raises UsageError for a condition that must be present."""
        return {name: module.encode([None] * n) for name, module in self.items()}

    def items(self) -> list[tuple[str, ConditionModule]]:
        """Names and modules of all conditions, in their order."""
        return [(name, self[name]) for name in self.names]

    def __getitem__(self, name: str) -> ConditionModule:
        return cast(ConditionModule, self.each[_key(name)])

    def forward(self, values: EncodedConditions) -> NetworkConditioning:
        """What the network receives for encoded conditions, (B, …) each.

        Raises UsageError where conditions are missing or unknown.
        """
        if values.keys() != set(self.names):
            raise UsageError(
                f"conditions {sorted(values)} were given to a model whose conditions are {sorted(self.names)}."
            )
        layers: list[Tensor] = []
        beside: list[Tensor] = []
        tokens: list[Tensor] = []
        absent: list[Tensor] = []
        for name, module in self.items():
            embedding = _embedded(name, module, values[name])
            {"embedding": layers, "concat": beside, "cross_attention": tokens}[module.config.inject].append(embedding)
            if module.config.inject == "cross_attention":
                missing = module.padding_mask(values[name])
                absent.append(
                    torch.zeros(embedding.shape[:2], dtype=torch.bool, device=embedding.device)
                    if missing is None
                    else missing
                )
        summed = torch.stack(layers).sum(0) if len(layers) > 1 else layers[0] if layers else None
        known = None if self.known is None else values[KNOWN]
        if not tokens:
            return NetworkConditioning(summed, tuple(beside), known=known)
        assert self.start is not None
        start = self.start.expand(len(tokens[0]), -1, -1)
        there = torch.zeros(start.shape[:2], dtype=torch.bool, device=start.device)
        return NetworkConditioning(
            summed, tuple(beside), torch.cat([start, *tokens], 1), torch.cat([there, *absent], 1), known
        )

    def encode(self, requested: Mapping[str, object], n: int) -> EncodedConditions:
        """Values of conditions, one for all or a sequence of n, encoded for n examples, (n, …) each.

        A condition that is not mentioned is the null token.  Raises UsageError for a name the model does not have, a value
        that cannot be understood, or a condition that must be present and is not.
        """
        each, found = self.for_each(requested, n), {}
        for name, module in self.items():
            try:
                found[name] = module.encode(each.get(name, [None] * n))
            except UsageError as error:
                raise UsageError(f"{name}: {error}") from None
        known = self.known
        if known is not None and known.config.length is not None:
            found[KNOWN] = known.before_ends(each.get(known.config.length, [None] * n))
        return found

    @property
    def known(self) -> KnownCondition | None:
        """The condition that says which numbers of an example are known; None of a model that was trained on complete ones."""
        return next((module for _, module in self.items() if isinstance(module, KnownCondition)), None)

    def for_each(self, requested: Mapping[str, object], n: int) -> dict[str, list[object]]:
        """The value of each of n examples, as `encode` takes it. Raises UsageError as that does."""
        if not isinstance(requested, Mapping):
            raise UsageError(f"conditions are given by name, as {{'class': '7'}}, and not as {requested!r}.")
        if n < 1:
            raise UsageError(f"{n} examples were requested: take at least 1.")
        for name in requested:
            if name not in self.settable:
                known = f"its conditions are: {', '.join(self.settable)}" if self.settable else "it is unconditional"
                raise UsageError(f"this model has no condition {name!r}: {known}.")
        return {name: self[name].each(value, n, name) for name, value in requested.items()}

    def without(self, values: EncodedConditions, names: Collection[str] | None = None) -> EncodedConditions:
        """The same with the null token for `names`, for all that may be absent where None: what guidance starts from."""
        left_out = self.droppable if names is None else names
        return {
            name: self[name].null_tokens(len(value), value.device) if name in left_out else value
            for name, value in values.items()
        }

    def dropped(self, values: EncodedConditions, generator: torch.Generator) -> EncodedConditions:
        """Training's Values: every condition of every example dropped on its own, and now and then all of them."""
        own = {name: module.config.dropout for name, module in self.items() if module.config.dropout}
        n = len(next(iter(values.values()))) if values else 0
        drop = {name: torch.rand(n, generator=generator) < share for name, share in own.items()}
        if len(own) > 1:
            together = torch.rand(n, generator=generator) < min(own.values())
            drop = {name: which | together for name, which in drop.items()}
        return {
            name: self[name].dropped(value, drop[name].to(value.device)) if name in drop else value
            for name, value in values.items()
        }


def _embedded(name: str, module: ConditionModule, values: Tensor) -> Tensor:
    """What a condition makes of its encoded values. Raises UsageError for anything but floats with a row for each."""
    found = module(values)
    axes = {"embedding": 2, "cross_attention": 3}.get(module.config.inject)
    if (
        not isinstance(found, Tensor)
        or not found.is_floating_point()
        or found.ndim < 2
        or len(found) != len(values)
        or axes not in (None, found.ndim)
    ):
        shape = f"{tuple(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        wanted = {2: f"({len(values)}, width)", 3: f"({len(values)}, tokens, width)"}.get(
            axes or 0, f"({len(values)}, channels, …)"
        )
        raise UsageError(
            f"the condition {name!r} returned {shape} for {len(values)} examples: `forward` returns floats {wanted}."
        )
    return found
