"""What a command returns, and how it is written into a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from undiffuse.models.model import Model
    from undiffuse.pictures.edits import Row, TrajectoryRecorder


@dataclass
class Result:
    """What a command found.

    numbers: written as JSON to the file `numbers_in`.   rows: examples or pictures by label, drawn as picture.png with a title and a label
    for each column.   arrays: by name, the examples' names and values (n, C, *size).   files: by name, what writes each.   written: files
    that are there already.   lines: to print.   trajectory_title, trajectory_labels: of the strip and the animation, where others.
    next: the command that may follow.
    """

    numbers: Mapping[str, Any] = field(default_factory=dict)
    next: str = ""
    lines: Sequence[str] = ()
    rows: Sequence[Row] = ()
    title: str = ""
    labels: Sequence[str] = ()
    arrays: Mapping[str, tuple[Sequence[str], Tensor]] = field(default_factory=dict)
    files: Mapping[str, Callable[[Path], object]] = field(default_factory=dict)
    written: Sequence[str] = ()
    trajectory_title: str = ""
    trajectory_labels: Sequence[str] = ()
    numbers_in: str = "numbers.json"


def write_result(folder: Path, model: Model, result: Result, recorder: TrajectoryRecorder | None) -> list[str]:
    """Writes everything into a folder; returns the names of what is there."""
    from undiffuse.config import finite
    from undiffuse.pictures import edits as pictures
    from undiffuse.pictures.stored import write_examples

    written = list(result.written)
    if result.rows:
        pictures.draw_rows(result.rows, result.title, result.labels, model.codec).save(folder / "picture.png")
        written.append("picture.png")
    if result.numbers:
        content = json.dumps(finite(result.numbers), indent=2, allow_nan=False) + "\n"
        (folder / result.numbers_in).write_text(content, encoding="utf-8")
        written.append(result.numbers_in)
    for name, (names, values) in result.arrays.items():
        written += write_examples(folder, name, names, values, model.config.codec, model.config.file_format)
    if recorder is not None and recorder.moments:
        strip = pictures.strip(recorder, model.codec, result.trajectory_title or result.title)
        strip.save(folder / "trajectory.png")
        labels = result.trajectory_labels or result.labels
        pictures.animation(recorder, model.codec, folder / "trajectory.gif", labels)
        written += ["trajectory.png", "trajectory.gif"]
    for name, write in result.files.items():
        write(folder / name)
        written.append(name)
    return written


def by_name(names: Iterable[str], values: Tensor) -> dict[str, float]:
    """Numbers (n,) by the names of the examples."""
    return dict(zip(names, values.tolist(), strict=True))


def decibels(psnr: float) -> str:
    """A PSNR as text."""
    return "exact" if math.isinf(psnr) else f"{psnr:.1f} dB"
