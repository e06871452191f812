"""Many image files as one array, decoded in parallel.

Grey stays grey, alpha and 16 bits are kept, nothing is converted unless you ask for it.  Files that cannot be read are skipped and named, and
more than 1 % of them stop the work.  Decisions are reported in notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np

from undiffuse.data.file_formats import FileFormat
from undiffuse.data.pixels import (
    DESCRIBED,
    MUCH_CUT,
    WIDE,
    Openable,
    Unreadable,
    deepened,
    mode_of,
    read_image,
    size_text,
)
from undiffuse.data.ranges import has_alpha, top_of
from undiffuse.errors import UsageError

LARGEST_SHARE_UNREADABLE = 0.01
NAMED = 5  # of what a note counts


def first_few(things: Iterable[object]) -> str:
    """The first few, and how many more."""
    texts = [str(thing) for thing in things]
    return ", ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


@dataclass(frozen=True)
class _Read:
    """What is remembered of one file.   mode: of the file, as converted, before it is brought to the depth of others."""

    mode: str
    size: tuple[int, ...]
    frames: int
    cut: float
    converted: str


@dataclass(frozen=True)
class ImageSet:
    """values: (N, C, H, W).   kept: which of the files they are.   notes: what was decided and left out."""

    values: np.ndarray
    kept: list[int]
    notes: tuple[str, ...]

    @property
    def mode(self) -> str | None:
        """The kind of their pixels, see pixels.py; None for floats and whole numbers of 32 bits, which are arrays like others."""
        kind = mode_of(self.values[0])
        return None if kind in WIDE else kind

    @property
    def file_format(self) -> FileFormat | None:
        """The files that floats and whole numbers of 32 bits are written in; None for those that are pictures."""
        return None if self.mode else FileFormat(kind="tiff", suffix=".tif", dtype=self.values.dtype.name)


class _Reading:
    """The one array that images are read into, as many at once as there are threads."""

    def __init__(
        self,
        files: Sequence[Openable],
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
        return _Read(picture.mode, picture.values.shape[1:], picture.frames, picture.cut, picture.converted)


def read_images(
    root: Path,
    files: Sequence[Openable],
    names: Sequence[str],
    size: tuple[int, int] | None = None,
    fit: str = "crop",
    channels: str | None = None,
    max_pixels: int | None = None,
) -> ImageSet:
    """Reads files in parallel into one array.   root, names: what they are in, and what they are called there.   The rest: see `pixels.read_image`.

    Raises UsageError where more than 1 % cannot be read, or sizes or kinds of pixel differ.
    """
    reading = _Reading(files, channels, size, fit, max_pixels)
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(reading, range(len(files))))
    bad = [(name, result) for name, result in zip(names, results, strict=True) if isinstance(result, Unreadable)]
    listed = "; ".join(f"{name} ({problem})" for name, problem in bad[:10])
    listed += f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    if len(bad) > LARGEST_SHARE_UNREADABLE * len(files):
        raise UsageError(f"{len(bad)} of {len(files)} images in {root} cannot be read: {listed}. Fix or remove them.")
    kept = [row for row, result in enumerate(results) if isinstance(result, _Read)]
    pictures = [(names[row], result) for row, result in enumerate(results) if isinstance(result, _Read)]
    _same(root, pictures, channels is not None)
    outside = [names[row] for row in kept if _outside(root, files[row])]
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
    return ImageSet(values[: len(kept)], kept, (*notes, *_decided(root, pictures, outside, bits)))


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


def _outside(root: Path, file: Openable) -> bool:
    """Whether a file is a link to a place outside the folder."""
    return isinstance(file, Path) and not file.resolve().is_relative_to(root.resolve())


def _decided(root: Path, pictures: Sequence[tuple[str, _Read]], outside: list[str], bits: int) -> list[str]:
    """What reading decided of images, a sentence each.   bits: those that images of 8 bits were brought to, where there are deeper ones."""
    several = [f"{name} ({picture.frames})" for name, picture in pictures if picture.frames > 1]
    cut = [f"{name} ({picture.cut:.0%})" for name, picture in pictures if picture.cut > MUCH_CUT]
    eight = [name for name, picture in pictures if not picture.mode.endswith((";16", *WIDE))]
    turned = [f"{name} ({picture.converted})" for name, picture in pictures if picture.converted]
    shallow = eight if len(eight) < len(pictures) else []
    counted = (
        (several, "several pages or frames: the first is used"),
        (cut, "more than a quarter of the picture cut away by cropping; `fit` pad or stretch keeps all of it"),
        (shallow, f"8 bits, white brought to the {2**bits - 1} of the {bits} bits that the others use"),
        (turned, "colours that are not grey or RGB, and are converted to RGB"),
        (outside, f"their place outside {root}, and are read there"),
    )
    return [
        f"{len(paths)} of {len(pictures)} images have {what} ({first_few(paths)})" for paths, what in counted if paths
    ]


def _width(picture: _Read) -> str:
    """What no conversion makes one of: pixels of 8 and 16 bits are one, floats and whole numbers of 32 bits are not."""
    return DESCRIBED[picture.mode] if picture.mode in WIDE else "8 or 16 bits"


def _same(root: Path, pictures: Sequence[tuple[str, _Read]], convert: bool) -> None:
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
            of, fix = _width, "a folder for each of them"
        groups: dict[str, list[str]] = {}
        for name, picture in pictures:
            groups.setdefault(of(picture), []).append(name)
        if len(groups) > 1:
            first, second = sorted(groups.items(), key=lambda item: -len(item[1]))[:2]
            raise UsageError(
                f"{root} holds images of {len(groups)} {what}: {len(first[1])} are {first[0]} "
                f"(such as {first[1][0]}), {len(second[1])} are {second[0]} "
                f"(such as {second[1][0]}). Make them one with {fix.format(first[0].split()[0].replace('×', 'x'))}."
            )
