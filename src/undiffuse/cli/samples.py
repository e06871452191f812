"""Samples in the order in which they are made, and what is written of them: an array, images, a table, a sheet and strips."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undiffuse.cli import asking, shared
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor

    from undiffuse.data.codec import CodecConfig
    from undiffuse.models.classifier import Classifier
    from undiffuse.models.model import Model
    from undiffuse.sampling.classifier_guidance import Guide

STRIP_EXAMPLES = 10
MOST_ROWS = 10
COMPARED = 10  # samples of each row, when none are asked for
MOST_SHOWN = 200  # examples on a sheet


def few(labels: Sequence[str], most: int = MOST_SHOWN) -> list[int]:
    """Which examples a sheet shows: all, or as many of each label, or the first, up to so many."""
    if len(labels) <= most:
        return list(range(len(labels)))
    each, counts, found = most // len(set(labels)), dict[str, int](), list[int]()
    if not each:
        return list(range(most))
    for k, label in enumerate(labels):
        counts[label] = counts.get(label, 0) + 1
        if counts[label] <= each:
            found.append(k)
    return found


class Results:
    """Examples of one codec in a folder: NAME.npy, and IMAGES/00000.png, …, where they have pictures.   shown: those of a sheet.

    No more of them is held than what is shown.
    """

    def __init__(self, folder: Path, name: str, images: str, codec: CodecConfig, n: int, shown: Sequence[int]) -> None:
        import numpy as np

        from undiffuse.data.codec import shape_in_files

        self.images, self.codec, self.shown, self.done = folder / images, codec, frozenset(shown), 0
        self.kept: list[Tensor] = []
        self.images.mkdir()
        self.array = open(folder / f"{name}.npy", "wb")  # noqa: SIM115  closed by `finish`
        described = np.lib.format.dtype_to_descr(np.dtype(codec.dtype))
        np.lib.format.write_array_header_1_0(
            self.array, {"descr": described, "fortran_order": False, "shape": (n, *shape_in_files(codec.shape))}
        )

    def add(self, values: Tensor) -> None:
        """values: float (B, C, *size), in the data's own range."""
        from undiffuse.pictures.images import save_image

        self.array.write(values.numpy().astype(self.codec.dtype).tobytes())
        for value in values:
            save_image(value, self.codec, self.images / f"{self.done:05d}.png")
            if self.done in self.shown:
                self.kept.append(value.clone())
            self.done += 1

    def finish(self) -> Tensor:
        """Those that are shown, (len(shown), C, *size)."""
        import torch

        self.array.close()
        return torch.stack(self.kept)


@dataclass(frozen=True)
class Plan:
    """What is to be sampled.   by: a classifier, and how it guides."""

    model: Model
    told: asking.Asking
    strengths: list[float | None]
    settings: dict[str, Any]
    away: dict[str, Any]
    by: tuple[Classifier, dict[str, Any]] | None
    seed: int
    first: int

    def how(self, strength: float | None) -> dict[str, Any]:
        """The sampling settings, with this strength of guidance where one is given."""
        return self.settings | ({} if strength is None else {"guidance": strength})

    def choices(self) -> list[tuple[dict[str, Any], float | None, str, list[str]]]:
        """Every combination of values and strengths: (conditions, strength, label, cells of a table)."""
        found = []
        for strength in self.strengths:
            for conditions, label, cells in zip(
                self.told.combinations(), self.told.labels(), self.told.cells(), strict=True
            ):
                mark = f"guidance {strength:g}" if len(self.strengths) > 1 else ""
                found.append((conditions, strength, ", ".join(part for part in (label, mark) if part), cells))
        return found

    def split(self, each: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Conditions of examples → (those of the model, what pulls samples, with what only the classifier reads)."""
        columns: dict[str, Any] = {name: [conditions.get(name) for conditions in each] for name in self.told.values}
        guides: tuple[Guide, ...] = ()
        if self.by is not None:
            classifier, how = self.by
            target = classifier.config.name
            if target not in columns:
                kind = classifier.config.target.kind
                raise UsageError(
                    f"the classifier guides towards a value of {target!r}: say which, as in --{kind} {target}=…"
                )
            guides = (classifier.guide(columns[target], len(each), **how),)
            if target not in self.model.denoiser.conditions.settable:
                del columns[target]
        return columns, self.away | {"guides": guides}


@dataclass(frozen=True)
class Row:
    """One sample to be made.   index: of the seed.   cells: of the table."""

    conditions: dict[str, Any]
    strength: float | None
    label: str
    cells: list[str]
    index: int


def rows_of(plan: Plan, n: int | None, compare: bool) -> list[Row]:
    """The samples in the order in which they are made: strength after strength, each in the order of the choices."""
    choices = plan.choices()
    if compare:
        per, total = n or COMPARED, (n or COMPARED) * len(choices)
    else:
        total = n or (10 * len(choices) if 1 < len(choices) <= MOST_ROWS else 64)
        per = math.ceil(total / len(choices))
    rows = [Row(*choices[k // per], plan.first + (k % per if compare else k)) for k in range(total)]
    return [row for strength in plan.strengths for row in rows if row.strength == strength]


def _batches(plan: Plan, rows: list[Row], bar: Progress) -> Iterator[tuple[list[Row], Tensor]]:
    """The samples of rows, some at a time, with a bar for each strength. Complains before anything is drawn."""
    from undiffuse.models.guidance import Guidance, validate

    model = plan.model
    groups = [[row for row in rows if row.strength == strength] for strength in plan.strengths]
    asked = [plan.split([row.conditions for row in group]) for group in groups]
    for group, (conditions, pulls), strength in zip(groups, asked, plan.strengths, strict=True):
        validate(model, model.sampling_config(**plan.how(strength)), Guidance(**pulls), conditions)
        model.denoiser.conditions.encode(conditions, len(group))
    for group, (conditions, pulls), strength in zip(groups, asked, plan.strengths, strict=True):
        each = len(model.sampling_config(**plan.how(strength)).build_levels(model.schedule)) - 1
        progress = shared.steps(
            bar, "sampling" if strength is None or len(groups) == 1 else f"guidance {strength:g}", each
        )
        done, which = 0, [row.index for row in group]
        for values in model.sample_in_batches(
            len(group),
            conditions,
            seed=plan.seed,
            index=which,
            progress=progress,
            **pulls,
            **plan.how(strength),
        ):
            yield group[done : done + len(values)], values
            done += len(values)


def write(
    plan: Plan, rows: list[Row], compare: bool, folder: Path, second: Model | None, augmentation: float
) -> list[str]:
    """Samples, and makes them larger where there is a second stage; returns the names of what was written."""
    from undiffuse.pictures.views import compared_grid, samples_grid

    labels = [row.label for row in rows]
    shown = few(labels)
    small = Results(folder, "samples", "images", plan.model.config.codec, len(rows), shown)
    large = None if second is None else Results(folder, "enlarged", "enlarged", second.config.codec, len(rows), shown)
    with shared.progress_bar(shared.STEPS) as bar:
        enlarging = None if second is None else shared.steps(bar, "enlarging")
        for some, values in _batches(plan, rows, bar):
            small.add(values)
            if second is not None and large is not None:
                large.add(_enlarged(plan, second, some, values, augmentation, enlarging))
    _write_table(plan, rows, folder / "samples.csv")
    labels = [labels[k] for k in shown]
    left_out = "" if len(shown) == len(rows) else f" ({len(shown)} of them shown)"
    constant = "".join(f", {name} {values[0]}" for name, values in plan.told.shown.items() if len(values) == 1)
    title, captions = f"{len(rows)} samples{left_out}, seed {plan.seed}{constant}", len(set(labels)) > len(labels) / 2
    few_, codec = small.finish(), plan.model.codec
    if compare:
        page = compared_grid(few_, codec, list(dict.fromkeys(labels)), f"The same noise in each column: {title}")
    else:
        page = samples_grid(few_, codec, labels, title, captions=captions)
    page.save(folder / "grid.png")
    written = ["grid.png", "images/", "samples.npy", "samples.csv"]
    if second is None or large is None:
        return written
    title = f"{len(rows)} samples of two stages{left_out}, seed {plan.seed}, augmentation {augmentation:g}"
    samples_grid(large.finish(), second.codec, labels, title, captions=captions).save(folder / "enlarged.png")
    return [*written, "enlarged.png", "enlarged/", "enlarged.npy"]


def _enlarged(
    plan: Plan,
    second: Model,
    rows: list[Row],
    values: Tensor,
    augmentation: float,
    progress: Callable[[int, int], None] | None,
) -> Tensor:
    """Samples made larger by a second stage, told the same."""
    from undiffuse.models.restoration import upscale_samples

    told = {
        name: [row.conditions.get(name) for row in rows]
        for name in plan.told.values
        if name in second.denoiser.conditions.settable
    }
    which = [row.index for row in rows]
    return upscale_samples(
        second, values, augmentation=augmentation, conditions=told, seed=plan.seed, index=which, progress=progress
    )


def _write_table(plan: Plan, rows: list[Row], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "seed", "index", *plan.told.values])
        for k, row in enumerate(rows):
            table.writerow([f"images/{k:05d}.png", plan.seed, row.index, *row.cells])


def draw_trajectory(plan: Plan, rows: list[Row], folder: Path) -> None:
    """Strips of the first sample, and an animation of one sample per row."""
    import torch

    from undiffuse.pictures.edits import TrajectoryRecorder
    from undiffuse.pictures.views import animate_reverse, forward_strip, reverse_strip
    from undiffuse.sampling.spacings import uniform

    model, recorder = plan.model, TrajectoryRecorder(plan.model.codec.shape)
    each = list({row.label: row for row in reversed(rows)}.values())[::-1]
    which = each if len(each) > 1 else rows
    for k, row in enumerate(which[: min(STRIP_EXAMPLES, len(recorder.examples))]):
        told, pulls = plan.split([row.conditions])
        for moment in model.trajectory(1, told, seed=plan.seed, first=row.index, **pulls, **plan.how(row.strength)):
            recorder.record("down", moment, torch.tensor([k]))
    moments = [moment for _, moment in recorder.moments]
    reverse_strip(moments, model.codec).save(folder / "reverse.png")
    levels = getattr(model.schedule, "levels", None) or uniform(model.schedule, 200)
    forward_strip(moments[-1].x[0], levels, model.codec, plan.seed).save(folder / "forward.png")
    animate_reverse(moments, model.codec, folder / "reverse.gif")
