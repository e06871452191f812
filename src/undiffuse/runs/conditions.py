"""The conditions of a run: as declared, as the model that it starts from has them, and as its network learned them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from undiffuse.conditioning.augmentation import AugmentationConfig
from undiffuse.conditioning.classes import TaskConfig
from undiffuse.conditioning.columns import fit_conditions
from undiffuse.conditioning.conditions import ConditionConfig, cross_attended
from undiffuse.conditioning.known import KNOWN, KnownConfig, packed_places
from undiffuse.conditioning.observation import ObservationConfig
from undiffuse.conditioning.spec import Condition
from undiffuse.data.dataset import Dataset
from undiffuse.data.sequences import LENGTH
from undiffuse.data.statistics import parts_of
from undiffuse.errors import UsageError
from undiffuse.models.config import ModelConfig
from undiffuse.runs.design import Design

QUANTILES_OF_LENGTHS = 101


def declared_for(base: ModelConfig, conditions: Mapping[str, Condition]) -> dict[str, Condition]:
    """Conditions as declared, with what is left out of them as the model has it. Raises UsageError for another kind."""
    found = {}
    for name, condition in conditions.items():
        known = base.conditions.get(name)
        if known is not None and known.kind != condition.kind:
            raise UsageError(
                f"the model knows {name!r} as a {known.kind}, not as a {condition.kind}: declare it so, or give the new one another "
                f"name, such as new, with {condition.column or name} as its column."
            )
        if known is not None:
            condition = condition.model_copy(
                update={
                    "inject": condition.inject or known.inject,
                    "dropout": known.dropout if condition.dropout is None else condition.dropout,
                }
            )
        elif cross_attended(base.conditions):
            if condition.inject == "cross_attention":
                raise UsageError(
                    f"{name!r} would take attention from what the model attends to already: set its `inject` to embedding."
                )
            condition = condition.model_copy(
                update={"inject": condition.inject or ("embedding" if condition.kind == "text" else None)}
            )
        found[name] = condition
    return found


def fine_tuned_conditions(
    base: ModelConfig,
    data: Dataset,
    declared: Mapping[str, Condition],
    dropout: float,
    download: bool,
    rows: np.ndarray,
    legacy: bool = False,
) -> dict[str, ConditionConfig]:
    """The conditions of the new model: the old ones first, in their order. Raises UsageError where they cannot go on."""
    fitted = fit_conditions(data, declared, dropout, download, base.conditions, rows, legacy)
    found: dict[str, ConditionConfig] = {}
    for name, known in base.conditions.items():
        if name in fitted:
            try:
                found[name] = known.merged_with(fitted[name])  # of one kind, see declared
            except ValueError as error:
                raise UsageError(f"{known.kind} {name!r}: {error}") from None
        elif base.degradations and name in ("observation", "task"):
            continue  # made from the examples themselves, see conditioning/degradations.py
        elif isinstance(known, KnownConfig):
            complete = KnownConfig(shape=(known.shape[0], *data.shape[1:]))
            found[name] = known.merged_with(complete if data.known is None else _known_config(data, declared, rows))
        elif not isinstance(
            known, AugmentationConfig
        ):  # nothing shifted is the zero vector, so without it nothing changes
            if not known.droppable:
                raise UsageError(
                    f"the model needs the condition {name!r}, a {known.kind}, and none is declared: declare the {known.kind} {name}, with its column."
                )
            found[name] = known.retire()
    return found | {name: config for name, config in fitted.items() if name not in found}


def kept_conditions(
    before: ModelConfig | None, fitted: Mapping[str, ConditionConfig], folder: Path
) -> dict[str, ConditionConfig]:
    """The conditions of a run that goes on: as its network learned them.

    Raises UsageError for a name that the data says now and the network does not know, or where a condition is of another kind.
    """
    found = dict(fitted)
    for name, known in (before.conditions if before else {}).items():
        now = fitted.get(name)
        if now is None or now == known:
            continue
        if now.kind != known.kind:
            raise UsageError(
                f"the run in {folder} learned {name!r} as a {known.kind}, and it is a {now.kind} now: choose another `name`."
            )
        known.merged_with(now)  # of one kind
        new = [value for value in getattr(now, "names", ()) if value not in getattr(known, "names", ())]
        if new:
            raise UsageError(
                f"the data says the {known.kind} {', '.join(repr(value) for value in new[:3])}, which the network in {folder} does not know: leave "
                f"these examples out, or fine-tune a new run with {folder} as `start` and another `name`."
            )
        found[name] = known
    return found


def network_conditions(
    data: Dataset,
    declared: Mapping[str, Condition],
    design: Design,
    rows: np.ndarray,
    base: ModelConfig | None,
    before: ModelConfig | None,
    folder: Path,
    *,
    download: bool = False,
    legacy: bool = False,
) -> dict[str, ConditionConfig]:
    """All that the network of a run is given: the declared conditions, and those that its training adds.

    rows: that mean and deviation are measured on.   base: the model that it starts from.   before: the run's own, where it goes on.
    Raises UsageError for a column that cannot be used, and where a network that is trained already has other conditions.
    """
    if base is None:
        known = before.conditions if before else ()
        fitted = fit_conditions(data, declared, design.condition_dropout, download, known, rows, legacy)
    else:
        fitted = fine_tuned_conditions(base, data, declared, design.condition_dropout, download, rows, legacy)
    found = kept_conditions(before, fitted, folder)
    if numbers := design.augment.numbers(len(data.shape) - 1):
        found["augmentation"] = AugmentationConfig(numbers=numbers)
    if data.known is not None and KNOWN not in found:
        found[KNOWN] = _known_config(data, declared, rows)
    if design.degradations:
        found["observation"] = ObservationConfig(shape=(data.shape[0] + 2, *data.shape[1:]))
    if len(design.degradations) > 1:
        found["task"] = TaskConfig(names=tuple(design.degradations))
    return found


def _known_config(data: Dataset, declared: Mapping[str, Condition], rows: np.ndarray) -> KnownConfig:
    """The condition of data with holes.   rows: that are trained on, whose lengths samples of sequences have."""
    assert data.known is not None
    shape, known = data.known.shape[1:], data.known
    never = ~np.any([known[rows[part]].any(0) for part in parts_of(known, len(rows))], 0)
    places = packed_places(never)
    length = next((name for name, c in declared.items() if c.kind == "number" and (c.column or name) == LENGTH), None)
    if not data.padded or length is None:
        return KnownConfig(shape=shape, never=places)
    lengths = np.quantile(data.columns[LENGTH][rows], np.linspace(0, 1, QUANTILES_OF_LENGTHS), method="nearest")
    return KnownConfig(shape=shape, never=places, length=length, lengths=tuple(int(each) for each in lengths))
