"""What the cache keeps of decoded images, and of data sets of archives, whose many members take long to find and read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from undiffuse.data.cache import SLOW, CacheEntry
from undiffuse.data.dataset import Dataset
from undiffuse.data.file_formats import FileFormat

LABELS_ARRAY, VALUES_ARRAY, KNOWN_ARRAY, COLUMN_ARRAY = "labels", "values", "known", "column"


@dataclass(frozen=True)
class ImageFacts:
    """What is known of a decoded image.   mode: of the file, as converted, before it is brought to the depth of others.

    shape: (C, H, W) as decoded.   size: (height, width) in the file, upright.   frames, cut, converted: see pixels.Picture.
    """

    mode: str
    shape: tuple[int, ...]
    size: tuple[int, int]
    frames: int
    cut: float
    converted: str


class KeptImages(BaseModel):
    """What is known of decoded images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    facts: list[ImageFacts] = Field(description="What is known of a file, all that differ.")
    which: list[int] = Field(description="Which of the facts each file has; -1 for one that cannot be read.")
    unreadable: dict[int, str] = Field(description="Why a file cannot be read, by its row.")

    @classmethod
    def of(cls, each: list[ImageFacts | str]) -> KeptImages:
        """each: what is known of every file; why not, of one that cannot be read."""
        place: dict[ImageFacts, int] = {}
        which = [-1 if isinstance(facts, str) else place.setdefault(facts, len(place)) for facts in each]
        unreadable = {row: facts for row, facts in enumerate(each) if isinstance(facts, str)}
        return cls(facts=list(place), which=which, unreadable=unreadable)

    def each(self) -> list[ImageFacts | str]:
        """The inverse of `of`."""
        return [self.unreadable[row] if k < 0 else self.facts[k] for row, k in enumerate(self.which)]


def kept_images(entry: CacheEntry) -> tuple[np.ndarray, list[ImageFacts | str]] | None:
    """(decoded images, what is known of each), None where they are not kept."""
    found = entry.load()
    try:
        if found is not None and VALUES_ARRAY in found[0]:
            values, each = found[0][VALUES_ARRAY], KeptImages.model_validate_json(found[1]).each()
            return (values, each) if len(values) == len(each) else None
    except (ValidationError, KeyError, IndexError):
        pass
    return None


class KeptDataset(BaseModel):
    """What is known of a data set besides its arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Name of the data set.")
    classes: tuple[str, ...] = Field(description="Names of its classes.")
    mode: str | None = Field(description="Kind of pixel.")
    file_format: FileFormat | None = Field(description="Files that the examples came in.")
    root: str | None = Field(description="Folder that file names in its columns start from.")
    columns: list[str] = Field(description="Names of its columns.")
    texts: dict[int, list[str]] = Field(description="Columns of texts that are kept here, by their number.")
    notes: tuple[str, ...] = Field(description="What reading it decided.")
    padded: bool = Field(False, description="Whether its examples were of unequal lengths.")

    def dataset(self, arrays: Mapping[str, np.ndarray]) -> Dataset:
        """The data set with its arrays. Raises KeyError where one is missing."""
        columns = {
            name: np.array(self.texts[k], dtype=object) if k in self.texts else arrays[f"{COLUMN_ARRAY}-{k}"]
            for k, name in enumerate(self.columns)
        }
        return Dataset(
            name=self.name,
            values=arrays[VALUES_ARRAY],
            labels=arrays.get(LABELS_ARRAY),
            known=arrays.get(KNOWN_ARRAY),
            classes=self.classes,
            mode=self.mode,
            columns=columns,
            file_format=self.file_format,
            root=None if self.root is None else Path(self.root),
            notes=self.notes,
            padded=self.padded,
        )


def kept_dataset(files: Iterable[Path], how: object, read: Callable[[], Dataset]) -> Dataset:
    """The data set that `read` makes of files, or as it was kept before.   how: they are read.

    Kept is one that took long to read, and consists of arrays and texts alone.
    """
    entry = CacheEntry.of("dataset", files, how)
    found = entry.load()
    if found is not None:
        try:
            return KeptDataset.model_validate_json(found[1]).dataset(found[0])
        except (ValidationError, KeyError):
            pass
    began = time.monotonic()
    data = read()
    if time.monotonic() - began > SLOW:
        _keep(entry, data)
    return data


def _keep(entry: CacheEntry, data: Dataset) -> None:
    arrays, texts = {VALUES_ARRAY: data.values}, dict[int, list[str]]()
    if data.labels is not None:
        arrays[LABELS_ARRAY] = data.labels
    if data.known is not None:
        arrays[KNOWN_ARRAY] = data.known
    for k, column in enumerate(data.columns.values()):
        if column.dtype != object:
            arrays[f"{COLUMN_ARRAY}-{k}"] = column
        elif all(isinstance(cell, str) for cell in column):
            texts[k] = column.tolist()
        else:
            return
    about = KeptDataset(
        name=data.name,
        classes=data.classes,
        mode=data.mode,
        file_format=data.file_format,
        root=None if data.root is None else str(data.root),
        columns=list(data.columns),
        texts=texts,
        notes=data.notes,
        padded=data.padded,
    )
    entry.keep(arrays, about.model_dump_json())
