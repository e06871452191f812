"""DataConfig: where data comes from, and how it is read."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from undiffuse.errors import UsageError


class DataConfig(BaseModel):
    """Where data comes from, and how it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    source: str = Field(
        min_length=1,
        description="digits, or the path of a folder or file of a kind that is known: docs/reference/data.md lists them.",
    )
    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = Field(
        None, description="Height and width that images are resized to, in pixels."
    )
    fit: Literal["crop", "pad", "stretch"] = Field("crop", description="How images are resized: crop, pad or stretch.")
    exact_resize: bool = Field(
        False,
        description="Whether all pixels of a large image count alike when it is resized, up to seven times slower; runs of before were made so.",
    )
    channels: Literal["grey", "rgb", "rgba"] | None = Field(None, description="Convert images to grey, rgb or rgba.")
    variable: str | None = Field(
        None, description="Name of the array in a file of several, or several names, as a,b, which are the channels."
    )
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
    complex: bool = Field(
        False, description="Read complex numbers as two channels each, the real and the imaginary part."
    )
    nodata: float | None = Field(
        None,
        allow_inf_nan=False,
        description="A value that means missing, such as -9999; what the file says, when left out. NaN always does.",
    )
    missing: str | None = Field(
        None,
        description="Masks of what is missing: a folder of images or arrays, white there and named as the examples are, or one .npy array of all.",
    )
    table: str | None = Field(
        None, description="A .csv, .tsv, .jsonl or .parquet file with more columns of the examples."
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Of a table whose rows are the data: what columns are, by name, where that is not found out: number, integer, category, boolean, "
        "date, text or identifier.",
    )
    relations: tuple[str, ...] = Field(
        (), description="Of such a table: what holds in every row, such as start < end, or total = a + b."
    )
    group: str | None = Field(
        None, description="Column whose equal values stay together, in training or held out, such as a patient's name."
    )
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
