"""plan.json: everything that is decided before a training, each with the rule that decided it.

    data, conditions, design   as in config.json: what is edited here is what is trained, and what is left out is the default
    start                      the run folder or model file that a fine-tuning starts from
    expected                   what a few updates measured on this machine: memory, and seconds of an update
    because                    why, by the name of what was decided

`undiffuse inspect` writes it, every run has one in its folder, and `undiffuse train --plan plan.json` follows it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import Field

from undiffuse.conditioning.base import Name
from undiffuse.conditioning.spec import Condition
from undiffuse.config import Config, as_file, stored
from undiffuse.data.config import DataConfig
from undiffuse.data.holes import missing_shares
from undiffuse.errors import UsageError
from undiffuse.networks.building import title_of
from undiffuse.runs.design import Design
from undiffuse.runs.progress import clock
from undiffuse.system import write_text

if TYPE_CHECKING:
    from undiffuse.runs.diffusion import Run
    from undiffuse.runs.prepare import Plan

PLAN = "plan.json"
MOST_UPDATES, MOST_SECONDS = 10, 3.0  # that are measured after the first, which is slower; one at least
# Kadkhodaie et al. 2024, figure 2: copies below 10^3 faces of 80×80, agreement of two halves from 10^4 on
EXPECT = (
    (1_000, "few: much of what is drawn will be copies; stop early, or start from a model of more data"),
    (10_000, "some copies are likely in a long training: watch the held-out error"),
    (float("inf"), "enough to draw what is new"),
)


class Expected(Config):
    """What a training takes, measured on the machine that made the plan."""

    parameters: int = Field(description="Parameters of the network that are trained.")
    memory: int | None = Field(
        description="Most bytes in use during an update: of the process, or of the GPU; None where nothing says it."
    )
    seconds_per_update: float = Field(description="Seconds of one update.")
    updates: int | None = Field(description="Updates of the whole training, as far as that is known.")
    seconds: float = Field(description="Seconds of the whole training, without saving and drawing.")

    def description(self) -> str:
        """One line."""
        updates = "" if self.updates is None else f"{self.updates:,} updates of {self.seconds_per_update:.3g} s, "
        memory = "" if self.memory is None else f", {self.memory / 1e9:.2g} GB of memory"
        return f"{updates}{clock(self.seconds)} in all{memory}"


class PlanFile(Config):
    """What plan.json holds."""

    data: DataConfig = Field(description="The data set, and how it is read.")
    conditions: dict[Name, Condition] = Field(description="The conditions by name.")
    design: Design = Field(description="The network, the process, the training and the sampling.")
    start: str | None = Field(None, description="The run folder or model file whose weights to start from.")
    expected: Expected | None = Field(None, description="What the training takes; not read.")
    because: dict[str, str] = Field(default_factory=dict, description="Why, by the name of what was decided; not read.")

    @classmethod
    def of(cls, plan: Plan, because: Mapping[str, str] | None = None, expected: Expected | None = None) -> PlanFile:
        """because: what was decided before the plan was made, such as the size of images."""
        config = plan.config
        return cls(
            data=config.data,
            conditions=config.conditions,
            design=config.design,
            start=plan.base.path if plan.base else None,
            expected=expected,
            because={**reasons(plan), **(because or {})},
        )

    @classmethod
    def read(cls, path: Path) -> PlanFile:
        """Raises UsageError, one sentence, for a file that is missing, no plan, or says what cannot be."""
        if not path.is_file():
            raise UsageError(f"there is no plan {path}: 'undiffuse inspect DATA' writes one.")
        found = stored(path, cls, "make it anew with 'undiffuse inspect DATA'")
        assert found is not None  # it is there
        return found

    def write(self, path: Path) -> None:
        """Writes plan.json."""
        write_text(path, as_file(self))

    def lines(self) -> list[str]:
        """What was decided and why, a line each."""
        found = [f"{name:12} {why}" for name, why in self.because.items()]
        return found + ([f"{'expected':12} {self.expected.description()}"] if self.expected else [])


def reasons(plan: Plan) -> dict[str, str]:
    """What was decided for a run and why, by the name of it."""
    config, prepared, codec = plan.config, plan.prepared, plan.codec
    design, training = config.design, config.design.training
    shape, on = "×".join(map(str, prepared.data.shape)), "CPU" if plan.device.type == "cpu" else "GPU"
    n, held_out = len(prepared.data), len(prepared.held_out)
    ends = f"{min(codec.low):g} to {max(codec.high):g}"
    found = {
        "data": f"{n:,} examples of {shape}, {codec.dtype}"
        + (f": {ends} become -1 to 1" if codec.kind == "integer" else ", by mean and deviation of the training part"),
        "split": f"{held_out:,} held out, {held_out / n:.0%}, to tell what is learned from what is copied"
        + (f"; equal values of {config.data.group} stay together" if config.data.group else "; copies stay together"),
    }
    if prepared.data.padded:
        found["lengths"] = (
            "unequal: padded to the longest, which counts for nothing; the network is told where each ends"
        )
    elif prepared.data.known is not None:
        share = float(np.mean(missing_shares(prepared.data)))
        found["missing"] = f"{share:.1%} of the numbers: out of the loss, and the network is told where"
    found["examples"] = next(text for most, text in EXPECT if n - held_out < most)
    names = ", ".join(f"{c.kind} {name}" if c.kind != name else name for name, c in config.conditions.items())
    if config.conditions or plan.declared:
        found["conditions"] = f"{names or 'none'}: " + (
            "as declared" if plan.declared else "what the data calls its classes"
        )
    else:
        found["conditions"] = "none: none is declared, and the data has no classes that differ"

    def why(rule: str, *paths: str) -> str:
        given = [each for each in plan.given for path in paths if each == path or each.startswith(f"{path}.")]
        return "as given" if given else rule

    preset = f"as {plan.chosen_by} says" if plan.chosen_by else None
    small = preset or (
        "as for all tables, docs/measurements/tables.md" if prepared.data.table else "as for all small data"
    )
    network = title_of(design.network)
    if preset is None and plan.base is None:
        size = getattr(design.network, "width", None)
        shown = f" of width {size}" if size else ""
        grid = "rows lie on no grid" if design.network.kind == "mlp" else f"for {shape} on a {on}"
        network += f"{shown}: " + why(f"{grid}, as large as is bearable there", "network")
    else:
        network += f": {preset or 'of the model it starts from'}"
    found["network"] = network
    end = f"{training.steps:,} updates" if training.steps else ""
    end += (" or " if end and training.budget else "") + (clock(training.budget) if training.budget else "")
    ends = why(small, "training.steps", "training.budget", "training.batch_size")
    found["training"] = f"{end} of {training.batch_size} examples: {ends}"
    if changes := [*design.augment.chosen, *(["mirror"] if design.augment.mirror else [])]:
        found["augment"] = f"{', '.join(changes)}: {why(small, 'augment')}"
    if training.balance:
        found["balance"] = f"{training.balance:g}, rare classes more often: {why(small, 'training.balance')}"
    process = why(small, "schedule", "prediction")
    found["process"] = f"{design.prediction} prediction on {design.schedule.name}: {process}"
    sampling = design.sampling
    best = preset or "the best score of 16 evaluations, docs/measurements/solvers.md"
    found["sampling"] = f"{sampling.solver}, {sampling.steps} steps: {why(best, 'sampling')}"
    return found


def measured(run: Run) -> Expected:
    """What a training takes, by a few updates of a run that is thrown away: nothing of it is written.

    The memory is the most that the process has had so far, data and preparing included; on a GPU, the most of this.
    """
    loop, training = run.loop, run.config.design.training
    if cuda := run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    ticks = [time.monotonic()]
    for _ in islice(loop.updates(run.batch), 1 + MOST_UPDATES):
        ticks.append(time.monotonic())
        if len(ticks) > 2 and ticks[-1] - ticks[1] > MOST_SECONDS:
            break
    after = ticks[1:] if len(ticks) > 2 else ticks  # a training of one update has no other
    seconds = median(now - before for before, now in pairwise(after))
    by_steps = (training.steps or float("inf")) * seconds
    whole = min(by_steps, training.budget or float("inf"))
    return Expected(
        parameters=loop.flat.parameter.numel(),
        memory=torch.cuda.max_memory_allocated(run.device) if cuda else _peak_of_process(),
        seconds_per_update=seconds,
        updates=round(whole / seconds) if whole < by_steps else training.steps,
        seconds=whole,
    )


def _peak_of_process() -> int | None:
    """The most bytes of memory that this process had so far; None on Windows."""
    try:
        from resource import RUSAGE_SELF, getrusage
    except ImportError:
        return None
    return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
