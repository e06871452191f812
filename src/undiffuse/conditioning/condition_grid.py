"""Values of several conditions, in every combination."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

MOST_LABEL = 34  # characters


@dataclass(frozen=True)
class ConditionGrid:
    """Several values of each of some conditions.

    values: of each condition, as listed.   shown: the same, as people read them.
    numbers: the conditions whose values say nothing without their name.
    """

    values: dict[str, list[Any]]
    shown: dict[str, list[str]]
    numbers: frozenset[str] = frozenset()

    def combinations(self) -> list[dict[str, Any]]:
        """Every choice of one value for each condition, the first condition changing slowest; one empty choice for nothing."""
        return [dict(zip(self.values, choice, strict=True)) for choice in itertools.product(*self.values.values())]

    def labels(self) -> list[str]:
        """What distinguishes the combinations, for each of them."""
        varying = [name for name, values in self.values.items() if len(values) > 1]
        choices = itertools.product(*self.shown.values())
        each = [dict(zip(self.shown, choice, strict=True)) for choice in choices]
        bare = {name for name in varying if len(varying) == 1 and name not in self.numbers}
        return [", ".join(c[n] if n in bare else f"{n} {c[n]}" for n in varying)[:MOST_LABEL] for c in each]

    def cells(self) -> list[list[str]]:
        """The shown values of each combination, for a table."""
        return [list(choice) for choice in itertools.product(*self.shown.values())]
