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
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from undiffuse.data.dataset import Dataset
from undiffuse.data.pixels import (
    DESCRIBED,
    IMAGE_SUFFIXES,
    MUCH_CUT,
    Unreadable,
    deepened,
    mode_of,
    read_image,
    size_text,
)
from undiffuse.data.ranges import has_alpha, top_of
from undiffuse.errors import UsageError

LARGEST_SHARE_UNREADABLE = 0.01
HIDDEN = (".", "@", "__MACOSX")
OF_SYSTEMS = {"Thumbs.db", "desktop.ini"}
NAMED = 5  # of what a note counts


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


def first_few(things: Iterable[object]) -> str:
    """The first few, and how many more."""
    texts = [str(thing) for thing in things]
    return ", ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


def _classes(root: Path, files: list[Path]) -> tuple[list[str] | None, list[str]]:
    """The name of each file's sub-folder, None where all lie in the folder itself; and notes."""
    names = [path.relative_to(root).parts[0] if path.parent != root else None for path in files]
    if None in names:
        if any(names):
            raise UsageError(
                f"{root} holds images both in the folder itself and in sub-folders: sub-folders are classes, so put all "
                "images into sub-folders, or none."
            )
        return None, []
    deeper = list(
        dict.fromkeys(
            Path(*path.relative_to(root).parts[:2]) for path in files if len(path.relative_to(root).parts) > 2
        )
    )
    classes = list(dict.fromkeys(names))
    note = (
        f"classes are the folders right below {root} ({first_few(classes)}), and deeper ones are part of these ({first_few(deeper)}); "
        f"give {root / str(classes[0])} to have its own folders as classes"
    )
    return names, [note] if deeper else []  # type: ignore[return-value]


def _below(root: Path, path: Path) -> Path:
    """A path relative to root, where it lies below it."""
    return path.relative_to(root) if path.is_relative_to(root) else path


@dataclass(frozen=True)
class _Read:
    """What is remembered of one file.   mode: of the file, as converted, before it is brought to the depth of others."""

    mode: str
    size: tuple[int, ...]
    frames: int
    cut: float


@dataclass(frozen=True)
class ImageSet:
    """values: (N, C, H, W).   kept: which of the files they are.   notes: what was decided and left out."""

    values: np.ndarray
    kept: list[int]
    notes: tuple[str, ...]

    @property
    def mode(self) -> str:
        """The kind of their pixels, see pixels.py."""
        return mode_of(self.values[0])


class _Reading:
    """The one array that images are read into, as many at once as there are threads."""

    def __init__(
        self,
        files: Sequence[Path],
        channels: str | None,
        size: tuple[int, int] | None,
        fit: str,
        max_pixels: int | None,
    ) -> None:
        self.files, self.options, self.convert = files, (channels, size, fit, max_pixels), channels is not None
        self.values: np.ndarray | None = None
        self.lock = Lock()

    def __call__(self, row: int) -> _Read | Unreadable:
        """Reads a file into its row."""
        try:
            picture = read_image(self.files[row], *self.options)
        except Unreadable as problem:
            return problem
        given = picture.values
        with self.lock:
            if self.values is None:
                self.values = np.zeros((len(self.files), *given.shape), given.dtype)
            elif (
                self.convert and given.dtype == np.uint16 and self.values.dtype == np.uint8
            ):  # one kind was set: the one that keeps all
                self.values = deepened(self.values)
            given = deepened(given) if self.convert and self.values.dtype == np.uint16 else given
            if self.values.shape[1:] == given.shape and self.values.dtype == given.dtype:
                self.values[row] = given
        return _Read(picture.mode, picture.values.shape[1:], picture.frames, picture.cut)


def read_images(
    root: Path,
    files: Sequence[Path],
    size: tuple[int, int] | None = None,
    fit: str = "crop",
    channels: str | None = None,
    max_pixels: int | None = None,
) -> ImageSet:
    """Reads files in parallel into one array.   root: for messages.   The rest: see `pixels.read_image`.

    Raises UsageError where more than 1 % cannot be read, or sizes or kinds of pixel differ.
    """
    reading = _Reading(files, channels, size, fit, max_pixels)
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(reading, range(len(files))))
    bad = [(path, result) for path, result in zip(files, results, strict=True) if isinstance(result, Unreadable)]
    listed = "; ".join(f"{_below(root, path)} ({problem})" for path, problem in bad[:10])
    listed += f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    if len(bad) > LARGEST_SHARE_UNREADABLE * len(files):
        raise UsageError(f"{len(bad)} of {len(files)} images in {root} cannot be read: {listed}. Fix or remove them.")
    kept = [row for row, result in enumerate(results) if isinstance(result, _Read)]
    pictures = {files[row]: result for row, result in enumerate(results) if isinstance(result, _Read)}
    _same(root, pictures, channels is not None)
    values = reading.values
    assert values is not None  # some file was read
    for row, of in enumerate(kept if bad else []):
        values[row] = values[of]
    shallow = [
        place
        for place, row in enumerate(kept)
        if values.dtype == np.uint16 and not results[row].mode.endswith(";16")  # type: ignore[union-attr]
    ]
    bits = _of_one_depth(values[: len(kept)], shallow)
    notes = [f"skipped {len(bad)} of {len(files)} images that cannot be read: {listed}"] if bad else []
    return ImageSet(values[: len(kept)], kept, (*notes, *_decided(root, pictures, bits)))


def _of_one_depth(values: np.ndarray, shallow: list[int]) -> int:
    """Brings images of 8 bits among deeper ones, read as 16 bits, to the bits that the others use: white of scans of 12 bits is 4095.

    values: (N, C, H, W), changed in place.   shallow: the rows of 8 bits.   Returns the bits; 16 where nothing had to be brought anywhere.
    """
    deep = np.setdiff1d(np.arange(len(values)), shallow)
    if not shallow or not len(deep):
        return 16
    colour = slice(0, -1 if has_alpha(mode_of(values[0])) else None)
    top = top_of(max(int(values[row, colour].max()) for row in deep))
    for row in shallow if top < 65535 else []:
        values[row, colour] = (values[row, colour] / 65535 * top).round()
    return top.bit_length()


def _decided(root: Path, pictures: dict[Path, _Read], bits: int) -> list[str]:
    """What reading decided of images, a sentence each.   bits: those that images of 8 bits were brought to, where there are deeper ones."""
    several = [f"{_below(root, path)} ({picture.frames})" for path, picture in pictures.items() if picture.frames > 1]
    cut = [f"{_below(root, path)} ({picture.cut:.0%})" for path, picture in pictures.items() if picture.cut > MUCH_CUT]
    eight = [_below(root, path) for path, picture in pictures.items() if not picture.mode.endswith(";16")]
    shallow = eight if len(eight) < len(pictures) else []
    inside = root.resolve()
    outside = [_below(root, path) for path in pictures if not path.resolve().is_relative_to(inside)]
    counted = (
        (several, "several pages or frames: the first is used"),
        (cut, "more than a quarter of the picture cut away by cropping; `fit` pad or stretch keeps all of it"),
        (shallow, f"8 bits, white brought to the {2**bits - 1} of the {bits} bits that the others use"),
        (outside, f"their place outside {root}, and are read there"),
    )
    return [
        f"{len(paths)} of {len(pictures)} images have {what} ({first_few(paths)})" for paths, what in counted if paths
    ]


def _same(root: Path, pictures: dict[Path, _Read], convert: bool) -> None:
    """Raises UsageError where sizes or kinds of pixel differ, naming an example of each of the two commonest."""
    kinds: list[tuple[str, Callable[[_Read], str], str]] = [
        (
            "sizes",
            lambda p: size_text(p.size[-2:]),
            "`size` {} (resizes, cropping to fit; `fit` pad or stretch instead)",
        ),
        ("kinds of pixel", lambda p: DESCRIBED[p.mode], "`channels` grey, rgb or rgba"),
    ]
    for what, of, fix in kinds:
        if convert and what == "kinds of pixel":
            continue
        groups: dict[str, list[Path]] = {}
        for path, picture in pictures.items():
            groups.setdefault(of(picture), []).append(path)
        if len(groups) > 1:
            first, second = sorted(groups.items(), key=lambda item: -len(item[1]))[:2]
            raise UsageError(
                f"{root} holds images of {len(groups)} {what}: {len(first[1])} are {first[0]} "
                f"(such as {_below(root, first[1][0])}), {len(second[1])} are {second[0]} "
                f"(such as {_below(root, second[1][0])}). Make them one with {fix.format(first[0].split()[0].replace('×', 'x'))}."
            )


def image_folder(
    root: Path,
    size: tuple[int, int] | None = None,
    fit: str = "crop",
    channels: str | None = None,
    max_pixels: int | None = None,
) -> Dataset:
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
    labels, notes = _classes(root, found.files)
    images = read_images(root, found.files, size, fit, channels, max_pixels)
    names: tuple[str, ...] = tuple(sorted(set(labels))) if labels else ()
    place = {name: k for k, name in enumerate(names)}
    return Dataset(
        name=root.resolve().name,
        values=images.values,
        labels=np.array([place[labels[i]] for i in images.kept], dtype=np.int64) if labels else None,
        classes=names,
        mode=images.mode,
        columns={"file": np.array([found.files[i].relative_to(root).as_posix() for i in images.kept])},
        root=root,
        notes=(*images.notes, *found.notes(), *notes),
    )
