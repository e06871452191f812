"""Folders of files: which of them are data, what the others are, and classes from sub-folders.

    folders         those whose names begin with ., @ or __MACOSX are no data, nor are run folders of this package
    links           are followed, to files and to folders, wherever they lead: hub snapshots, DVC and datalad are folders of links.
                    A folder is read once, so loops end
    classes         are the folders right below; deeper ones belong to these

What is left out is counted and named.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from undiffuse.data.images import NAMED, first_few
from undiffuse.data.large_arrays import allocated
from undiffuse.data.pixels import IMAGE_SUFFIXES
from undiffuse.errors import UsageError

HIDDEN = (".", "@", "__MACOSX")
OF_SYSTEMS = {"Thumbs.db", "desktop.ini"}
LOOKED_AT = 2000  # files, to see what a folder holds mostly
BESIDE = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".md", ".yaml", ".yml", ".xml", "")  # lies beside data of any kind


@dataclass
class Found:
    """root: the folder.   what: its files of data are.   files: these, sorted.   names: theirs, relative to the folder.

    The rest is left out, as paths relative to the folder.
    """

    root: Path
    what: str
    files: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    dangling: list[Path] = field(default_factory=list)
    again: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A sentence for each kind of what was left out."""
        texts = {path for path in self.others if path.suffix == ".txt"}
        known = {Path(name).with_suffix(".txt") for name in self.names} if texts else set()
        others = [
            path for path in self.others if path not in known
        ]  # captions beside pictures are read or offered, see tables.py
        suffixes = Counter(path.suffix.lower() or path.name for path in others)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(NAMED))
        counted = (
            (others, "file", f"no {self.what} known here ({kinds})"),
            (self.hidden, "folder", f"a name that begins with {', '.join(HIDDEN[:2])} or {HIDDEN[2]}"),
            (self.runs, "folder", "a run of this package, not data"),
            (self.dangling, "link", "it leads nowhere; 'git annex get' or 'dvc pull' fetch such files"),
            (self.again, "link", "it leads to a folder that is read already"),
            (self.closed, "folder", "it may not be read: change its permissions"),
        )
        return [
            f"left out {len(paths)} {what}{'s' * (len(paths) > 1)}, {first_few(paths)}: {why}"
            for paths, what, why in counted
            if paths
        ]


def is_run(folder: Path) -> bool:
    """Whether training wrote a folder."""
    return (folder / "config.json").is_file() and any(
        (folder / name).exists() for name in ("metrics.jsonl", "state", "model.safetensors")
    )


def find(root: Path, suffixes: Collection[str] = IMAGE_SUFFIXES, what: str = "image") -> Found:
    """The files of these suffixes below a folder, in whatever case.   what: one of them is, for notes."""
    found, read, ends = Found(root, what), {root.resolve()}, tuple(suffixes)
    named: list[tuple[list[str], str]] = []  # (the folders of a file, its own name), which sort as people expect
    linked: list[str] = []  # folders that links lead to: after all others, so that a folder is read under its own name

    def walk(inside: str) -> None:
        try:
            entries = sorted(os.scandir(root / inside), key=lambda entry: entry.name)
        except OSError:
            found.closed.append(Path(inside))
            return
        folders = inside.split("/") if inside else []
        for entry in entries:  # a million of them may be files: no paths are made of those
            relative = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir():
                if entry.name.startswith(HIDDEN):
                    found.hidden.append(Path(relative))
                elif is_run(root / relative):
                    found.runs.append(Path(relative))
                elif entry.is_symlink():
                    linked.append(relative)
                else:
                    enter(relative)
            elif entry.name.startswith(".") or entry.name in OF_SYSTEMS:
                continue
            elif entry.is_symlink() and not os.path.exists(entry.path):
                found.dangling.append(Path(relative))
            elif entry.name.lower().endswith(ends):
                named.append((folders, entry.name))
            else:
                found.others.append(Path(relative))

    def enter(inside: str) -> None:
        if (real := (root / inside).resolve()) in read:
            found.again.append(Path(inside))
        else:
            read.add(real)
            walk(inside)

    walk("")
    while linked:
        enter(linked.pop(0))
    found.names = ["/".join([*folders, name]) for folders, name in sorted(named)]
    found.files = [root / name for name in found.names]
    return found


def classes_of(root: Path, names: Sequence[str]) -> tuple[list[str] | None, list[str]]:
    """The first folder of each image's name, None where all lie in the root itself; and notes."""
    parts = [name.split("/") for name in names]
    folders = [each[0] if len(each) > 1 else None for each in parts]
    if None in folders:
        if any(folders):
            raise UsageError(
                f"{root} holds images both in the folder itself and in sub-folders: sub-folders are classes, so put all "
                "images into sub-folders, or none."
            )
        return None, []
    deeper = list(dict.fromkeys("/".join(each[:2]) for each in parts if len(each) > 2))
    classes = list(dict.fromkeys(folders))
    note = (
        f"classes are the folders right below {root} ({first_few(classes)}), and deeper ones are part of these ({first_few(deeper)}); "
        f"give {root / str(classes[0])} to have its own folders as classes"
    )
    return folders, [note] if deeper else []  # type: ignore[return-value]


def holds_mostly(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether more of the first files below a folder end in one of these than in any other suffix that is data."""
    if not folder.is_dir():
        return False
    counts = _suffixes(str(folder.resolve()), folder.stat().st_mtime_ns)
    mine = sum(count for name, count in counts if name.endswith(suffixes))
    return mine > 0 and mine >= max(
        (count for name, count in counts if not name.endswith((*suffixes, *BESIDE))), default=0
    )


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


def stacked(root: Path, names: Sequence[str], arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Arrays of files as one, (N, …). Raises UsageError, naming two files, where shapes or types differ.   root, names: for messages."""
    values = np.empty(0)
    for row, array in enumerate(arrays):
        if row == 0:
            values = allocated((len(names), *array.shape), array.dtype)
        if array.shape != values.shape[1:] or array.dtype != values.dtype:
            raise UsageError(
                f"{names[row]} is {array.shape} of {array.dtype}, and {names[0]} {values.shape[1:]} of {values.dtype}: bring all of {root} to one "
                "size and type."
            )
        values[row] = array
    return values
