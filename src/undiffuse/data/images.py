"""Many image files as one array, decoded in parallel.

Grey stays grey, alpha and 16 bits are kept, nothing is converted unless you ask for it.  Files that cannot be read are skipped and named, and
more than 1 % of them stop the work.  Decisions are reported in notes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image

from undiffuse.data.cache import SLOW, CacheEntry
from undiffuse.data.file_formats import FileFormat
from undiffuse.data.kept import VALUES_ARRAY, ImageFacts, KeptImages, kept_images
from undiffuse.data.large_arrays import allocated, is_large
from undiffuse.data.pixels import (
    DESCRIBED,
    MUCH_CUT,
    WIDE,
    ImageOptions,
    Openable,
    Unreadable,
    deepened,
    mode_of,
    read_image,
)
from undiffuse.data.ranges import has_alpha, top_of
from undiffuse.data.resizing import size_text
from undiffuse.data.watching import working_on
from undiffuse.errors import UsageError

LARGEST_SHARE_UNREADABLE = 0.01
NAMED = 5  # of what a note counts
FILES_OF_A_TASK = 32  # a task of a thread: handing out small ones one by one takes longer than decoding them


def first_few(things: Iterable[object]) -> str:
    """The first few, and how many more."""
    texts = [str(thing) for thing in things]
    return ", ".join(texts[:NAMED]) + (f" and {len(texts) - NAMED} more" if len(texts) > NAMED else "")


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


@dataclass(frozen=True)
class Decoded:
    """values: (N, C, H, W), a row for each file, of zeros where it has another shape or type than the first.

    facts: of each; why not, for one that cannot be read.
    """

    values: np.ndarray
    facts: list[ImageFacts | str]

    @property
    def unreadable(self) -> list[int]:
        """The rows of files that cannot be read."""
        return [row for row, facts in enumerate(self.facts) if isinstance(facts, str)]

    @property
    def too_many_unreadable(self) -> bool:
        """Whether these are too many to do without."""
        return len(self.unreadable) > LARGEST_SHARE_UNREADABLE * len(self.facts)


class _Decoding:
    """The one array that images are decoded into, as many at once as there are threads."""

    def __init__(self, files: Sequence[Openable], how: ImageOptions) -> None:
        self.files, self.how, self.convert = files, how, how.channels is not None
        self.values: np.ndarray | None = None
        self.lock = Lock()
        self.seen = dict[ImageFacts, ImageFacts]()  # one for all that are alike: a million are no more than a list
        self.passing = False  # whether some file may be readable in a moment

    def __call__(self, row: int) -> ImageFacts | str:
        """Decodes a file into its row."""
        try:
            picture = read_image(self.files[row], self.how)
        except Unreadable as problem:
            self.passing |= problem.passing
            return str(problem)
        given = picture.values
        facts = ImageFacts(
            picture.mode, given.shape, picture.size, picture.frames, round(picture.cut, 4), picture.converted
        )
        with self.lock:
            if self.values is None:
                self.values = allocated((len(self.files), *given.shape), given.dtype)
            elif (
                self.convert and given.dtype == np.uint16 and self.values.dtype == np.uint8
            ):  # one kind was set: the one that keeps all
                self.values = deepened(self.values)
            facts = self.seen.setdefault(facts, facts)
            given = deepened(given) if self.convert and self.values.dtype == np.uint16 else given
            if self.values.shape[1:] == given.shape and self.values.dtype == given.dtype:
                self.values[row] = given
        return facts


def decoded(files: Sequence[Openable], how: ImageOptions) -> Decoded:
    """Every file, decoded in parallel, or as the cache has it. Nothing is refused."""
    entry = CacheEntry.of("images", files, how, Image.MAX_IMAGE_PIXELS)
    if (there := kept_images(entry)) is not None:
        return Decoded(*there)
    began = time.monotonic()
    decoding, facts = _Decoding(files, how), list[ImageFacts | str]()
    with ThreadPoolExecutor() as pool, working_on("decoding", len(files)) as done:
        rows = range(len(files))
        blocks = [rows[start : start + FILES_OF_A_TASK] for start in rows[::FILES_OF_A_TASK]]
        for block in pool.map(lambda block: [decoding(row) for row in block], blocks):
            facts += block
            done(len(facts))
    values = np.zeros((len(files), 0), np.uint8) if decoding.values is None else decoding.values
    slow = time.monotonic() - began > SLOW or is_large(values.nbytes)
    if slow and not decoding.passing:
        entry.keep({VALUES_ARRAY: values}, KeptImages.of(facts).model_dump_json())
        if is_large(values.nbytes) and (there := kept_images(entry)) is not None:
            values = there[0]  # and the first file goes
    return Decoded(values, facts)


def read_images(root: Path, files: Sequence[Openable], names: Sequence[str], how: ImageOptions) -> ImageSet:
    """Reads files in parallel into one array.   root, names: what they are in, and what they are called there.

    Raises UsageError where more than 1 % cannot be read, or sizes or kinds of pixel differ.
    """
    found = decoded(files, how)
    bad, values = found.unreadable, found.values
    listed = "; ".join(f"{names[row]} ({found.facts[row]})" for row in bad[:10])
    listed += f"; and {len(bad) - 10} more" if len(bad) > 10 else ""
    if found.too_many_unreadable:
        raise UsageError(f"{len(bad)} of {len(files)} images in {root} cannot be read: {listed}. Fix or remove them.")
    kept = [row for row, each in enumerate(found.facts) if isinstance(each, ImageFacts)]
    pictures = [(names[row], each) for row, each in enumerate(found.facts) if isinstance(each, ImageFacts)]
    _same(root, pictures, how.channels is not None)
    outside = _outside(root, [(files[row], names[row]) for row in kept])
    for row, of in enumerate(kept if bad else []):
        values[row] = values[of]
    values = values[: len(kept)]
    shallow = [
        row for row, (_, facts) in enumerate(pictures) if values.dtype == np.uint16 and not facts.mode.endswith(";16")
    ]
    bits = _of_one_depth(values, shallow)
    notes = [f"skipped {len(bad)} of {len(files)} images that cannot be read: {listed}"] if bad else []
    return ImageSet(values, kept, (*notes, *_decided(root, pictures, outside, bits)))


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


def _outside(root: Path, named: Sequence[tuple[Openable, str]]) -> list[str]:
    """The names of files that are outside the folder: links, or in folders that links lead to."""
    real, inside = root.resolve(), dict[str, bool]()

    def is_inside(folder: str) -> bool:
        if folder not in inside:
            inside[folder] = Path(folder).resolve().is_relative_to(real)
        return inside[folder]

    found = []
    for file, name in named:
        if isinstance(file, Path):
            path = str(file)
            if not is_inside(os.path.dirname(os.path.realpath(path) if os.path.islink(path) else path)):
                found.append(name)
    return found


def _decided(root: Path, pictures: Sequence[tuple[str, ImageFacts]], outside: list[str], bits: int) -> list[str]:
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


def _width(picture: ImageFacts) -> str:
    """What no conversion makes one of: pixels of 8 and 16 bits are one, floats and whole numbers of 32 bits are not."""
    return DESCRIBED[picture.mode] if picture.mode in WIDE else "8 or 16 bits"


def _same(root: Path, pictures: Sequence[tuple[str, ImageFacts]], convert: bool) -> None:
    """Raises UsageError where sizes or kinds of pixel differ, naming an example of each of the two commonest."""
    kinds: list[tuple[str, Callable[[ImageFacts], str], str]] = [
        (
            "sizes",
            lambda p: size_text(p.shape[-2:]),
            "`size` {} (resizes, cropping to fit; `fit` pad or stretch instead)",
        ),
        ("kinds of pixel", lambda p: DESCRIBED[p.mode], "`channels` grey, rgb or rgba"),
    ]
    for what, of, fix in kinds:
        apart = any(picture.mode in WIDE for _, picture in pictures)
        if what == "kinds of pixel" and (convert or apart):
            of, fix = (_width, "a folder for each of them") if convert else (of, "a folder for each of them")
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
