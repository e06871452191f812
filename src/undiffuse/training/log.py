"""metrics.jsonl: one JSON object a line, appended while training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undiffuse.errors import UsageError
from undiffuse.system import write_text


def line_of(values: Mapping[str, Any]) -> str:
    """One line of strict JSON, which has no NaN: null stands for it."""
    finite = {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def check_log(path: Path) -> None:
    """Raises UsageError for a file that this program did not write so."""
    _kept(path, math.inf)


def drop_after(path: Path, step: int) -> None:
    """Forgets what was logged after the checkpoint that training resumes from. Raises UsageError as `check` does."""
    if path.exists():
        write_text(path, "".join(line + "\n" for line in _kept(path, step)))


def _kept(path: Path, step: float) -> list[str]:
    """The lines up to a step. One that a kill cut short, and is no JSON, counts as later than any."""
    if not path.exists():
        return []
    kept, mend = [], "mend or remove it, and repeat the command"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is damaged, it is no text in UTF-8: {mend}.") from None
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except ValueError:
            continue
        of = found.get("step") if isinstance(found, dict) else None
        if not isinstance(of, int | float):
            raise UsageError(f"line {number} of {path} is damaged, it does not say its step: {mend}.")
        kept += [line] if of <= step else []
    return kept
