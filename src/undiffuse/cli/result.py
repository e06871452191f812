"""What a command that answers returns, and how it is written into a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from undiffuse.data.codec import CodecConfig
    from undiffuse.models.model import Model
    from undiffuse.pictures.edits import Walk


@dataclass
class Result:
    """What a command found.

    numbers: written as JSON to the file `numbers_in`.   rows: pictures by label, drawn as picture.png with a title and a label for each
    column.   arrays: by name, the examples' names and values (n, C, *size).   files: by name, what writes each.   lines: to print.
    walk: drawn as a strip of `walk_example` with its title, and an animation.   next: the command that may follow.
    """

    numbers: Mapping[str, Any] = field(default_factory=dict)
    next: str = ""
    lines: Sequence[str] = ()
    rows: Sequence[tuple[str, Sequence[np.ndarray]]] = ()
    title: str = ""
    labels: Sequence[str] = ()
    arrays: Mapping[str, tuple[Sequence[str], Tensor]] = field(default_factory=dict)
    files: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)
    written: Sequence[str] = ()
    walk: Walk | None = None
    walk_title: str = ""
    walk_labels: Sequence[str] = ()
    walk_example: int = 0
    numbers_in: str = "numbers.json"


def write_result(folder: Path, model: Model, result: Result) -> list[str]:
    """Writes everything into a folder; returns the names of what is there."""
    from undiffuse.pictures import edits as pictures

    written = list(result.written)
    if result.rows:
        pictures.draw_rows(result.rows, result.title, result.labels).save(folder / "picture.png")
        written.append("picture.png")
    if result.numbers:
        content = json.dumps(dict(result.numbers), indent=2, allow_nan=False) + "\n"
        (folder / result.numbers_in).write_text(content, encoding="utf-8")
        written.append(result.numbers_in)
    for name, (labels, values) in result.arrays.items():
        written += _write_array(folder, model.config.codec, name, labels, values)
    if result.walk is not None and result.walk.moments:
        strip = pictures.strip(result.walk, model.codec, result.walk_title or result.title, result.walk_example)
        strip.save(folder / "trajectory.png")
        pictures.animation(result.walk, model.codec, folder / "trajectory.gif", result.walk_labels or result.labels)
        written += ["trajectory.png", "trajectory.gif"]
    for name, write in result.files.items():
        write(folder / name)
        written.append(name)
    return written


def _write_array(folder: Path, codec: CodecConfig, name: str, labels: Sequence[str], values: Tensor) -> list[str]:
    """An .npy array, and images where they are images."""
    import numpy as np

    from undiffuse.data.codec import shape_in_files
    from undiffuse.pictures.images import save_image

    array = values.numpy().astype(codec.dtype, copy=False)
    np.save(folder / f"{name}.npy", array.reshape(len(array), *shape_in_files(array.shape[1:])))
    if len(codec.shape) != 3:
        return [f"{name}.npy"]
    (folder / name).mkdir()
    for k, label in enumerate(labels):
        save_image(values[k], codec, folder / name / f"{k:03d}-{label}.png")
    return [f"{name}.npy", f"{name}/"]
