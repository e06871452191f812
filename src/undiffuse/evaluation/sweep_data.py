"""What a sweep compares samples with, and the conditions of these: found from a run, or from other data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from undiffuse.conditioning.base import warn_note
from undiffuse.conditioning.classes import ClassConfig
from undiffuse.errors import UsageError
from undiffuse.models.model import Model
from undiffuse.rng import GeneratorStream, permuted
from undiffuse.runs.data import RunData, model_conditions, named_data, random_subset, refuse_other_range, run_data

MOST_COMPARED, MOST_NUMBERS = 5000, 2**25  # examples that samples are scored against, and numbers in all of them


@dataclass(frozen=True)
class SweepData:
    """What `sweep` takes.

    conditions: for n samples.   data: examples to score against, others: n others for the floor, (N, C, *size) in the model's range, None
    where there are none.   kinds: what both are called.
    """

    conditions: dict[str, object]
    data: Tensor | None
    others: Tensor | None
    kinds: tuple[str, str]


def sweep_data(
    run: Path, model: Model, n: int, source: str | None = None, note: Callable[[str], object] = warn_note
) -> SweepData:
    """What n samples of a run's model are scored against, those the run held out when `source` is None, and the conditions of n samples.

    The conditions are those of the run's held-out examples, or, where its data is not known, the classes in turn.
    note: called with notes on the data, and on why there is none.   Raises UsageError where there is no data to take conditions from.
    """
    known = _known(run)
    most = max(n, min(MOST_COMPARED, MOST_NUMBERS // math.prod(model.config.codec.shape)))
    other, trained_on = (None, True) if source is None else named_data(run, source)
    for text in () if other is None else other.notes:
        note(text)
    if other is not None and not trained_on:
        order = permuted(GeneratorStream.COMPARED, len(other))
        aside = n if len(order) >= 4 * n else 0
        spared, held = other[order[:aside]], other[order[aside : aside + most]]
        kinds = (f"examples of {source}", f"others of {source}")
    elif isinstance(known, UsageError) or not len(known.held_out) or known.data.known is not None:
        why = "the run held no examples out: name some after the run."
        if isinstance(known, UsageError):
            why = str(known)
        elif known.data.known is not None:
            why = "the run's examples have holes, and samples are complete: name complete ones after the run."
        note(f"no scores: {why}")
        return SweepData(_conditions(run, model, known, n), None, None, ("", ""))
    else:
        held = random_subset(known.data[known.held_out], most, 1)
        spared = random_subset(known.data[known.training], n, 1)
        kinds = ("held-out examples", "training examples")
    refuse_other_range(held.values, model.codec.config, held.name)
    data = model.codec.encode_parts(held.values)
    others = model.codec.encode_parts(spared.values) if len(spared) >= n else None
    return SweepData(_conditions(run, model, known, n), data, others, kinds)


def _known(run: Path) -> RunData | UsageError:
    """What the run was trained on, or why that is not to be found."""
    try:
        return run_data(run, "name some after the run", whole=False)
    except UsageError as error:
        return error


def _conditions(run: Path, model: Model, known: RunData | UsageError, n: int) -> dict[str, object]:
    if isinstance(known, RunData):
        rows = known.held_out if len(known.held_out) else known.training
        return dict(model_conditions(run, model, known.data[rows[[k % len(rows) for k in range(n)]]]))
    conditions = model.config.conditions.items()
    classes = {name: c.names for name, c in conditions if isinstance(c, ClassConfig) and not c.retired}
    if set(classes) != set(model.denoiser.conditions.settable):
        raise known
    return {name: [names[k % len(names)] for k in range(n)] for name, names in classes.items()}
