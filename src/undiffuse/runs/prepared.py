"""The data of a run, made ready for training: which examples are held out, the codec, and the conditions, encoded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from undiffuse.conditioning.columns import column_values, encode_columns
from undiffuse.conditioning.conditions import CONDITIONS, ConditionConfig, Conditions, EncodedConditions
from undiffuse.conditioning.degradations import Degradations
from undiffuse.conditioning.encoded import Encoded
from undiffuse.conditioning.known import KNOWN, KnownConfig
from undiffuse.conditioning.spec import Condition
from undiffuse.data.augmentation import AugmentConfig, augmented
from undiffuse.data.balancing import BalancedOrder
from undiffuse.data.codec import Codec, CodecConfig
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.filling import filled_from_around
from undiffuse.data.inspection.duplicates import Duplicates, find_duplicates
from undiffuse.data.ranges import has_alpha
from undiffuse.data.splitting import (
    SplitConfig,
    drawn_split,
    group_names,
    keys_of,
    with_clusters_whole,
    with_names_kept,
)
from undiffuse.errors import UsageError
from undiffuse.rng import GeneratorStream, drawing
from undiffuse.runs.autoencoder import AutoencoderRunConfig
from undiffuse.runs.design import RunConfig
from undiffuse.runs.inventory import Inventory
from undiffuse.training.settings import TrainingConfig

MADE_FROM_X = ("observation", "task")
MOST_PICTURES, MOST_LABEL_VALUES = 64, 12  # looked at, of conditions; different values in them that make them labels
MOST_SEARCHED = 10_000  # examples; of twice as many, comparing all takes four times as long
WIDTH = 16  # of embeddings that are never computed: modules are made to encode, which does not depend on it


@dataclass(frozen=True)
class Prepared:
    """The data of a run, made ready for training.

    training, held_out: rows of the data, int64.   declared: the conditions by name, as they are read from the data.
    conditions: all that the network is given.   values: of each, the encoded values of every example; those of the observation and of the
    task are made from x.   degradations: that the model is trained to restore.   keys: of the examples, see splitting.py, where they are known.
    """

    data: Dataset
    training: np.ndarray
    held_out: np.ndarray
    codec: CodecConfig
    declared: Mapping[str, Condition]
    conditions: Mapping[str, ConditionConfig]
    values: Mapping[str, Encoded]
    degradations: Degradations | None
    keys: np.ndarray | None = None

    def inventory(self, split: SplitConfig | None) -> Inventory:
        """What is trained on, example by example."""
        return Inventory.of(self.data, split.seed if split else 0, self.keys if split else None)

    def examples(
        self, rows: np.ndarray, codec: Codec, device: torch.device, draws: torch.Generator
    ) -> tuple[Tensor, EncodedConditions]:
        """x (B, C, *size) of some rows and their conditions, on a device.   draws: for what degradations take away."""
        x = codec.encode_parts(self.data.values, rows, device, known=self.data.known)
        values = {name: value[rows].to(device) for name, value in self.values.items()}
        return self.filled(x, values), values | self.degraded(x, draws)

    def filled(self, x: Tensor, values: EncodedConditions) -> Tensor:
        """x (B, C, *size) with what stands for missing numbers; 0 where samples have none: beyond ends, and where nothing is ever known."""
        config = self.conditions.get(KNOWN)
        if self.data.known is None or self.data.padded or not isinstance(config, KnownConfig):
            return x
        found = filled_from_around(x, values[KNOWN])
        return found if config.never is None else torch.where(config.ever().to(x.device), found, 0.0)

    def balanced(self, training: TrainingConfig) -> BalancedOrder | None:
        """The order of the training examples where classes are balanced. Raises UsageError where there is no such class.

        Examples without a class are one more.
        """
        if not training.balance:
            return None
        classes = [name for name, config in self.conditions.items() if config.kind == "class" and name in self.values]
        by = training.balance_by or next(iter(classes), None)
        if by in classes:
            return BalancedOrder(self.values[by][torch.from_numpy(self.training)].numpy(), training.balance)
        if by in (None, "class") and self.data.labels is not None:  # of an unconditional model
            return BalancedOrder(self.data.labels[self.training], training.balance)
        known = f"the classes are {', '.join(classes)}" if classes else "the model has no class: declare one"
        raise UsageError(
            f"balance draws rare classes more often, and {by or 'there'} is none; {known}, or leave it out."
        )

    def augmented(
        self, x: Tensor, values: EncodedConditions, augment: AugmentConfig, codec: Codec, draws: torch.Generator
    ) -> tuple[Tensor, EncodedConditions]:
        """x (B, C, *size) and its conditions with each example changed; pictures that are conditions move along.

        Labels, pictures of few different values, take the nearest place, others what lies between.
        """
        if not augment.chosen and not augment.mirror:
            return x, values
        alpha, limits = has_alpha(self.codec.mode) and codec.space is None, codec.limits(x.device)
        known = None if self.data.known is None else values[KNOWN]
        made = augmented(x, augment, draws, alpha=alpha, limits=limits, known=known)
        moved = {name: made.move(values[name], nearest=labels) for name, labels in self.pictures.items()}
        moved |= {} if made.known is None else {KNOWN: made.known}
        told = {"augmentation": made.told} if augment.chosen else {}
        return made.x, values | moved | told

    @cached_property
    def pictures(self) -> dict[str, bool]:
        """The pictures that are conditions, and whether they hold labels or masks: few different values."""
        found = {}
        for name, config in self.conditions.items():
            if config.pictures and name in self.values:
                first = self.values[name][torch.from_numpy(self.training[:MOST_PICTURES])]
                found[name] = len(first[:, :-1].unique()) <= MOST_LABEL_VALUES  # the last channel says what is there
        return found

    def degraded(self, x: Tensor, draws: torch.Generator) -> EncodedConditions:
        """What is left of x (B, C, *size) by degradations, as conditions; nothing where there are none."""
        return self.degradations.conditions(x, draws) if self.degradations else {}


@dataclass(frozen=True)
class HeldOutRows:
    """split: what says which examples are held out; None of a run of older code.   training, held_out: rows, in order.   notes: on it.

    keys: of the examples by the split's seed, where it goes by them.
    """

    split: SplitConfig | None
    training: np.ndarray
    held_out: np.ndarray
    notes: tuple[str, ...]
    keys: np.ndarray | None = None


def encode_conditions(
    data: Dataset, declared: Mapping[str, Condition], conditions: Mapping[str, ConditionConfig], cache: Path
) -> dict[str, Encoded]:
    """The encoded values of every example; conditions that nothing is declared of have none.   cache: for what a transformer answers."""
    with drawing(GeneratorStream.WEIGHTS):
        modules = Conditions(conditions, WIDTH)
    values = encode_columns(data, declared, modules, cache)
    if data.known is not None:
        values[KNOWN] = torch.from_numpy(data.known)
    absent = [name for name in conditions if name not in values and name not in MADE_FROM_X]
    return values | {name: modules[name].encode([None] * len(data)) for name in absent}


def hold_out(
    before: RunConfig | AutoencoderRunConfig | None,
    config: DataConfig,
    data: Dataset,
    conditions: Mapping[str, Condition],
    seed: int,
    duplicates: Duplicates | None = None,
) -> HeldOutRows:
    """Which examples are held out.

    before: the run that goes on, whose split stays.   seed: of a new split.   duplicates: of the data, where they are known already.
    """
    if before is not None and before.split is None:
        changed_since = before.fingerprint != data.fingerprint()
        note = "this run held examples out by their rows, and the data has changed since: of those held out now it may have learned some"
        return HeldOutRows(None, *data.split_rows(config.held_out, seed), (note,) if changed_since else ())
    stored = None if before is None else before.split
    seed, group = (seed, config.group) if stored is None else (stored.seed, stored.group)
    keys, notes = keys_of(data, seed, group), list[str]()
    split = stored or drawn_split(keys, config.held_out, seed, group)
    near: tuple[np.ndarray, ...] = ()
    if group is None and config.held_out and (before is None or before.fingerprint != data.fingerprint()):
        near, noted = _near_duplicates(data, duplicates)
        notes += noted
        split = with_clusters_whole(split, keys, near, new=stored is None)
    for name, condition in (({"class": Condition(kind="class")} if data.classes else {}) | dict(conditions)).items():
        kind = CONDITIONS[condition.kind].config
        if kind.naming:
            with suppress(
                UsageError
            ):  # of a column that is missing or of another kind, which whoever fits the conditions says
                column = column_values(data, name, condition, np.arange(len(data)))
                split = with_names_kept(
                    split, keys, [[] if value is None else kind.names_of(value) for value in column]
                )
    # a name that was kept for training may have left a cluster on both sides
    split = with_clusters_whole(split, keys, near, new=False)
    copies = len(data) - len(np.unique(keys))
    if group is not None:
        values = len(set(group_names(data, group)) - {""})
        notes.append(f"the {values:,} values of {group!r} stay together, in training or held out")
    elif copies:
        text = f"{len(data):,} examples hold {copies:,} {'copy' if copies == 1 else 'copies'}"
        notes.append(f"{text}: equal ones stay together, in training or held out")
    out = split.out(keys)
    return HeldOutRows(split, np.flatnonzero(~out), np.flatnonzero(out), tuple(notes), None if group else keys)


def _near_duplicates(data: Dataset, known: Duplicates | None) -> tuple[tuple[np.ndarray, ...], list[str]]:
    """(clusters of near-duplicates, a note on them), where they are known, or the data is not too large to look for them before every new run."""
    if known is None and len(data) > MOST_SEARCHED:
        return (), [
            f"{len(data):,} examples are more than the {MOST_SEARCHED:,} that are compared with each other: near-duplicates may be "
            "on both sides of the split; `group` keeps together what a column says"
        ]
    if data.table is not None:  # rows of few values are alike by chance, and equal ones stay together anyway
        return (), []
    found = known or find_duplicates(data)
    exact = sum(len(cluster) for cluster in found.exact)
    joined = sum(len(cluster) for cluster in found.near)
    if joined <= exact:
        return found.near, []
    files = data.columns.get("file")
    first = next(c for c in found.near if not any(np.array_equal(c, equal) for equal in found.exact))
    such = f", such as {files[first[0]]} and {files[first[1]]}" if files is not None else ""
    return found.near, [
        f"{joined:,} examples are near-duplicates of others{such}: they stay together, in training or held out"
    ]
