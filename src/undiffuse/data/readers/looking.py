"""What a folder holds mostly, by the suffixes of its first files."""

from __future__ import annotations

import os
from collections import Counter
from functools import lru_cache
from itertools import islice
from pathlib import Path

LOOKED_AT = 2000  # files


def holds_mostly(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether more of the first files below a folder end in one of these than in any other suffix that is data."""
    if not folder.is_dir():
        return False
    counts = _suffixes(str(folder.resolve()), folder.stat().st_mtime_ns)
    mine = sum(count for name, count in counts if name.endswith(suffixes))
    return mine > 0 and mine >= max(
        (count for name, count in counts if not name.endswith((*suffixes, *BESIDE))), default=0
    )


BESIDE = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".yaml", ".yml", ".xml", "")  # lies beside data of any kind


@lru_cache(maxsize=64)
def _suffixes(folder: str, changed: int) -> tuple[tuple[str, int], ...]:
    """How many files end in each suffix, .nii.gz as one.   changed: when the folder did."""
    names = (name.lower() for _, _, files in os.walk(folder) for name in files if not name.startswith("."))
    counts = Counter(_suffix(name) for name in islice(names, LOOKED_AT))
    return tuple(counts.items())


def _suffix(name: str) -> str:
    """The suffix of a name, .nii.gz as one."""
    stem, suffix = os.path.splitext(name)
    return os.path.splitext(stem)[1] + suffix if suffix == ".gz" else suffix
