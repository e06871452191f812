"""Holes: numbers that are missing inside examples.  They are out of every statistic and out of the loss, and the network is told where they are.

    NaN       in floats of any kind of file
    nodata    a value that means missing, of whole numbers too: `nodata`, or what the file itself says (GDAL_NODATA, _FillValue)
    masks     `missing`: a folder of images or arrays called as the examples are, or one array for all, in the convention of mask_files.py

What is known is an array of bool of a byte for each number, of one channel where all channels miss the same places; it lies in a file where it
is large.  All work goes part by part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.images import first_few
from undiffuse.data.large_arrays import allocated, known_numbers, taken
from undiffuse.data.mask_files import MASK_SUFFIXES, hidden_in, known_by_array
from undiffuse.data.statistics import parts_of
from undiffuse.errors import UsageError

MOST_EMPTY = 0.5  # of the examples


def with_nodata(data: Dataset, nodata: float | None) -> Dataset:
    """The data with the numbers that are NaN or `nodata` missing. Raises UsageError for a value that its type does not have."""
    if nodata is not None and data.values.dtype.kind in "iu":
        info = np.iinfo(data.values.dtype)
        if nodata != round(nodata) or not info.min <= nodata <= info.max:
            raise UsageError(f"no {data.values.dtype.name} is {nodata:g}, which `nodata` says is missing: correct it.")
    known = known_numbers(data.values, nodata) if nodata is not None or data.values.dtype.kind == "f" else None
    return with_known(data, known)


def with_nodata_of_file(data: Dataset, text: object, config: DataConfig) -> Dataset:
    """The data with what its file says is missing, unless a setting says what is.   text: of the file; None, or no number of the type, is none."""
    if text is None or config.nodata is not None:
        return data
    try:
        nodata = float(str(text).strip("\0 []"))
        found = with_nodata(data, nodata)
    except (UsageError, ValueError, OverflowError):
        return data
    if found.known is data.known:
        return data
    return replace(
        found, notes=(*found.notes, f"the file says that {nodata:g} means missing; `nodata` sets another value")
    )


def with_known(data: Dataset, known: np.ndarray | None) -> Dataset:
    """The data with more numbers missing.   known: bool (N, C or 1, *size), False where one is; None for no more."""
    if known is None or data.known is None:
        return data if known is None else replace(data, known=known)
    both = allocated((len(known), max(known.shape[1], data.known.shape[1]), *known.shape[2:]), bool)
    for part in parts_of(both):
        both[part] = known[part] & data.known[part]
    return replace(data, known=both)


def with_masks(data: Dataset, path: Path, fit: str = "crop") -> Dataset:
    """The data with what masks hide missing.   path: a folder of masks, or an array of them.   fit: how images were resized.

    Raises UsageError where they do not fit the examples, or none is named like one.
    """
    if not path.exists():
        raise UsageError(f"there are no masks at {path}: give a folder of them, or an .npy array.")
    if not path.is_dir():
        return with_known(data, known_by_array(path, data.values.shape))
    files = data.columns.get("file")
    if files is None:
        raise UsageError(
            f"the masks in {path} go by the names of files, and the data has none: give one .npy array of them."
        )
    masks = {file.relative_to(path).with_suffix("").as_posix(): file for file in _mask_files(path)}
    stems = [str(Path(str(name)).with_suffix("").as_posix()).removesuffix(".nii") for name in files]
    without = [str(name) for name, stem in zip(files, stems, strict=True) if stem not in masks]
    if len(without) == len(data):
        raise UsageError(
            f"no mask in {path} is named like an example, such as {files[0]}: a mask has the name of its example."
        )
    known: np.ndarray | None = None
    notes: list[str] = []
    for row, stem in enumerate(stems):
        if stem not in masks:
            continue
        original = [] if data.root is None else [str(data.root / str(files[row]))]
        hidden = hidden_in(masks[stem], data.shape, fit, original, lambda text: None)
        if known is None or (known.shape[1] == 1 and len(hidden) > 1):
            wider = allocated((len(data), len(hidden), *data.shape[1:]), bool)
            wider[:] = True if known is None else known
            known = wider
        known[row] = ~hidden
    if without:
        notes.append(
            f"{len(without):,} of {len(data):,} examples have no mask in {path} ({first_few(without)}): all of them is known"
        )
    return with_known(replace(data, notes=(*data.notes, *notes)), known)


def _mask_files(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*")) if file.suffix.lower() in MASK_SUFFIXES)


def with_checked_holes(data: Dataset) -> Dataset:
    """The data with its holes looked at: in one channel where all have the same, and without examples of which nothing is known.

    Such rows are common in small tables, and say nothing.  Raises UsageError where they are most, which a wrong `nodata` or mask makes, and
    for a channel of which nothing is known.
    """
    if data.known is None:
        return data
    known, values = data.known, data.values
    there, alike, missing = np.zeros(known.shape[1], bool), True, np.zeros(known.shape[1])
    empty = np.zeros(len(known), bool)
    for part in parts_of(known):
        at = known[part]
        alike = alike and bool((at == at[:, :1]).all())
        each = at.reshape(*at.shape[:2], -1)
        there |= each.any((0, 2))
        missing += (~each).sum((0, 2))
        empty[part] = ~each.any((1, 2))
    if not missing.any():
        return replace(data, known=None)
    if empty.mean() > MOST_EMPTY:
        raise UsageError(
            f"nothing is known of {empty.sum():,} of {len(known):,} examples ({_named(data, empty)}): correct `nodata` or `missing`, or leave "
            "them out."
        )
    if not there.all():
        raise UsageError(f"channel {int(np.argmin(there))} is known in no example: leave it out.")
    if alike and known.shape[1] > 1:
        one = allocated((len(known), 1, *known.shape[2:]), bool)
        for part in parts_of(known):
            one[part] = known[part][:, :1]
        known, missing = one, missing[:1]
    notes = (
        [f"skipped {empty.sum():,} of {len(known):,} examples of which nothing is known: {_named(data, empty)}"]
        if empty.any()
        else []
    )
    if not data.padded:
        notes.append(
            f"{_share(missing / (len(known) * known[0, 0].size))} of the numbers are missing: out of the loss, and samples are complete"
        )
    found = replace(data, known=known)
    if empty.any():
        rows = np.flatnonzero(~empty)
        found = replace(
            data,
            values=taken(values, rows),
            known=taken(known, rows),
            labels=None if data.labels is None else data.labels[rows],
            columns={name: column[rows] for name, column in data.columns.items()},
        )
    return replace(found, notes=(*data.notes, *notes))


def _named(data: Dataset, which: np.ndarray) -> str:
    rows, files = np.flatnonzero(which), data.columns.get("file")
    return first_few(f"example {row}" if files is None else files[row] for row in rows)


def _share(shares: np.ndarray) -> str:
    """Shares of channels in words: one, or that of each."""
    few = [f"{share:.2%}" if share < 0.01 else f"{share:.0%}" for share in shares[:8]]
    return few[0] if len(set(few)) == 1 else f"{', '.join(few)}{', …' if len(shares) > 8 else ''} (by channel)"


def missing_shares(data: Dataset) -> list[float]:
    """The share of the numbers of every channel that are missing, 0 to 1, (C,)."""
    if data.known is None:
        return [0.0] * data.shape[0]
    missing = sum(
        (~data.known[part]).reshape(-1, data.known.shape[1], data.known[0, 0].size).sum((0, 2))
        for part in parts_of(data.known)
    )
    shares = np.broadcast_to(missing / (len(data) * data.known[0, 0].size), data.shape[:1])
    return [float(share) for share in shares]


def refuse_holes(data: Dataset) -> None:
    """Raises UsageError for examples of which numbers are missing, where whole ones are needed."""
    if data.known is not None:
        n = sum(
            int((~data.known[part].reshape(len(data.known[part]), -1).all(1)).sum()) for part in parts_of(data.known)
        )
        raise UsageError(
            f"{n:,} of the {len(data):,} examples of {data.name} have numbers missing, and this needs whole ones: give complete data, or fill them "
            "in by 'undiffuse restore'."
        )
