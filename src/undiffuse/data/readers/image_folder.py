"""A folder of images.  Sub-folders are classes.

Grey stays grey, alpha and 16 bits are kept, nothing is converted unless you ask for it.  Decisions are reported in notes, and what
is left out is counted and named:

    folders         those whose names begin with ., @ or __MACOSX are no data, nor are run folders of this package
    links           are followed, to files and to folders, wherever they lead: hub snapshots, DVC and datalad are folders of links.
                    A folder is read once, so loops end
    classes         are the folders right below; deeper ones belong to these
    files           that cannot be read are skipped, and more than 1 % of them stop the work
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.images import NAMED, first_few, read_images
from undiffuse.data.pixels import IMAGE_SUFFIXES, Openable
from undiffuse.errors import UsageError

HIDDEN = (".", "@", "__MACOSX")
OF_SYSTEMS = {"Thumbs.db", "desktop.ini"}


@dataclass
class Found:
    """root: the folder.   files: image files, sorted.   The rest is left out, as paths relative to the folder."""

    root: Path
    files: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    dangling: list[Path] = field(default_factory=list)
    again: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)

    def notes(self) -> list[str]:
        """A sentence for each kind of what was left out."""
        known = {path.with_suffix(".txt") for path in self.files}
        others = [
            path for path in self.others if self.root / path not in known
        ]  # captions beside pictures are read or offered, see tables.py
        suffixes = Counter(path.suffix.lower() or path.name for path in others)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(NAMED))
        counted = (
            (others, "file", f"no image known here ({kinds})"),
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


def find(root: Path) -> Found:
    """The images below a folder."""
    found, read = Found(root), {root.resolve()}

    def walk(folder: Path) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name))
        except OSError:
            found.closed.append(folder.relative_to(root))
            return
        for entry in entries:
            path = Path(entry.path)
            relative = path.relative_to(root)
            if entry.is_dir():
                if entry.name.startswith(HIDDEN):
                    found.hidden.append(relative)
                elif is_run(path):
                    found.runs.append(relative)
                elif (real := path.resolve()) in read:
                    found.again.append(relative)
                else:
                    read.add(real)
                    walk(path)
            elif entry.name.startswith(".") or entry.name in OF_SYSTEMS:
                continue
            elif not path.exists():
                found.dangling.append(relative)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                found.files.append(path)
            else:
                found.others.append(relative)

    walk(root)
    found.files.sort(key=lambda path: (path.parts[:-1], path.name))
    return found


def classes_of(root: Path, names: Sequence[str]) -> tuple[list[str] | None, list[str]]:
    """The first folder of each image's name, None where all lie in the root itself; and notes."""
    parts = [PurePosixPath(name).parts for name in names]
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


def images_by_name(root: Path, files: Sequence[Openable], names: Sequence[str], config: DataConfig) -> Dataset:
    """The images of a folder or an archive, whose folders are classes; the column `file` has their names."""
    labels, notes = classes_of(root, names)
    images = read_images(root, files, names, config.size, config.fit, config.channels, config.max_pixels)
    classes: tuple[str, ...] = tuple(sorted(set(labels))) if labels else ()
    place = {name: k for k, name in enumerate(classes)}
    return Dataset(
        name=root.resolve().name,
        values=images.values,
        labels=np.array([place[labels[i]] for i in images.kept], dtype=np.int64) if labels else None,
        classes=classes,
        mode=images.mode,
        columns={"file": np.array([names[i] for i in images.kept])},
        root=root,
        notes=(*images.notes, *notes),
    )


def image_folder(root: Path, config: DataConfig) -> Dataset:
    """All images below root, of one size and kind of pixel after `size` (height, width) and `channels` (grey, rgb, rgba)."""
    if is_run(root):
        raise UsageError(
            f"{root} is a run of this package, not data: give a folder of images, such as {root / 'samples'} for what it drew."
        )
    found = find(root)
    if not found.files:
        left = "; ".join(found.notes()) or "nothing"
        raise UsageError(
            f"there are no images in {root}, {left}. It should hold .png, .jpg, .webp, .bmp, .tif or .gif files."
        )
    data = images_by_name(root, found.files, [path.relative_to(root).as_posix() for path in found.files], config)
    return replace(data, folder=root, notes=(*data.notes, *found.notes()))
