"""metrics.jsonl: one JSON object a line, appended while training by the hook `MetricsLog`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undiffuse.config import finite
from undiffuse.errors import UsageError
from undiffuse.system import write_text
from undiffuse.training.cadence import Cadence
from undiffuse.training.loop import TrainingLoop, Update

SECONDS = 1.0  # between two lines


class MetricsLog:
    """The hook that appends a line about once a second, for every update that was skipped, and for the last one."""

    name = "metrics.jsonl"

    def __init__(self, path: Path) -> None:
        self.path, self.cadence, self._step = path, Cadence(SECONDS, share=1.0), 0

    def check(self) -> None:
        """Raises UsageError for a file that this program did not write."""
        _kept(self.path, math.inf)

    def resume(self, step: int) -> None:
        """Goes on after this step: what was logged later, also by a run that was killed before it saved anything, is dropped.

        Raises UsageError as `check` does.
        """
        write_text(self.path, "".join(line + "\n" for line in _kept(self.path, step)))
        self._step = step

    def due(self, update: Update) -> bool:
        """Whether this update gets a line."""
        return update.status != "fine" or self.cadence.due()

    def __call__(self, loop: TrainingLoop, update: Update) -> None:
        if update.step > self._step:
            with self.cadence.working(), open(self.path, "a", encoding="utf-8") as file:
                file.write(line_of(vars(update)))
            self._step = update.step


def line_of(values: Mapping[str, Any]) -> str:
    """One line of strict JSON, which has no NaN: null stands for it."""
    return json.dumps(finite(values), allow_nan=False) + "\n"


def _kept(path: Path, step: float) -> list[str]:
    """The lines up to a step. One that a kill cut short, and is no JSON, counts as later than any."""
    if not path.exists():
        return []
    kept, fix = [], "fix or remove it, and repeat the command"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is damaged, it is no text in UTF-8: {fix}.") from None
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        of = found.get("step") if isinstance(found, dict) else None
        if not isinstance(of, int | float):
            raise UsageError(f"line {number} of {path} is damaged, it does not say its step: {fix}.")
        kept += [line] if of <= step else []
    return kept
