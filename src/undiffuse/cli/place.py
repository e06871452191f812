"""Where the results of a command are written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from undiffuse.errors import Failure, UsageError
from undiffuse.runs.results import ResultsFolder


def results_folder(run: Path, kind: str, out: Path | None) -> ResultsFolder:
    """`out`, or the next number of RUN/kind, looked at before any work.

    Raises UsageError for a folder that holds something already, Failure for one that cannot be written.
    """
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty, and nothing is written over: name another --out.")
    parent = (run if run.is_dir() else run.parent) / kind
    if run.exists():
        refuse_unwritable(parent if out is None else out)
    return ResultsFolder(parent) if out is None else ResultsFolder(out.parent, out.name)


def refuse_unwritable(path: Path) -> None:
    """Raises Failure for a file or folder, there or to be made, that cannot be written where it should be."""
    while not path.exists():
        path = path.parent
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise Failure(f"{path} cannot be written to ({error.strerror}): name a place that can be by --out.") from None
