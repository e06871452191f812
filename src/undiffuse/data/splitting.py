"""Which examples are held out: a function of what an example is and of a seed, never of its place among the others.

Every example has a key, a 64-bit keyed hash (BLAKE2b, RFC 7693) of its values, and those of the lowest keys are held out.  How
low is fixed when a run is made and stored with it (`SplitConfig`), so when the data changes later, examples that stay keep their
side, and of new ones the same share is held out.  Equal pictures have one key, so a copy of a held-out one is held out too;
examples of a few numbers, such as rows of a table, are often equal without being copies, so there every repetition has a key
of its own.  The last example of a class or a tag is not held out: it could never be learned.

Runs that were made before store no split: theirs was a permutation of the rows (`Dataset.split_rows`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError

KEY_BYTES = 8
FEW_NUMBERS = 16  # of an example that may well be equal to another without being its copy


class SplitConfig(BaseModel):
    """Which examples are held out."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    seed: int = Field(ge=0, lt=2**63, description="Seed of the examples' keys, 0 or more.")
    below: str = Field(
        pattern="^[0-9a-f]{16}$", description="Examples with a key below this are held out: 16 hexadecimal digits."
    )
    kept: tuple[str, ...] = Field((), description="Keys below that limit that are trained on all the same.")

    def rows(self, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the training and of the held-out part, each in order."""
        out = self.out(keys_of(data, self.seed))
        return np.flatnonzero(~out), np.flatnonzero(out)

    def out(self, keys: np.ndarray) -> np.ndarray:
        """Which examples are held out, by their keys; bool (N,)."""
        return (keys < np.uint64(int(self.below, 16))) & ~np.isin(
            keys, np.array([int(key, 16) for key in self.kept], dtype=np.uint64)
        )


def split_rows(data: Dataset, split: SplitConfig | None, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the training and of the held-out part of a run.   split: None for a run of before, by its held_out and seed."""
    return data.split_rows(held_out, seed) if split is None else split.rows(data)


def keys_of(data: Dataset, seed: int) -> np.ndarray:
    """The key of every example, uint64 (N,)."""
    secret, counts = seed.to_bytes(KEY_BYTES, "big"), Counter[bytes]()
    keys = np.empty(len(data), dtype=np.uint64)
    for row, example in enumerate(np.ascontiguousarray(data.values)):
        content = example.tobytes()
        if example.size <= FEW_NUMBERS:
            before, counts[content] = counts[content], counts[content] + 1
            content += before.to_bytes(KEY_BYTES, "big")
        keys[row] = int.from_bytes(hashlib.blake2b(content, digest_size=KEY_BYTES, key=secret).digest(), "big")
    return keys


def drawn_split(keys: np.ndarray, held_out: float, seed: int) -> SplitConfig:
    """The split of a new run.   held_out: a share of the different examples below 1, or a number of them from 1 on.

    keys: of the data, of this seed.   Raises UsageError where none would be left to train on.
    """
    different = np.unique(keys)
    count = round(held_out * len(different)) if held_out < 1 else int(held_out)
    if count >= len(different):
        ones = " different ones" if len(different) < len(keys) else ""
        raise UsageError(f"{count} examples cannot be held out of {len(different)}{ones}: hold out fewer.")
    return SplitConfig(seed=seed, below=_written(different[count] if count else 0))


def with_names_kept(split: SplitConfig, keys: np.ndarray, names_of: Iterable[Sequence[str]]) -> SplitConfig:
    """The split with one more example kept for training of every name that only held-out examples have.

    keys: of the examples.   names_of: the names that each has.
    """
    highest, trained = dict[str, int](), set[str]()
    for key, out, names in zip(keys.tolist(), split.out(keys).tolist(), names_of, strict=True):
        for name in names:
            highest[name] = max(highest.get(name, 0), key)
            if not out:
                trained.add(name)
    kept = {*split.kept, *(_written(key) for name, key in highest.items() if name not in trained)}
    return split.model_copy(update={"kept": tuple(sorted(kept))})


def _written(key: int) -> str:
    return f"{int(key):016x}"
