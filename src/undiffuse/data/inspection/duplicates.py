"""Which examples of a data set are copies of each other: the same, or nearly.

    pictures        as registration.py judges: also resized, compressed, cropped by 5 % or brighter
    other arrays    that differ by at most NEAR of the standard deviation, root mean square over the channels
    rows of tables  of a few numbers are often equal without being copies: only equal ones are counted, and they are no clusters
    not complete    data with missing or infinite numbers has no distances: only equal ones are counted

Only pairs that are likely are compared: the nearest few of each example, by the correlation of its coarse picture.  What is near to what
is near is one cluster, so frames of a film are one.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from undiffuse.data.dataset import Dataset
from undiffuse.data.inspection.registration import same_pictures
from undiffuse.data.ranges import found_range, has_alpha
from undiffuse.data.splitting import FEW_NUMBERS
from undiffuse.data.statistics import PART_NUMBERS, channel_statistics, parts_of
from undiffuse.data.watching import working_on

ALIKE = (
    0.85  # the least correlation of coarse pictures, or of arrays, that are looked at; of arrays, copies have far more
)
MOST_NEIGHBOURS, FEWEST_NEIGHBOURS = 10, 2  # of each example
PAIRS = 50_000  # altogether, where that allows it
COARSE = 8  # side of the pictures that are correlated
KEPT_SIDE = 32  # of pictures that are kept for all examples; larger ones are made for those that need them
NEAR = 0.02  # of the standard deviation
PROJECTED = 64  # numbers that a long example is compared by first
CORRELATED_AT_ONCE = 2**25  # numbers of a block of correlations
COMPARED_AT_ONCE = 2048  # pairs
STEPS = 100  # of the bar
FLAT = 4.0  # of 255, a standard deviation below which a picture has nothing to be aligned by


@dataclass(frozen=True)
class Duplicates:
    """exact, near: clusters of two rows and more, each in order, int64; a cluster of `near` may hold some of `exact`."""

    exact: tuple[np.ndarray, ...] = ()
    near: tuple[np.ndarray, ...] = ()

    def labels(self, n: int) -> np.ndarray:
        """The number of each of n examples' cluster, int64 (n,): that of its first row, alone or not."""
        found = np.arange(n)
        for cluster in self.near:
            found[cluster] = cluster[0]
        return found

    @property
    def repeated(self) -> int:
        """How many examples equal one before them."""
        return sum(len(cluster) - 1 for cluster in self.exact)


def find_duplicates(data: Dataset) -> Duplicates:
    """The copies in a data set."""
    with working_on("comparing", STEPS) as done:
        return _duplicates(data, lambda share: done(round(share * STEPS)))


def _duplicates(data: Dataset, watch: Callable[[float], None]) -> Duplicates:
    """watch: called with the share that is done."""
    exact = equal_examples(data)
    if (
        data.known is not None
        or data.values[0].size <= FEW_NUMBERS
        or len(data) < 2
        or not all(np.isfinite(data.values[p]).all() for p in parts_of(data.values))
    ):
        return Duplicates(exact)
    firsts = np.setdiff1d(np.arange(len(data)), np.concatenate([c[1:] for c in exact]) if exact else [])
    if is_pictures(data):
        made = Thumbnails(data)
        small = made(firsts, KEPT_SIDE)

        def pictures(rows: Tensor, size: int) -> Tensor:
            if size > KEPT_SIDE:
                return made(firsts[rows.numpy()], size)
            return F.adaptive_avg_pool2d(small[rows].float(), size).round().to(torch.uint8)

        watch(0.2)
        coarse = F.adaptive_avg_pool2d(small.float(), COARSE).flatten(1)
        flat = coarse.std(1) < FLAT
        pairs = _likely(coarse, ALIKE, lambda share: watch(0.2 + 0.4 * share), left_out=flat)
        near = pairs[same_pictures(pictures, pairs)]
        near = torch.cat([near, _flat_pairs(coarse, flat)])
    else:
        numbers = _standardised(data, firsts)
        pairs = _likely(numbers @ _directions(numbers), ALIKE, lambda share: watch(0.2 + 0.6 * share))
        parts = [(numbers[p[:, 0]] - numbers[p[:, 1]]).square().mean(1).sqrt() for p in pairs.split(COMPARED_AT_ONCE)]
        distance = torch.cat(parts)
        near = pairs[distance <= NEAR]
    watch(1.0)
    same = [c[k : k + 2] for c in exact for k in range(len(c) - 1)]
    joined = np.concatenate([firsts[near.numpy()].reshape(-1, 2), np.array(same, dtype=np.int64).reshape(-1, 2)])
    return Duplicates(exact, clusters(len(data), joined))


def is_pictures(data: Dataset) -> bool:
    """Whether examples can be looked at as pictures: one to four channels of two axes."""
    return data.values.ndim == 4 and data.shape[0] <= 4 and min(data.shape[1:]) > 1


def equal_examples(data: Dataset) -> tuple[np.ndarray, ...]:
    """Clusters of examples that are equal in every number, and in which are missing."""
    rows: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in range(len(data)):
        digest = hashlib.blake2b(np.ascontiguousarray(data.filled(slice(row, row + 1))).data, digest_size=16)
        if data.known is not None:
            digest.update(np.ascontiguousarray(data.known[row]).data)
        rows[digest.digest()].append(row)
    return tuple(np.array(each) for each in rows.values() if len(each) > 1)


def clusters(n: int, pairs: np.ndarray) -> tuple[np.ndarray, ...]:
    """The rows that pairs (P, 2) of them join, in clusters of two and more, by union and find (Tarjan 1975)."""
    parent = np.arange(n)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    for a, b in pairs.tolist():
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    found: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.unique(pairs).tolist():
        found[root(row)].append(row)
    return tuple(np.array(each) for _, each in sorted(found.items()) if len(each) > 1)


class Thumbnails:
    """Pictures of a data set as bytes, grey or colour, alpha over white, black and white the ends of the data's range."""

    def __init__(self, data: Dataset) -> None:
        self.data = data
        if np.issubdtype(data.values.dtype, np.integer):
            found = found_range(data.values, data.mode)
            self.low, self.high = (
                f if own is None else own for f, own in zip(found, (data.low, data.high), strict=True)
            )
        else:
            _, _, lows, highs = channel_statistics(data.values)
            self.low, self.high = float(lows.min()), float(highs.max())

    def __call__(self, rows: np.ndarray, size: int) -> Tensor:
        """uint8 (n, C, size, size) of rows int64 (n,)."""
        data, low, high = self.data, self.low, self.high
        found = torch.empty(len(rows), data.shape[0] - has_alpha(data.mode), size, size, dtype=torch.uint8)
        each = max(1, PART_NUMBERS // data.values[0].size)
        for start in range(0, len(rows), each):
            values = torch.from_numpy(np.ascontiguousarray(data.values[rows[start : start + each]], dtype=np.float32))
            if has_alpha(data.mode):
                alpha = values[:, -1:] / np.iinfo(data.values.dtype).max
                values = values[:, :-1] * alpha + high * (1 - alpha)
            values = (values - low) * (255 / max(high - low, 1e-12))
            if min(values.shape[2:]) >= size:
                values = F.adaptive_avg_pool2d(values, size)
            else:
                values = F.interpolate(values, (size, size), mode="bilinear", antialias=True)
            found[start : start + each] = values.nan_to_num().round().clamp(0, 255).to(torch.uint8)
        return found


def _likely(numbers: Tensor, least: float, watch: Callable[[float], None], left_out: Tensor | None = None) -> Tensor:
    """Pairs of rows (P, 2), the smaller first, of the nearest few of each example by correlation, at least `least`."""
    centred = numbers - numbers.mean(1, keepdim=True)
    unit = centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-6)
    if left_out is not None:
        unit[left_out] = 0
    neighbours = min(MOST_NEIGHBOURS, max(FEWEST_NEIGHBOURS, PAIRS // len(unit)))
    found, block = [], max(1, CORRELATED_AT_ONCE // len(unit))
    for start in range(0, len(unit), block):
        similar = unit[start : start + block] @ unit.T
        own = torch.arange(len(similar))
        similar[own, own + start] = -2
        best, at = similar.topk(min(neighbours, len(unit) - 1))
        near = best >= least
        found.append(torch.stack([(own[:, None] + start).expand_as(at)[near], at[near]], 1))
        watch((start + len(similar)) / len(unit))
    pairs: Tensor = torch.unique(torch.cat(found).sort(1).values, dim=0)
    return pairs


def _flat_pairs(coarse: Tensor, flat: Tensor) -> Tensor:
    """Pairs of pictures of one colour, of which each is compared with the next in the order of colours."""
    rows = torch.nonzero(flat)[:, 0]
    order = rows[coarse[rows].mean(1).argsort(stable=True)]
    pairs = torch.stack([order[:-1], order[1:]], 1)
    close = (coarse[pairs[:, 0]] - coarse[pairs[:, 1]]).abs().amax(1) <= FLAT / 2
    found: Tensor = pairs[close].sort(1).values
    return found


def _standardised(data: Dataset, rows: np.ndarray) -> Tensor:
    """Examples as vectors (n, numbers), each channel with mean 0 and standard deviation 1; NaN as 0."""
    mean, deviation, _, _ = channel_statistics(data.values)
    column = (1, -1, *[1] * (data.values.ndim - 2))
    scale = np.where(deviation > 0, deviation, 1).reshape(column)
    found = np.empty((len(rows), data.values[0].size), np.float32)
    each = max(1, PART_NUMBERS // data.values[0].size)
    for start in range(0, len(rows), each):
        part = (data.values[rows[start : start + each]] - mean.reshape(column)) / scale
        found[start : start + each] = part.reshape(len(part), -1)
    return torch.from_numpy(np.nan_to_num(found, copy=False, posinf=0, neginf=0))


def _directions(numbers: Tensor) -> Tensor:
    """A fixed random projection to PROJECTED numbers, which keeps angles well enough to choose by (Johnson & Lindenstrauss 1984)."""
    wide = numbers.shape[1]
    if wide <= PROJECTED:
        return torch.eye(wide)
    signs = b"".join(hashlib.blake2b(k.to_bytes(8, "big"), digest_size=PROJECTED // 8).digest() for k in range(wide))
    bits = np.unpackbits(np.frombuffer(signs, np.uint8)).reshape(wide, PROJECTED)
    made: Tensor = torch.from_numpy(bits.astype(np.float32) * 2 - 1) / PROJECTED**0.5
    return made
