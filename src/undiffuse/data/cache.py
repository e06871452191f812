"""What reading data made, kept for the next time: a second run on the same files starts at once.

    <cache folder>/<kind>-<key>/<name>.npy   arrays, mapped where they are large
                                about.json   the type and shape of each, and what else is known

The key is a SHA-256 of how the files are read and, for each, of its path, size and time of change, or of its bytes where it lies in a
table.  So other files, or the same read otherwise, are others.  Kept is what took SLOW seconds or more, or is too large for memory.  All of it
together takes no more of the disk than it leaves free: what was not used for the longest time goes first.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage, rmtree

import numpy as np
import PIL
from pydantic import BaseModel, ConfigDict, Field

from undiffuse.data.large_arrays import cache_folder, is_large
from undiffuse.system import remove_leftovers, temporary_beside, write_text

SLOW = 2.0  # seconds
DECODER_VERSION = 1  # goes up when the same files are read to other values
ENTRY_KINDS = ("images", "dataset")
ABOUT_FILE = "about.json"


class CachedFacts(BaseModel):
    """What about.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arrays: dict[str, tuple[str, tuple[int, ...]]] = Field(description="Type and shape of each array, by its name.")
    about: str = Field(description="What else is known, as whoever keeps the entry writes it.")


@dataclass(frozen=True)
class CacheEntry:
    """The place of what was made of some files.   folder: where it is, or will be; None where they cannot be told from others."""

    folder: Path | None

    @classmethod
    def of(cls, kind: str, files: Iterable[object], *how: object) -> CacheEntry:
        """kind: of ENTRY_KINDS.   how: the files are read."""
        digest = hashlib.sha256(repr((DECODER_VERSION, PIL.__version__, *how)).encode())
        try:
            for file in files:
                digest.update(f"{identity(file)}\0".encode("utf-8", "surrogateescape"))
        except (OSError, ValueError):
            return cls(None)
        return cls(cache_folder() / f"{kind}-{digest.hexdigest()[:32]}")

    def load(self) -> tuple[dict[str, np.ndarray], str] | None:
        """(the arrays by name, what else is known), None where they are not there, or damaged."""
        if self.folder is None:
            return None
        try:
            about = CachedFacts.model_validate_json((self.folder / ABOUT_FILE).read_bytes())
            arrays = {name: _loaded(self.folder / f"{name}.npy") for name in about.arrays}
            os.utime(self.folder)
        except Exception:  # of a damaged file NumPy raises whatever its bytes make of its code
            return None
        alike = all((array.dtype.str, array.shape) == about.arrays[name] for name, array in arrays.items())
        return (arrays, about.about) if alike else None

    def keep(self, arrays: Mapping[str, np.ndarray], about: str) -> bool:
        """Keeps arrays, where the disk has room. Returns whether it did."""
        folder = self.folder
        if folder is None:
            return False
        temporary = temporary_beside(folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder.parent)
            if not _make_room(folder.parent, sum(array.nbytes for array in arrays.values())):
                return False
            temporary.mkdir()
            for name, array in arrays.items():
                _save(temporary / f"{name}.npy", array)
            facts = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
            write_text(temporary / ABOUT_FILE, CachedFacts(arrays=facts, about=about).model_dump_json())
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
        path = str(file)
        found = os.stat(path)
        return f"{path if path.startswith(os.sep) else os.path.abspath(path)} {found.st_size} {found.st_mtime_ns}"
    own = getattr(file, "identity", None)
    if own is None:
        raise ValueError(f"{file!r} has no identity")
    return str(own)


def _loaded(path: Path) -> np.ndarray:
    large = is_large(path.stat().st_size)
    return np.asarray(np.load(path, mmap_mode="c" if large else None, allow_pickle=False))


def _save(path: Path, array: np.ndarray) -> None:
    """Writes an array; one that another entry holds already is a second name of that file."""
    held = _held(array)
    if held is not None:
        os.link(held, path)
        return
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())  # or, after a power cut, the name may be there without the numbers


def _held(array: np.ndarray) -> Path | None:
    """The file of the cache that holds an array as it is, None where there is none."""
    base: object = array
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    name = getattr(base, "filename", None)
    path = Path(name) if name else None
    if path is None or path.parent.parent != cache_folder() or not path.exists():
        return None
    stored = np.load(path, mmap_mode="r", allow_pickle=False)
    same = stored.shape == array.shape and stored.dtype == array.dtype
    return path if same and np.array_equal(stored, array) else None


def _make_room(cache: Path, size: int) -> bool:
    """Whether so many bytes more fit: the cache takes no more than it leaves free. Removes what was not used for the longest time."""
    entries = sorted(
        (p for kind in ENTRY_KINDS for p in cache.glob(f"{kind}-*")), key=lambda path: path.stat().st_mtime
    )
    sizes = [sum(file.stat().st_size for file in entry.iterdir()) for entry in entries]
    while sum(sizes) + size > disk_usage(cache).free - size:
        if not entries:
            return False
        rmtree(entries.pop(0), ignore_errors=True)
        sizes.pop(0)
    return True
