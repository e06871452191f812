"""Previews: what a run draws every so often, so that one can see it learn.

Samples, always of the same seeds; of a model of tasks, what it makes of held-out examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from undiffuse.conditioning.spec import Condition
from undiffuse.models.model import Model
from undiffuse.pictures.edits import draw_rows
from undiffuse.pictures.views import label_of, samples_grid
from undiffuse.training.validation import ValidationSet

MOST_PREVIEWED, FEWEST_PREVIEWED, PREVIEW_NUMBERS = (
    50,
    10,
    2**17,
)  # examples; fewer where they are large and drawing is slow
MOST_OF_TASKS = 12
PREVIEWED_KINDS = ("class", "task", "number", "tags", "text")


class Previews:
    """declared: the model's conditions.   columns: by name, the values of each for examples in the order of the bank's."""

    def __init__(
        self, model: Model, bank: ValidationSet, declared: Mapping[str, Condition], columns: Mapping[str, Sequence[Any]]
    ) -> None:
        self.model, self.bank, self.declared, self.columns = model, bank, declared, columns

    def drawn(self, title: str) -> Image.Image:
        """By the model as it is now."""
        shape = self.model.config.codec.shape
        n = max(FEWEST_PREVIEWED, min(MOST_PREVIEWED, PREVIEW_NUMBERS // math.prod(shape)))
        return (
            self._of_tasks(min(n, MOST_OF_TASKS, len(self.bank.x)), title)
            if self.model.config.degradations
            else self._of_samples(n, title)
        )

    def _of_samples(self, n: int, title: str) -> Image.Image:
        requested, labels = self._requested(n)
        values = self.model.sample(len(labels) or n, requested)
        return samples_grid(values, self.model.codec, labels, title, captions=len(set(labels)) > len(labels) / 2)

    def _requested(self, n: int) -> tuple[dict[str, Any], list[str]]:
        """The conditions of n samples, and the label of each: all classes, and of anything else those of held-out examples."""
        if [condition.kind for condition in self.declared.values()] == ["class"]:
            names = self.model.classes[:10]
            labels = [name for name in names for _ in range(max(1, n // len(names)))]
            return {next(iter(self.declared)): labels}, labels
        requested = {name: values[:n] for name, values in self.columns.items()}
        readable = [requested[name] for name, condition in self.declared.items() if condition.kind in PREVIEWED_KINDS]
        return requested, [label_of(values) for values in zip(*readable, strict=True)] if readable else [""] * len(
            next(iter(requested.values()), [])
        )

    def _of_tasks(self, n: int, title: str) -> Image.Image:
        """Held-out examples in rows: what is shown of each, what is made of that, and the example itself."""
        model, values = self.model, self.bank.values
        names, shown = list(model.config.degradations), values["observation"][:n]
        tasks = [names[k] for k in values["task"][:n].tolist()] if "task" in values else names * n
        conditions = (
            {name: values[:n] for name, values in self.columns.items()}
            | {"observation": shown.cpu()}
            | ({"task": tasks} if "task" in values else {})
        )
        parts = {
            "shown": model.codec.decode(shown[:, : model.config.codec.shape[0]]),
            "made": model.sample(n, conditions),
            "held out": model.codec.decode(self.bank.x[:n]),
        }
        return draw_rows(list(parts.items()), f"Tasks, {title}", tasks, model.codec)
