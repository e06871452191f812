"""What the commands that edit given examples share: reading them, settings, and the folder of results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from undiffuse.cli import shared

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from undiffuse.editing import Watch
    from undiffuse.model import Model
    from undiffuse.pictures.edits import Walk

INPUTS = "Images or .npy arrays; data:K is example K of the data the run was trained on."


@dataclass(frozen=True)
class Inputs:
    """values: float32 (n, C, *size), in the range of the model's data.   names: of each, for labels and files."""

    values: np.ndarray
    names: list[str]


def check_out(out: Path | None) -> None:
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty, and nothing is written over: name another --out.")


def read(run: Path, model: Model, inputs: Sequence[str]) -> Inputs:
    """The examples that are named; says what is done to any that do not fit as they are."""
    import numpy as np

    from undiffuse.data.examples import read_examples

    parts, names = [], list[str]()
    for name in inputs:
        values, notes = _of_data(run, name) if name.startswith("data:") else read_examples(Path(name), model.config.codec, _fit(run))
        for note in notes:
            typer.echo(f"note: {note}")
        stem = name.replace(":", "-") if name.startswith("data:") else Path(name).stem
        names += [stem] if len(values) == 1 else [f"{stem}-{k}" for k in range(len(values))]
        parts.append(values)
    return Inputs(np.concatenate(parts), names)


def _config(run: Path) -> dict[str, Any]:
    """The run's configuration of its data; empty for a model file without its folder."""
    path = run / "config.json"
    return json.loads(path.read_text(encoding="utf-8"))["data"] if path.exists() else {}


def _fit(run: Path) -> str:
    return str(_config(run).get("fit", "crop"))


def _of_data(run: Path, name: str) -> tuple[np.ndarray, list[str]]:
    import numpy as np

    from undiffuse.configuration import parsed
    from undiffuse.data.sources import DataConfig, open_data

    config, number = _config(run), name.removeprefix("data:")
    if not config:
        raise ValueError(f"{run} does not say which data it was trained on, so {name} names nothing: give an image or an .npy file.")
    data = open_data(parsed(DataConfig, config, f"{run / 'config.json'} names no data that can be read"))
    if not number.isdigit() or int(number) >= len(data):
        raise ValueError(f"{name} names no example: write data:0 to data:{len(data) - 1}.")
    return data.values[int(number)][None].astype(np.float32), []


def asked(model: Model, class_: str | None) -> dict[str, object]:
    """The conditions of a --class; a model with classes is told none when it is left out."""
    if class_ is not None and not model.classes:
        raise ValueError("this model is unconditional, it has no classes to ask for: leave --class out.")
    return {} if class_ is None else {"class": class_}


@contextmanager
def watching(walk: Walk | None, total: int) -> Iterator[Watch]:
    """A progress bar over `total` steps, which also fills the walk."""
    with shared.progress_bar("{task.completed} of {task.total} steps") as bar:
        task = bar.add_task("walking", total=total)

        def watch(way: Any, moment: Any) -> None:
            bar.advance(task)
            if walk is not None:
                walk.see(way, moment)

        yield watch
        bar.update(task, completed=total)


def folder_for(run: Path, out: Path | None) -> Path:
    if out is None:
        return shared.next_folder((run if run.is_dir() else run.parent) / "edited")
    out.mkdir(parents=True, exist_ok=True)
    return out


def write(folder: Path, model: Model, results: Mapping[str, tuple[Sequence[str], Tensor]], numbers: Mapping[str, Any]) -> list[str]:
    """results: by name, the examples' names and values (n, C, *size): an .npy array, and images where they are images."""
    import numpy as np

    from undiffuse.pictures.images import save_image

    written = ["numbers.json"]
    for kind, (names, values) in results.items():
        np.save(folder / f"{kind}.npy", values.numpy().astype(model.config.codec.dtype))
        written.append(f"{kind}.npy")
        if len(model.config.codec.shape) == 3:
            (folder / kind).mkdir()
            for k, name in enumerate(names):
                save_image(values[k], model.config.codec, folder / kind / f"{k:03d}-{name}.png")
            written.append(f"{kind}/")
    (folder / "numbers.json").write_text(json.dumps(dict(numbers), indent=2) + "\n", encoding="utf-8")
    return written


def decibels(psnr: float) -> str:
    return "exact" if math.isinf(psnr) else f"{psnr:.1f} dB"


def finite(values: Tensor) -> list[float | None]:
    """For JSON, which has no infinity: None."""
    return [value if math.isfinite(value) else None for value in values.tolist()]
