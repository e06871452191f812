"""What the commands that edit given examples share: reading them, settings, and the folder of results."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from undiffuse.cli import asking
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from undiffuse.data.codec import CodecConfig
    from undiffuse.data.dataset import Dataset
    from undiffuse.models.model import Model
    from undiffuse.pictures.edits import Walk

ClassName = Annotated[str | None, Option("--class", help="What the model is told; nothing when left out.")]
Weights = Annotated[str | None, Option(help="ema or online; the better ones when left out.")]
Trajectory = Annotated[bool, Option("--trajectory", help="Also draw the walk as a strip and an animation.")]
Out = Annotated[Path | None, Option(help="Folder to write to; a new one in the run's edited/ when left out.")]
Device = Annotated[str | None, Option(help="cpu, cuda, …")]
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
            typer.echo(f"note: {note}")
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


def asked(model: Model, class_: str | None) -> dict[str, object]:
    """The conditions of a --class; a model with classes is told none when it is left out."""
    return told(model, {"class": None if class_ is None else [class_]})


def told(model: Model, options: Mapping[str, list[str] | None]) -> dict[str, object]:
    """The conditions of options by kind: one value for all examples, several for one each."""
    found = asking.read_conditions(model, options).values
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def walk_of(model: Model, trajectory: bool, **which: Sequence[int]) -> Walk | None:
    """What collects a walk where it is to be drawn."""
    from undiffuse.pictures.edits import Walk

    return Walk(model.codec.shape, **which) if trajectory else None


def write_results(
    folder: Path, model: Model, results: Mapping[str, tuple[Sequence[str], Tensor]], numbers: Mapping[str, Any]
) -> list[str]:
    """results: by name, the examples' names and values (n, C, *size): an .npy array, and images where they are images."""
    import numpy as np

    from undiffuse.data.codec import shape_in_files
    from undiffuse.pictures.images import save_image
    from undiffuse.system import write_atomically, write_text

    def write_array(path: Path, values: np.ndarray) -> None:
        with open(path, "wb") as file:  # np.save would add an ending to a name
            np.save(file, values)

    written = ["numbers.json"]
    for kind, (names, values) in results.items():
        array = values.numpy().astype(model.config.codec.dtype, copy=False)
        array = array.reshape(len(array), *shape_in_files(array.shape[1:]))
        write_atomically(folder / f"{kind}.npy", lambda path, array=array: write_array(path, array), array.nbytes)  # type: ignore[misc]
        written.append(f"{kind}.npy")
        if len(model.config.codec.shape) == 3:
            (folder / kind).mkdir()
            for k, name in enumerate(names):
                save_image(values[k], model.config.codec, folder / kind / f"{k:03d}-{name}.png")
            written.append(f"{kind}/")
    write_text(folder / "numbers.json", json.dumps(dict(numbers), indent=2) + "\n")
    return written


def decibels(psnr: float) -> str:
    """A PSNR as text."""
    return "exact" if math.isinf(psnr) else f"{psnr:.1f} dB"


def finite_rows(values: Tensor) -> list[float | None]:
    """For JSON, which has no infinity: None."""
    return [value if math.isfinite(value) else None for value in values.tolist()]
