"""What a data set holds, and what of it deserves a look.

Pictures are judged at 64×64, black 0 and white 1, by rules that can be checked by eye (those with holes by the first two alone):

    not finite  some of its numbers are NaN or infinite; then nothing else is judged
    constant    one colour: the standard deviation is below 1/255
    dark        99 of 100 of its pixels are darker than 0.2
    bright      99 of 100 of its pixels are brighter than 0.9
    blurred     its finest details are weak for its contrast, and far weaker than those of most: the variance of the Laplacian over the variance is
                less than a tenth of the median's (Pech-Pacheco et al. 2000)

A column is what its values say, in this order: the names of files; vectors; numbers; tags; classes; texts.  The reason is given with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from undiffuse.data.dataset import MISSING, Dataset
from undiffuse.data.holes import missing_shares
from undiffuse.data.inspection.duplicates import Duplicates, Thumbnails, find_duplicates, is_pictures
from undiffuse.data.statistics import channel_statistics
from undiffuse.data.table_rows import FILE_COLUMNS

QUANTILES = (0.001, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999)
MOST_QUANTILE_NUMBERS = 2**22  # numbers that quantiles are taken of, evenly spread
DARK, BRIGHT, FLAT_COLOUR, BLURRED = 0.2, 0.9, 1 / 255, 0.1
JUDGED_SIDE = 64
FEW_VALUES, EACH_OFTEN = 20, 5  # different values of a class in numbers, and how often each is there on average
MOST_NAMES = 50  # different texts that are classes however few rows there are; else a tenth of the rows
SENTENCE_WORDS = 3  # on average, from which texts are sentences
RARE = 0.1  # of the commonest class


@dataclass(frozen=True)
class FoundColumn:
    """kind: the kind of condition that a column would be; empty for none.   why: in words.   missing: rows without a value."""

    name: str
    kind: str
    why: str
    missing: int


@dataclass(frozen=True)
class Inspection:
    """What is known of a data set.

    quality: rows by what is noteworthy about them.   classes: examples of each, -1's under "".   missing: the share of the numbers of every
    channel that are missing, 0 to 1.
    """

    data: Dataset
    duplicates: Duplicates
    quantiles: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    quality: Mapping[str, np.ndarray] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    columns: tuple[FoundColumn, ...] = ()
    missing: tuple[float, ...] = ()

    @property
    def rare(self) -> list[str]:
        """Classes of few examples beside the commonest."""
        most = max(self.classes.values(), default=0)
        return [name for name, count in self.classes.items() if name and count < RARE * most]

    def numbers(self) -> dict[str, Any]:
        """All of it as plain data."""
        data = self.data
        return {
            "name": data.name,
            "examples": len(data),
            "shape": list(data.shape),
            "dtype": data.values.dtype.name,
            "kind_of_pixel": data.mode,
            "quantiles": dict(zip(map(str, QUANTILES), self.quantiles, strict=True)),
            "mean": list(self.means),
            "standard_deviation": list(self.deviations),
            "missing": list(self.missing),
            "classes": dict(self.classes),
            "columns": [vars(column) for column in self.columns],
            "exact_duplicates": [data.names(cluster) for cluster in self.duplicates.exact],
            "near_duplicates": [data.names(cluster) for cluster in self.duplicates.near],
            "noteworthy": {name: data.names(rows) for name, rows in self.quality.items()},
            "notes": list(data.notes),
        }


def inspect_data(data: Dataset) -> Inspection:
    """Looks at every example. Nothing is changed."""
    every = max(1, -(-data.values.size // MOST_QUANTILE_NUMBERS))
    sampled = np.concatenate([_numbers(data, row)[row % every :: every] for row in range(len(data))])
    finite = sampled[np.isfinite(sampled)] if sampled.dtype.kind == "f" else sampled
    mean, deviation, _, _ = channel_statistics(data.values, known=data.known)
    counts: Counter[str] = Counter()
    if data.labels is not None:
        counts = Counter([*data.classes, ""][k] for k in data.labels.tolist())
    return Inspection(
        data,
        find_duplicates(data),
        tuple(float(q) for q in np.quantile(finite, QUANTILES)) if len(finite) else (),
        tuple(mean.tolist()),
        tuple(deviation.tolist()),
        _quality(data),
        {name: counts[name] for name in (*data.classes, "") if counts[name]},
        tuple(found_column(name, values) for name, values in data.columns.items()),
        tuple(missing_shares(data)),
    )


def _numbers(data: Dataset, row: int) -> np.ndarray:
    """The known numbers of an example, in a row."""
    example = data.values[row]
    found: np.ndarray = example.ravel()
    return found if data.known is None else found[np.broadcast_to(data.known[row], example.shape).ravel()]


def _quality(data: Dataset) -> dict[str, np.ndarray]:
    """The rows that are noteworthy, by what they are: not finite, of one value; of pictures, dark, bright or blurred."""
    if data.values.dtype.kind == "f":
        bad = np.array([row for row in range(len(data)) if not np.isfinite(_numbers(data, row)).all()], dtype=np.int64)
        if len(bad):  # which have no range to judge the others by
            return {"not finite": bad}
    if not is_pictures(data) or data.known is not None:
        each = ((row, _numbers(data, row)) for row in range(len(data)))
        constant = np.array([row for row, found in each if found.size > 1 and found.min() == found.max()], np.int64)
        return {"constant": constant} if len(constant) else {}
    found: dict[str, list[int]] = {"constant": [], "dark": [], "bright": []}
    sharpness = np.full(len(data), np.nan)
    thumbnails = Thumbnails(data)
    laplacian = torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])
    for start in range(0, len(data), 256):
        rows = np.arange(start, min(start + 256, len(data)))
        grey = thumbnails(rows, JUDGED_SIDE).float().mean(1, keepdim=True) / 255
        spread = grey.flatten(1).std(1)
        low, high = (grey.flatten(1).quantile(q, 1) for q in (0.01, 0.99))
        edges = F.conv2d(grey, laplacian).flatten(1).var(1)
        for row, s, a, b, e in zip(
            rows.tolist(), spread.tolist(), low.tolist(), high.tolist(), edges.tolist(), strict=True
        ):
            if s < FLAT_COLOUR:
                found["constant"].append(row)
                continue
            sharpness[row] = e / s**2
            if b < DARK:
                found["dark"].append(row)
            elif a > BRIGHT:
                found["bright"].append(row)
    blurred = (
        np.flatnonzero(sharpness < BLURRED * np.nanmedian(sharpness))
        if np.isfinite(sharpness).any()
        else np.array([], np.int64)
    )
    named = {name: np.array(rows, dtype=np.int64) for name, rows in found.items()} | {"blurred": blurred}
    return {name: rows for name, rows in named.items() if len(rows)}


def found_column(name: str, values: np.ndarray) -> FoundColumn:
    """What a column (N, …) of a data set would be as a condition, and why."""
    if values.ndim > 1:
        return FoundColumn(
            name, "vector" if values.ndim == 2 else "image", f"each value is an array {values.shape[1:]}", 0
        )
    if name in FILE_COLUMNS or name == "key":
        return FoundColumn(name, "", "it names the examples", 0)
    if values.dtype.kind in "fiub":
        return _of_numbers(name, values.astype(np.float64))
    texts = [str(value).strip() for value in values]
    present = [text for text in texts if text not in MISSING]
    missing = len(texts) - len(present)
    if not present:
        return FoundColumn(name, "", "it has no values", missing)
    numbers = _as_numbers(present)
    if numbers is not None:
        return replace(_of_numbers(name, numbers), missing=missing)
    different = Counter(present)
    if sum(";" in text for text in present) > len(present) / 2:
        return FoundColumn(name, "tags", "most values are several, separated by ;", missing)
    words = float(np.mean([len(text.split()) for text in different]))
    few = len(different) <= max(MOST_NAMES, len(present) / 10) and len(different) <= len(present) / 2
    if few:
        return FoundColumn(name, "class" if len(different) > 1 else "", f"{len(different)} different values", missing)
    if words >= SENTENCE_WORDS:
        return FoundColumn(
            name, "text", f"{len(different):,} different values of {words:.0f} words on average", missing
        )
    if len(different) == len(present):
        return FoundColumn(name, "", "every value is another: it looks like a name of the example", missing)
    return FoundColumn(name, "text", f"{len(different):,} different short values, too many for classes", missing)


def _as_numbers(texts: list[str]) -> np.ndarray | None:
    try:
        return np.array([float(text) for text in texts])
    except ValueError:
        return None


def _of_numbers(name: str, values: np.ndarray) -> FoundColumn:
    present = values[np.isfinite(values)]
    missing = len(values) - len(present)
    different = np.unique(present)
    if len(different) < 2:
        return FoundColumn(name, "", "it has one value" if len(different) else "it has no values", missing)
    whole = (different == different.round()).all()
    if whole and len(different) == len(present) and different[-1] - different[0] == len(different) - 1:
        return FoundColumn(name, "", "it counts the rows", missing)
    if whole and len(different) <= FEW_VALUES and len(present) >= EACH_OFTEN * len(different):
        return FoundColumn(
            name, "class", f"{len(different)} different whole numbers; a number if their order matters", missing
        )
    return FoundColumn(name, "number", f"{different[0]:g} to {different[-1]:g}", missing)
