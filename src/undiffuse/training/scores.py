"""How good weights are on held-out examples, and how sure that is.

With E_il the squared error per dimension of example i at level l, B_il that of a baseline, and bars for means over n examples,

    R = exp( mean_l log( E̅_l / B̅_l ) )                                                                           (1)

is a model's error relative to the baseline's.  It is a smooth function of means over independent examples, so to first order
log R - E log R is the mean over examples of

    u_i = mean_l ( E_il / E̅_l - B_il / B̅_l ),        se(log R) = sd(u) / sqrt(n)                                  (2)

(the delta method).  Both are measured on the same examples with the same noise, so what makes an example hard for both cancels.
With another set of weights in the place of the baseline, (2) is the error of how much one is better than the other.

Examples are measured in parts, until (2) is small enough for all sets of weights, or the examples or the time are used up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from undiffuse.conditioning.conditions import EncodedConditions
from undiffuse.process.schedules import Schedule
from undiffuse.training.validation import Baseline, ValidationSet, validation_size

PRECISION = 0.02  # of R, one relative standard error
MOST_HELD_OUT = 4096
CERTAIN = (
    2.0  # standard errors by which raw weights must be better than averaged ones to be chosen, of very many examples
)
FEWEST_SCORED = 10  # examples; fewer say too little of their own scatter


@dataclass(frozen=True)
class RelativeError:
    """value, and its standard error; NaN for that where one example says nothing of it."""

    value: float
    error: float


def log_ratio(errors: Tensor, others: Tensor) -> RelativeError:
    """log R of (1) with the error (2). errors, others: (n, levels) of the same examples."""
    a, b = errors.mean(0), others.mean(0)
    u = (errors / a - others / b).mean(1)
    return RelativeError((a / b).log().mean().item(), u.std().item() / math.sqrt(len(u)) if len(u) > 1 else math.nan)


def certain(n: int) -> float:
    """CERTAIN for n examples, whose standard error is itself an estimate: Student's quantile at the same probability.

    By its expansion in 1/(n - 1) (Fisher & Cornish 1960), good to 0.3 % for n >= FEWEST.
    """
    z, freedom = CERTAIN, n - 1
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass(frozen=True)
class Scores:
    """errors: of the same examples at the same levels by every set of weights, and baseline, float64 (n, levels) each."""

    errors: Mapping[str, Tensor]
    baseline: Tensor

    def __len__(self) -> int:
        return len(self.baseline)

    def relative(self, name: str) -> RelativeError:
        """R of (1) for a set of weights."""
        found = log_ratio(self.errors[name], self.baseline)
        return RelativeError(math.exp(found.value), math.exp(found.value) * found.error)

    def summary(self) -> dict[str, dict[str, Any]]:
        """For every set of weights: errors by level, and the error relative to the baseline with its standard error (None of one example)."""
        found = {name: self.relative(name) for name in self.errors}
        return {
            name: {
                "errors": self.errors[name].mean(0).tolist(),
                "relative": round(estimate.value, 4),
                "error": None if math.isnan(estimate.error) else round(estimate.error, 4),
            }
            for name, estimate in found.items()
        }

    def sentence(self, name: str, against: str) -> str:
        """The same for people.   against: what the baseline is."""
        relative, n = self.relative(name), len(self)
        error = "" if math.isnan(relative.error) else f" ± {relative.error:.2f}"
        return f"held-out error {relative.value:.2f}{error} of {against}'s ({name} weights, {n:,} example{'s' if n > 1 else ''})"

    def best(self) -> str:
        """ "online" where raw weights are better than averaged ones by more than chance explains, else "ema"."""
        found = log_ratio(self.errors["online"], self.errors["ema"])
        return "online" if len(self) >= FEWEST_SCORED and found.value < -certain(len(self)) * found.error else "ema"


class HeldOut:
    """Held-out examples, in parts that fit into memory.

    n: how many there are.   examples: (first, last) → x (last - first, ...), and what is known of them.
    known: the condition that says which numbers of these are known, where not all are.
    """

    def __init__(
        self,
        n: int,
        examples: Callable[[int, int], tuple[Tensor, EncodedConditions]],
        shape: tuple[int, ...],
        schedule: Schedule,
        baseline: Baseline,
        known: str | None = None,
    ) -> None:
        self.known = known
        self.n, self.examples, self.size, self.schedule, self.baseline = (
            min(n, MOST_HELD_OUT),
            examples,
            validation_size(shape),
            schedule,
            baseline,
        )
        self.against = lru_cache(maxsize=None)(self._against)  # the baseline's errors are the same every time

    def part(self, first: int) -> ValidationSet:
        """The examples from `first` on, as many as are measured at a time."""
        x, values = self.examples(first, min(first + self.size, self.n))
        return ValidationSet.of(x, values, self.schedule, first, None if self.known is None else values[self.known])

    def _against(self, first: int) -> Tensor:
        return self.baseline.each(self.part(first))

    def measured(
        self,
        sets: Mapping[str, Callable[[ValidationSet], Tensor]],
        seconds: float = math.inf,
        precision: float = PRECISION,
    ) -> Scores:
        """The errors of sets of weights, each a function of a part, on as many examples as `precision` takes.

        seconds: after which no further part is begun, so that a slow machine measures fewer.
        """
        ends = time.monotonic() + seconds
        errors: dict[str, list[Tensor]] = {name: [] for name in sets}
        baseline: list[Tensor] = []
        for first in range(0, self.n, self.size):
            part = self.part(first)
            for name, measure in sets.items():
                errors[name].append(measure(part))
            baseline.append(self.against(first))
            found = Scores({name: torch.cat(parts) for name, parts in errors.items()}, torch.cat(baseline))
            if (
                all(log_ratio(each, found.baseline).error <= precision for each in found.errors.values())
                or time.monotonic() > ends
            ):
                break
        return found
