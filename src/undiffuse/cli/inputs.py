"""The examples that commands are given: read, named, and noted where they had to be fitted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from undiffuse.cli import shared
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from undiffuse.data.codec import CodecConfig
    from undiffuse.data.dataset import Dataset
    from undiffuse.models.model import Model

INPUTS = "Images or .npy arrays; data:K is example K of the data the run was trained on."


@dataclass(frozen=True)
class Inputs:
    """values: (n, C, *size) of the type `codec.storage`, in the range of the model's data.   names: of each, for labels and files, no two alike."""

    values: np.ndarray
    names: list[str]


def read_inputs(
    run: Path, model: Model, inputs: Sequence[str], codec: CodecConfig | None = None, missing: bool = False
) -> Inputs:
    """The examples that are named; says what is done to any that do not fit as they are.

    codec: of another shape than the model's, for files.   missing: whether values may be NaN.
    """
    import numpy as np

    from undiffuse.data.examples import read_examples

    parts, names = [], list[str]()
    data = _data(run, inputs)
    for name in inputs:
        notes = list[str]()
        if data is not None and name.startswith("data:"):
            values = _of_data(data, name, model.config.codec)
        else:
            values, notes = read_examples(Path(name), codec or model.config.codec, fit_of(run), missing)
        for note in notes:
            shared.note(note)
        stem = name.replace(":", "-") if name.startswith("data:") else Path(name).stem
        names += [stem] if len(values) == 1 else [f"{stem}-{k}" for k in range(len(values))]
        parts.append(values)
    return Inputs(np.concatenate(parts), _distinct(names))


def _distinct(names: Sequence[str]) -> list[str]:
    """The same names, a number after each that was there before: a/0.png and b/0.png are two examples."""
    found = list[str]()
    for name in names:
        free = (other for k in itertools.count(2) if (other := f"{name}-{k}") not in names and other not in found)
        found.append(next(free) if name in found else name)
    return found


def fit_of(run: Path) -> str:
    """How the run's images were resized: crop, pad or stretch."""
    from undiffuse.runs.data import run_config

    config = run_config(run)
    return "crop" if config is None else config.data.fit


def _data(run: Path, inputs: Sequence[str]) -> Dataset | None:
    """The data the run was trained on, where any input names an example of it: opened once for all."""
    from undiffuse.data.sources import open_data
    from undiffuse.runs.data import run_config

    named = [name for name in inputs if name.startswith("data:")]
    if not named:
        return None
    config = run_config(run)
    if config is None:
        raise UsageError(
            f"{run} does not say which data it was trained on, so {named[0]} names nothing: give an image or an .npy file."
        )
    return open_data(config.data)


def _of_data(data: Dataset, name: str, codec: CodecConfig) -> np.ndarray:
    number = name.removeprefix("data:")
    if not number.isdigit() or int(number) >= len(data):
        raise UsageError(f"{name} names no example: write data:0 to data:{len(data) - 1}.")
    return codec.carried(data.values[int(number)][None]).numpy()


def share_at_ends(model: Model, inputs: Inputs) -> float:
    """The share of values at the lowest or highest that the model's data can have; none for floats, whose range is open."""
    import numpy as np

    codec = model.config.codec
    if codec.kind == "float":
        return 0.0
    low, high = (np.reshape(ends, (-1, *[1] * (inputs.values.ndim - 2))) for ends in (codec.low, codec.high))
    return float(((inputs.values == low) | (inputs.values == high)).mean())


def decibels(psnr: float) -> str:
    """A PSNR as text."""
    return "exact" if math.isinf(psnr) else f"{psnr:.1f} dB"


def finite_rows(values: Tensor) -> list[float | None]:
    """For JSON, which has no infinity: None."""
    return [value if math.isfinite(value) else None for value in values.tolist()]
