"""Decoded images, kept for the next time: a second run on the same files starts at once.

    <cache folder>/images-<key>/values.npy   (n, C, H, W), mapped
                                about.json   which of the files they are, and what reading them decided

The key is a SHA-256 of how images are read and, for each, of its path, size and time of change, or of its bytes where it lies in a table.  So
other files, or the same read otherwise, are others.  Kept is what took SLOW seconds or more to decode, or is too large for memory.  All of it
together takes no more of the disk than it leaves free: what was not used for the longest time goes first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage, rmtree

import numpy as np
import PIL
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from undiffuse.data.large_arrays import cache_folder, is_large
from undiffuse.system import remove_leftovers, temporary_beside, write_text

SLOW = 2.0  # seconds
DECODER_VERSION = 1  # goes up when the same files are decoded to other values
IMAGES_FILE, ABOUT_FILE = "values.npy", "about.json"


@dataclass(frozen=True)
class ImageFacts:
    """What is known of a decoded image.   mode: of the file, as converted, before it is brought to the depth of others.

    shape: (C, H, W) as decoded.   size: (height, width) in the file, upright.   frames, cut, converted: see pixels.Picture.
    """

    mode: str
    shape: tuple[int, ...]
    size: tuple[int, int]
    frames: int
    cut: float
    converted: str


class About(BaseModel):
    """What is known of decoded images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    facts: list[ImageFacts] = Field(description="What is known of a file, all that differ.")
    which: list[int] = Field(description="Which of the facts each file has; -1 for one that cannot be read.")
    unreadable: dict[int, str] = Field(description="Why a file cannot be read, by its row.")


@dataclass(frozen=True)
class ImageCache:
    """The place of one set of images.   folder: where they are, or will be; None where they cannot be told from others."""

    folder: Path | None

    @classmethod
    def of(cls, files: Iterable[object], *how: object) -> ImageCache:
        """how: the files are read."""
        digest = hashlib.sha256(repr((DECODER_VERSION, PIL.__version__, *how)).encode())
        try:
            for file in files:
                digest.update(f"{identity(file)}\0".encode("utf-8", "surrogateescape"))
        except (OSError, ValueError):
            return cls(None)
        return cls(cache_folder() / f"images-{digest.hexdigest()[:32]}")

    def load(self) -> tuple[np.ndarray, About] | None:
        """(the images, what is known of them), None where they are not there, or not whole."""
        if self.folder is None:
            return None
        try:
            about = About.model_validate_json((self.folder / ABOUT_FILE).read_bytes())
            values = np.load(self.folder / IMAGES_FILE, mmap_mode="c", allow_pickle=False)
            os.utime(self.folder)
        except (OSError, ValueError, ValidationError):
            return None
        if len(values) != len(about.which):
            return None
        return np.asarray(values) if is_large(values.nbytes) else np.array(values), about

    def keep(self, values: np.ndarray, about: About) -> bool:
        """Keeps images, where the disk has room. Returns whether it did."""
        folder = self.folder
        if folder is None:
            return False
        temporary = temporary_beside(folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder.parent)
            if not _make_room(folder.parent, values.nbytes):
                return False
            temporary.mkdir()
            np.save(temporary / IMAGES_FILE, values)
            write_text(temporary / ABOUT_FILE, about.model_dump_json())
            if folder.exists():  # that could not be read
                rmtree(folder)
            temporary.rename(folder)
        except OSError:
            rmtree(temporary, ignore_errors=True)
            return False
        return True


def identity(file: object) -> str:
    """What tells a file from what it was before and from others. Raises ValueError where nothing does, OSError for one that is gone."""
    if isinstance(file, Path):
        found = file.stat()
        return f"{os.path.abspath(file)} {found.st_size} {found.st_mtime_ns}"
    own = getattr(file, "identity", None)
    if own is None:
        raise ValueError(f"{file!r} has no identity")
    return str(own)


def _make_room(cache: Path, size: int) -> bool:
    """Whether so many bytes more fit: the cache takes no more than it leaves free. Removes what was not used for the longest time."""
    entries = sorted(cache.glob("images-*"), key=lambda path: path.stat().st_mtime)
    sizes = [sum(file.stat().st_size for file in entry.iterdir()) for entry in entries]
    while sum(sizes) + size > disk_usage(cache).free - size:
        if not entries:
            return False
        rmtree(entries.pop(0), ignore_errors=True)
        sizes.pop(0)
    return True
