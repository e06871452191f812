"""Where data comes from: one argument, `digits`, a folder of images, a table that names them, .npy, .npz or idx.gz.

`digits` alone is the data set that comes with the package, also where a folder has that name: that one is ./digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from undiffuse.data import arrays, images, tables
from undiffuse.data.dataset import Dataset
from undiffuse.data.items import as_dataset
from undiffuse.errors import UsageError
from undiffuse.registry import Registry


class DataConfig(BaseModel):
    """Where data comes from, and how it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: str = Field(
        description="digits, or the path of a folder of images, a table that names them, or an .npy, .npz or idx.gz file."
    )
    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = Field(
        None, description="Height and width that images are resized to, in pixels."
    )
    fit: Literal["crop", "pad", "stretch"] = Field("crop", description="How images are resized: crop, pad or stretch.")
    channels: Literal["grey", "rgb", "rgba"] | None = Field(None, description="Convert images to grey, rgb or rgba.")
    layout: str | None = Field(None, description="Axes of an array, such as NHWC, NCHW, NHW, NCL, or NC for a table.")
    range: tuple[float, float] | None = Field(
        None, description="Lowest and highest whole number, black and white; found from the values when left out."
    )
    max_pixels: int | None = Field(
        None,
        gt=0,
        description="Most pixels of an image that is opened; Pillow's limit, which protects from harmful files, when left out.",
    )
    shrink: int | None = Field(
        None, ge=2, description="Average blocks of so many values along each axis, at least 2: data for a first stage."
    )
    table: str | None = Field(None, description="A .csv, .tsv or .jsonl file with more columns of the examples.")
    held_out: float = Field(
        0.1, ge=0, description="Examples kept for validation: a share below 1, or a whole number of them."
    )


def share_or_count(value: str | float) -> float:
    """What is held out, as DataConfig has it: a share below 1, or a number of examples, which is a whole number ("100", 100).

    Raises UsageError for anything else, such as 1.0, which may mean all or one.
    """
    text = str(value).strip()
    if re.fullmatch(r"\d+", text):
        return float(text)
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(
            f"held_out {text} is neither a share of the examples below 1, such as 0.1, nor a whole number of them, such as 100."
        )
    return share


def sides(size: object) -> list[int]:
    """[height, width] of a size, one side or both. Raises UsageError for anything else."""
    both = [size, size] if isinstance(size, int | np.integer) else list(size) if isinstance(size, tuple | list) else []
    if len(both) != 2 or not all(isinstance(side, int | np.integer) and side > 0 for side in both):
        raise UsageError(f"size is one side, such as 16, or (height, width), such as (48, 64), and not {size!r}.")
    return [int(side) for side in both]


def open_digits() -> Dataset:
    """1,797 handwritten digits of 8×8, values 0..16 (UCI, CC BY 4.0), part of this package."""
    with resources.files("undiffuse.data").joinpath("digits/digits.npz").open("rb") as file:
        content = np.load(file, allow_pickle=False)
        values, labels = content["images"], content["labels"].astype(np.int64)
    return Dataset("digits", values, labels, tuple("0123456789"), low=0.0, high=16.0)


def shrunk(data: Dataset, factor: int) -> Dataset:
    """Examples whose numbers are the averages of blocks, rounded where they are integers. Raises UsageError where blocks do not fit."""
    size = data.shape[1:]
    if any(n % factor for n in size):
        raise UsageError(
            f"blocks of {factor} do not fit examples of {'×'.join(str(n) for n in size)}: shrink by a number that divides every side."
        )
    blocks = data.values.reshape(*data.values.shape[:2], *(part for n in size for part in (n // factor, factor)))
    means = blocks.mean(tuple(range(3, blocks.ndim, 2)), dtype=np.float64)
    values = (means.round() if np.issubdtype(data.values.dtype, np.integer) else means).astype(data.values.dtype)
    return replace(data, values=values)


HANDED_OVER = "python:"  # what the source of data that never lay in a file starts with
SOURCES: Registry[Callable[[str], Any]] = Registry(
    "data source", "undiffuse.sources", {"digits": lambda rest: open_digits()}
)


def register_source(name: str, read: Callable[[str], Any]) -> None:
    """Makes data of one's own known as `name`, to `undiffuse.train(name)` and to `undiffuse train NAME`.

    read: called with what follows the name and a colon, as "0.1" of "moons:0.1", or with ""; it returns whatever `as_dataset` takes: a
    torch Dataset, a list of tensors, an array, …, the same every time, for a run that goes on reads it anew.
    Raises UsageError for a name that is taken.
    """
    SOURCES.register(name, read)


def own_source(source: str) -> bool:
    """Whether a source is a registered one. Entry points of packages are looked at where nothing lies at that path."""
    name = source.partition(":")[0]
    return name in set(SOURCES) or (not Path(source).expanduser().exists() and bool(name) and name in SOURCES)


def of_images(config: DataConfig) -> bool:
    """Whether a configuration names a folder of images, or a table that names them."""
    path = Path(config.source).expanduser()
    return not own_source(config.source) and (path.is_dir() or path.suffix.lower() in tables.TABLE_SUFFIXES)


def open_data(config: DataConfig) -> Dataset:
    """The data set a configuration names. Raises UsageError, one sentence with the fix, for anything unusable."""
    path = Path(config.source).expanduser()
    suffix = path.suffix.lower()
    if own_source(config.source):
        name, _, rest = config.source.partition(":")
        data = as_dataset(SOURCES[name](rest), name, layout=config.layout)
        if path.exists():
            what = "the data set that comes with undiffuse" if name == "digits" else "a registered data source"
            data = replace(data, notes=(*data.notes, f"{name!r} is {what}; what is called so here is ./{name}"))
    elif path.is_dir():
        data = replace(
            images.image_folder(path, config.size, config.fit, config.channels, config.max_pixels), folder=path
        )
    elif config.source.startswith(HANDED_OVER):
        raise UsageError(
            f"the data was handed over in Python, as a {config.source.removeprefix(HANDED_OVER)}, and lies in no file: give data as the run's was."
        )
    elif not path.exists():
        raise UsageError(
            f"there is no data at {path}: give {', '.join(map(repr, SOURCES.names()))}, a folder of images, or a .csv, .npy, .npz or idx.gz file."
        )
    elif suffix in tables.TABLE_SUFFIXES:
        data = tables.image_table(path, config.size, config.fit, config.channels, config.max_pixels)
    elif suffix in (".npy", ".npz"):
        data = arrays.numpy_file(path, config.layout)
    elif "idx" in path.name.lower():
        data = arrays.idx(path, config.layout)
    else:
        raise UsageError(
            f"{path} is no kind of data known here: give a folder of images, or a .csv, .npy, .npz or idx.gz file."
        )
    return with_settings(data, config)


def with_settings(data: Dataset, config: DataConfig) -> Dataset:
    """Data that was read, with its blocks averaged, its range set and the columns of a table. Raises UsageError for what does not fit it."""
    path = Path(config.source).expanduser()
    if (config.size or config.channels) and not of_images(config):
        raise UsageError("`size` and `channels` are for images; change an array before giving it.")
    data = data if config.shrink is None else shrunk(data, config.shrink)
    if config.range is not None:
        data = replace(data, low=config.range[0], high=config.range[1])
    if config.table is None:
        return data
    files = data.columns["file"].tolist() if "file" in data.columns and path.is_dir() else None
    return tables.with_table(data, Path(config.table).expanduser(), files)
