"""Which examples are held out: a function of what an example is and of a seed, never of its place among the others.

Every example has a key, a 64-bit keyed hash (BLAKE2b, RFC 7693) of its values, and those of the lowest keys are held out.  How
low is fixed when a run is made and stored with it (`SplitConfig`), so when the data changes later, examples that stay keep their
side, and of new ones the same share is held out.  Equal pictures have one key, so a copy of a held-out one is held out too;
examples of a few numbers, such as rows of a table, are often equal without being copies, so there every repetition has a key
of its own.  The last example of a class or a tag is not held out: it could never be learned.

    groups              where a column says what belongs together, such as a patient or a film, its values have the keys, and all examples
                        of one value are on one side
    near-duplicates     are on one side too: that of the first of a cluster when the run is made.  What this changes is stored by key
                        (`kept`, `also_held_out`).  Where the data changes later and joins both sides in one cluster, all of it is trained on from
                        then on: what was held out may be learned, what was learned is never held out

Runs that were made before store no split: theirs was a permutation of the rows (`Dataset.split_rows`).
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from undiffuse.data.dataset import MISSING, Dataset
from undiffuse.data.statistics import parts_of
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
    also_held_out: tuple[str, ...] = Field(
        (), description="Keys not below it that are held out all the same: near-duplicates of others."
    )
    group: str | None = Field(
        None, description="Column whose equal values are on one side; None for examples by themselves."
    )

    def rows(self, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the training and of the held-out part, each in order."""
        out = self.out(keys_of(data, self.seed, self.group))
        return np.flatnonzero(~out), np.flatnonzero(out)

    def out(self, keys: np.ndarray) -> np.ndarray:
        """Which examples are held out, by their keys; bool (N,)."""
        kept, also = (
            np.array([int(key, 16) for key in named], dtype=np.uint64) for named in (self.kept, self.also_held_out)
        )
        return ((keys < np.uint64(int(self.below, 16))) & ~np.isin(keys, kept)) | np.isin(keys, also)


def split_rows(data: Dataset, split: SplitConfig | None, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the training and of the held-out part of a run.   split: None for a run of before, by its held_out and seed."""
    return data.split_rows(held_out, seed) if split is None else split.rows(data)


def keys_of(data: Dataset, seed: int, group: str | None = None) -> np.ndarray:
    """The key of every example, uint64 (N,).   group: a column whose values have the keys, where it has one."""
    secret, few = seed.to_bytes(KEY_BYTES, "big"), math.prod(data.shape) <= FEW_NUMBERS

    def digests(contents: Iterable[bytes]) -> bytes:
        return b"".join(hashlib.blake2b(each, digest_size=KEY_BYTES, key=secret).digest() for each in contents)

    if group is None and not few:
        with ThreadPoolExecutor() as pool:
            parts = list(pool.map(lambda part: digests(_contents(data, part)), parts_of(data.values)))
        return np.frombuffer(b"".join(parts), ">u8").astype(np.uint64)
    names = itertools.repeat("") if group is None else group_names(data, group)
    each = itertools.chain.from_iterable(_contents(data, part) for part in parts_of(data.values))
    counts = Counter[bytes]()

    def distinct() -> Iterator[bytes]:
        for content, name in zip(each, names, strict=False):
            if name:
                yield f"group {name}".encode()
            elif few:
                before = counts[content]
                counts[content] = before + 1
                yield content + before.to_bytes(KEY_BYTES, "big")
            else:
                yield content

    return np.frombuffer(digests(distinct()), ">u8").astype(np.uint64)


def _contents(data: Dataset, part: slice) -> Iterator[bytes]:
    """The bytes of each example, channels first, and of where it is known."""
    each = _rows_of(data.filled(part))
    return each if data.known is None else map(bytes.__add__, each, _rows_of(data.known[part]))


def _rows_of(values: np.ndarray) -> Iterator[bytes]:
    """The bytes of each row."""
    content, each = np.ascontiguousarray(values).tobytes(), values[0].nbytes
    return (content[start : start + each] for start in range(0, len(content), each))


def group_names(data: Dataset, group: str) -> list[str]:
    """What each example's group is called, "" where it has none. Raises UsageError for a column that is not there, or holds no names."""
    values = (
        np.array([*data.classes, ""], dtype=object)[data.labels]
        if group == "class" and data.labels is not None
        else data.columns.get(group)
    )
    if values is None or values.ndim != 1:
        known = ", ".join([*data.columns, *(["class"] if data.labels is not None else [])]) or "none"
        raise UsageError(f"there is no column {group!r} to group by: the columns of the data are {known}.")
    return ["" if str(value) in MISSING else str(value) for value in values]


def drawn_split(keys: np.ndarray, held_out: float, seed: int, group: str | None = None) -> SplitConfig:
    """The split of a new run.   held_out: a share of the different examples below 1, or a number of them from 1 on.

    keys: of the data, of this seed and group.   Raises UsageError where none would be left to train on.
    """
    if group is not None:
        return _of_groups(keys, held_out, seed, group)
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


def _of_groups(keys: np.ndarray, held_out: float, seed: int, group: str) -> SplitConfig:
    """The split by groups: of the lowest keys, so many that they have the examples that are to be held out, or nearly."""
    different, sizes = np.unique(keys, return_counts=True)
    wanted = held_out * len(keys) if held_out < 1 else held_out
    sums = np.concatenate([[0], np.cumsum(sizes)])
    count = int(np.abs(sums - wanted).argmin())
    count = max(count, 1) if wanted else 0
    if count >= len(different):
        raise UsageError(
            f"{wanted:.0f} of {len(keys)} examples cannot be held out where {group!r} has {len(different)} values: hold out fewer."
        )
    return SplitConfig(seed=seed, below=_written(different[count] if count else 0), group=group)


def with_clusters_whole(split: SplitConfig, keys: np.ndarray, clusters: Sequence[np.ndarray], new: bool) -> SplitConfig:
    """The split with each cluster of near-duplicates on one side.

    keys: of the examples.   clusters: rows of each.   new: whether the run is being made, so that nothing was trained on yet: then a cluster goes
    where its first example is; else one that is on both sides is trained on.
    """
    out = split.out(keys)
    kept, also = set(split.kept), set(split.also_held_out)
    for cluster in clusters:
        sides = out[cluster]
        if sides.all() or not sides.any():
            continue
        held_out = new and bool(sides[0])
        for row in cluster:
            key = _written(keys[row])
            below = int(key, 16) < int(split.below, 16)
            (kept.add if below and not held_out else kept.discard)(key)
            (also.add if not below and held_out else also.discard)(key)
    return split.model_copy(update={"kept": tuple(sorted(kept)), "also_held_out": tuple(sorted(also))})


def _written(key: int) -> str:
    return f"{int(key):016x}"
