"""One condition of every kind, for laws that hold for all of them, with values that differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from undiffuse.conditioning.base import ConditionModule
from undiffuse.conditioning.classes import ClassConfig, TaskConfig
from undiffuse.conditioning.conditions import CONDITIONS
from undiffuse.conditioning.numbers import NumberConfig
from undiffuse.conditioning.pictures import ImageConfig
from undiffuse.conditioning.tags import TagsConfig
from undiffuse.conditioning.texts import TextConfig, WordsEncoder
from undiffuse.conditioning.transformers import TransformerEncoder
from undiffuse.conditioning.vectors import VectorConfig

WAYS = ("embedding", "concat", "cross_attention")
WIDTH = 12


@dataclass(frozen=True)
class Kind:
    """configuration: what a configuration of the kind is made with.   values: said ones, all different.

    tokens: of one example where positions attend to it.   beside: channels beside the noisy input.
    """

    make: Any
    configuration: dict[str, Any]
    values: tuple[Any, ...]
    tokens: int = 1
    beside: int = 8

    def config(self, **common: Any) -> Any:
        return self.make(**self.configuration, **common)

    def module(self, seed: int = 0, width: int = WIDTH, **common: Any) -> ConditionModule:
        config = self.config(**common)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return CONDITIONS[config.kind].module(config, width)


def picture(seed: int) -> torch.Tensor:
    return torch.randint(0, 256, (2, 8, 8), generator=torch.Generator().manual_seed(seed)).float()


# what a frozen transformer would have said; tests/conditioning/test_transformers.py has real ones
POOLED = TransformerEncoder(source="nowhere", sha256="0", architecture="BertModel", pooling="mean", width=5, most=7)

DROPPABLE = {
    "class": Kind(ClassConfig, {"names": ("cat", "dog", "horse")}, ("cat", "dog", "horse")),
    "tags": Kind(TagsConfig, {"names": ("big", "red", "round")}, ("red;round", "big", "-")),
    "number": Kind(NumberConfig, {"mean": 40.0, "std": 10.0, "low": 0.0, "high": 90.0}, (30, 40.5, 0.0)),
    "vector": Kind(VectorConfig, {"mean": (1.0, -2.0), "std": (2.0, 0.5)}, ((3.0, 1.0), (1.0, -2.0), (0.0, 0.0))),
    "text": Kind(TextConfig, {"encoder": WordsEncoder(buckets=97, most=4)}, ("a red cat", "a dog", "!"), tokens=4),
    "image": Kind(
        ImageConfig,
        {"shape": (2, 8, 8), "low": 0.0, "high": 255.0},
        (picture(0), picture(1), picture(2)),
        tokens=64,
        beside=3,
    ),
}
TASK = Kind(TaskConfig, {"names": ("paint", "enlarge")}, ("paint", "enlarge"))
KIND_OF = DROPPABLE | {"task": TASK}
