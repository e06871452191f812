"""Samples in the order in which they are made, and what is written of them: arrays, images, a table, sheets and strips."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from undiffuse.cli import shared
from undiffuse.errors import UsageError
from undiffuse.runs.progress import STEPS_COLUMN, progress_bar, steps_shown

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor

    from undiffuse.conditioning.condition_grid import ConditionGrid
    from undiffuse.models.classifier import Classifier
    from undiffuse.models.model import Model
    from undiffuse.sampling.classifier_guidance import Guide

STRIP_EXAMPLES = 10
MOST_ROWS = 10
COMPARED = 10  # samples of each row, when -n is left out


@dataclass(frozen=True)
class Sample:
    """One sample to be made.   strength: of guidance, None for that of the settings.   cells: of the table.   index: of the seed."""

    conditions: dict[str, Any]
    strength: float | None
    label: str
    cells: list[str]
    index: int


@dataclass(frozen=True)
class Sampler:
    """How samples are made.   conditions: of them.   strengths: of guidance, one after the other.   first: index of the first in the seed.

    sampling: its settings.   guidance: what else Model.sample takes for it.   classifier: that guides them, in the way `guide`.
    """

    model: Model
    conditions: ConditionGrid
    strengths: list[float | None]
    sampling: dict[str, Any]
    guidance: dict[str, Any]
    classifier: Classifier | None
    guide: dict[str, Any]
    seed: int
    first: int

    def choices(self) -> list[tuple[dict[str, Any], float | None, str, list[str]]]:
        """Every combination of values and strengths: (conditions, strength, label, cells of a table)."""
        values = self.conditions
        each = list(zip(values.combinations(), values.labels(), values.cells(), strict=True))
        if len(self.strengths) == 1:
            return [(conditions, self.strengths[0], label, cells) for conditions, label, cells in each]
        return [
            (conditions, strength, f"{label}, guidance {strength:g}".removeprefix(", "), cells)
            for strength in self.strengths
            for conditions, label, cells in each
        ]

    def samples(self, n: int | None, compare: bool) -> list[list[Sample]]:
        """The samples in the order in which they are made: for each strength, in the order of the choices."""
        choices = self.choices()
        total = n or (10 * len(choices) if 1 < len(choices) <= MOST_ROWS else 64)
        each = math.ceil(total / len(choices))
        if compare:
            each, total = n or COMPARED, (n or COMPARED) * len(choices)
        samples = [Sample(*choices[k // each], self.first + (k % each if compare else k)) for k in range(total)]
        return [[sample for sample in samples if sample.strength == strength] for strength in self.strengths]

    def settings(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The settings of sampling for samples of one strength."""
        return self.sampling | ({} if samples[0].strength is None else {"guidance": samples[0].strength})

    def columns(self, samples: Sequence[Sample]) -> dict[str, list[Any]]:
        """The conditions of samples by name, a value for each."""
        return {name: [each.conditions.get(name) for each in samples] for name in self.conditions.values}

    def arguments(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The arguments of Model.sample for samples of one strength."""
        conditions = self.columns(samples)
        guides: tuple[Guide, ...] = ()
        if self.classifier is not None:
            name, kind = self.classifier.config.name, self.classifier.config.target.kind
            if name not in conditions:
                raise UsageError(
                    f"the classifier guides towards a value of {name!r}: say which, as in --{kind} {name}=…"
                )
            guides = (self.classifier.guide(conditions[name], len(samples), **self.guide),)
            if name not in self.model.denoiser.conditions.settable:
                del conditions[name]
        given = self.model.with_lengths(conditions, self.seed, _indices(samples))
        common = {"conditions": given, "seed": self.seed, "guides": guides}
        return common | self.guidance | self.settings(samples)

    def lengths(self, samples: Sequence[Sample]) -> list[int] | None:
        """How many positions each of these samples has, of a model of sequences of unequal length; None where all have all."""
        known = self.model.denoiser.conditions.known
        if known is None or known.config.length is None:
            return None
        given = self.model.with_lengths(self.columns(samples), self.seed, _indices(samples))[known.config.length]
        return known.before_ends(cast(list[object], given)).reshape(len(samples), -1).sum(1).tolist()

    def batches(self, groups: Sequence[Sequence[Sample]], bar: Progress) -> Iterator[tuple[Sequence[Sample], Tensor]]:
        """The samples, some at a time, with a bar for each group of one strength. Complains before anything is drawn."""
        model = self.model
        for group in groups:
            model.sample_in_batches(len(group), **self.arguments(group))
        for group in groups:
            sampling = model.sampling_config(**self.settings(group))
            steps = len(sampling.build_levels(model.schedule)) - 1
            what = "sampling" if len(groups) == 1 else f"guidance {group[0].strength:g}"
            done, progress, index = 0, steps_shown(bar, what, steps), [sample.index for sample in group]
            for values in model.sample_in_batches(len(group), index=index, progress=progress, **self.arguments(group)):
                yield group[done : done + len(values)], values
                done += len(values)


def _indices(samples: Sequence[Sample]) -> Tensor:
    import torch

    return torch.tensor([sample.index for sample in samples])


def write_samples(
    sampler: Sampler,
    groups: Sequence[Sequence[Sample]],
    compare: bool,
    folder: Path,
    second: Model | None,
    augmentation: float,
) -> list[str]:
    """Samples, and makes them larger where there is a second stage; returns the names of what was written.

    augmentation: standard deviation of the noise that is added to the samples before.
    """
    from undiffuse.models.restoration import upscale_samples
    from undiffuse.pictures.stored import ExampleWriter, shown_examples
    from undiffuse.pictures.views import compared_grid, samples_grid

    samples, codec = [sample for group in groups for sample in group], sampler.model.codec
    n, shown = len(samples), shown_examples([sample.label for sample in samples])
    small = ExampleWriter(folder, "samples", "images", codec.config, n, shown, sampler.model.config.file_format)
    with progress_bar(STEPS_COLUMN) as bar:
        if second is not None:
            kept = second.config.file_format
            large = ExampleWriter(folder, "enlarged", "enlarged", second.config.codec, n, shown, kept, "enlarged-files")
            enlarging = steps_shown(bar, "enlarging")
        lengths: list[int] = []
        for some, values in sampler.batches(groups, bar):
            ends = sampler.lengths(some)
            small.add(values, ends)
            lengths += ends or []
            if second is not None:
                known = second.denoiser.conditions.settable
                how: dict[str, Any] = {"index": [sample.index for sample in some], "seed": sampler.seed}
                how["conditions"] = {name: each for name, each in sampler.columns(some).items() if name in known}
                large.add(upscale_samples(second, values, augmentation=augmentation, progress=enlarging, **how))
    with open(folder / "samples.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        drawn = lengths if "length" not in sampler.conditions.values else []
        table.writerow(["file", "seed", "index", *sampler.conditions.values, *(["length"] if drawn else [])])
        for k, sample in enumerate(samples):
            table.writerow([small.name_of(k), sampler.seed, sample.index, *sample.cells, *drawn[k : k + 1]])
    labels = [samples[k].label for k in shown]
    left_out = "" if len(shown) == n else f" ({len(shown)} of them shown)"
    constant = [f", {name} {values[0]}" for name, values in sampler.conditions.shown.items() if len(values) == 1]
    title = f"{n} samples{left_out}, seed {sampler.seed}{''.join(constant)}"
    captions = len(set(labels)) > len(labels) / 2
    given = sampler.columns(samples)
    if compare:
        rows = list(dict.fromkeys(labels))
        page = compared_grid(small.finish(given), codec, rows, f"The same noise in each column: {title}")
    else:
        page = samples_grid(small.finish(given), codec, labels, title, captions=captions)
    page.save(folder / "grid.png")
    if small.repaired:
        shared.note(f"{small.repaired:,} of {n:,} rows had a relation to be repaired: a gap was too small")
    of_table = [] if small.table is None else [small.table.name]
    written = [
        "grid.png",
        *(of_table or ["images/"]),
        *(["files/"] if small.files else []),
        "samples.npy",
        "samples.csv",
    ]
    if second is None:
        return written
    title = f"{n} samples of two stages{left_out}, seed {sampler.seed}, augmentation {augmentation:g}"
    samples_grid(large.finish(), second.codec, labels, title, captions=captions).save(folder / "enlarged.png")
    return [*written, "enlarged.png", "enlarged/", *(["enlarged-files/"] if large.files else []), "enlarged.npy"]


def draw_trajectories(sampler: Sampler, groups: Sequence[Sequence[Sample]], folder: Path) -> list[str]:
    """Strips of the first sample, and an animation of one sample of each label; returns the names of the files."""
    import torch

    from undiffuse.pictures.edits import TrajectoryRecorder
    from undiffuse.pictures.views import draw_trajectory
    from undiffuse.sampling.spacings import uniform

    model, samples = sampler.model, [sample for group in groups for sample in group]
    recorder, first = TrajectoryRecorder(model.codec.shape), dict[str, Sample]()
    for sample in samples:
        first.setdefault(sample.label, sample)
    chosen = list(first.values()) if len(first) > 1 else samples
    for k, sample in enumerate(chosen[: min(STRIP_EXAMPLES, len(recorder.examples))]):
        for step in model.trajectory(1, first=sample.index, **sampler.arguments([sample])):
            recorder.record("down", step, torch.tensor([k]))
    levels = getattr(model.schedule, "levels", None) or uniform(model.schedule, 200)
    return draw_trajectory([step for _, step in recorder.moments], levels, model.codec, sampler.seed, folder)
