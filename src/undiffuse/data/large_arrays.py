"""Arrays that are too large for memory lie in files, and are mapped.

The system reads a page of a mapped file when it is needed, and takes it back when memory is short.

    up to IN_MEMORY bytes   in memory
    more                    in a file of the cache folder, which goes when the array does; a .npy file of the user's stays where it is

The cache folder is $UNDIFFUSE_CACHE; else undiffuse in $XDG_CACHE_HOME; else ~/.cache/undiffuse.  Where nothing can be written there, arrays
are in memory whatever their size.  What is mapped may be written to; that changes the array and never the file it was read from.
"""

from __future__ import annotations

import math
import os
import weakref
import zipfile
from contextlib import suppress
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np

from undiffuse.data.statistics import parts_of
from undiffuse.system import remove_leftovers, temporary_beside

IN_MEMORY = 2**28  # bytes
READ_AT_ONCE = 2**22
CUT_SHORT = "the file is cut short"


def cache_folder() -> Path:
    """Where decoded images and large arrays are kept."""
    if own := os.environ.get("UNDIFFUSE_CACHE"):
        return Path(own).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "undiffuse"


def is_large(size: int) -> bool:
    """Whether so many bytes are too many for memory."""
    return size > IN_MEMORY


def allocated(shape: tuple[int, ...], dtype: np.dtype[Any] | type) -> np.ndarray:
    """An array of zeros, in memory or in a file, see the top of this file."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    mapped = _in_file(shape, dtype, size) if is_large(size) else None
    return np.zeros(shape, dtype) if mapped is None else mapped


def _in_file(shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> np.ndarray | None:
    """An array in a new file of the cache folder; None where that cannot be written, or has no room for it."""
    folder = cache_folder()
    path = temporary_beside(folder / "array.npy")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        values: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with path.open("r+b") as file:  # or a full disk would end the process where it writes to the array
            os.posix_fallocate(file.fileno(), 0, file.seek(0, os.SEEK_END))
    except (OSError, AttributeError):  # no such disk, no room, or no such call in this system
        with suppress(OSError):
            path.unlink()
        return None
    weakref.finalize(values, path.unlink, missing_ok=True)
    return values


def arrays_in(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy file, or those of an .npz file by name. Raises what np.load does; nothing is unpickled."""
    with path.open("rb") as stream:
        if stream.peek(2)[:2] != b"PK":
            if not is_large(path.stat().st_size):
                return _streamed(stream)
            shape, _, dtype = _header(stream)
            if path.stat().st_size - stream.tell() < math.prod(shape) * dtype.itemsize:
                raise ValueError(CUT_SHORT)
            return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
    with zipfile.ZipFile(path) as archive:
        found = {}
        for name in archive.namelist():
            if name.endswith(".npy"):  # NumPy writes nothing else
                with archive.open(name) as stream:
                    found[name.removesuffix(".npy")] = _streamed(stream)
        if not found:
            raise ValueError("it holds no array")
        return found


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, whether in Fortran order, type) of an open .npy file, up to where its numbers begin. Raises ValueError for what is none."""
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(stream)
        if version not in read_header:
            raise ValueError(f"its format {version} is not one that is read")
        shape, fortran, dtype = read_header[version](stream)
    except (SyntaxError, TokenError, TypeError) as error:  # of a damaged header, which is Python
        raise ValueError(f"its header is damaged ({error})") from None
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    return shape, fortran, dtype


def _streamed(stream: IO[bytes]) -> np.ndarray:
    """The array of an open .npy file, read part by part."""
    shape, fortran, dtype = _header(stream)
    values = allocated(shape[::-1] if fortran else shape, dtype)
    room = values.reshape(-1).view(np.uint8)
    done = 0
    while done < len(room):
        part = stream.read(min(len(room) - done, READ_AT_ONCE))
        if not part:
            raise ValueError(CUT_SHORT)
        room[done : done + len(part)] = np.frombuffer(part, np.uint8)
        done += len(part)
    return values.transpose() if fortran else values


def in_type(values: np.ndarray, dtype: np.dtype[Any] | type) -> np.ndarray:
    """The values in another type, the same array where it is theirs; a large one part by part."""
    if values.dtype == dtype:
        return values
    found = allocated(values.shape, dtype)
    for part in parts_of(values):
        found[part] = values[part]
    return found


def taken(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some rows of an array; large ones part by part."""
    found = allocated((len(rows), *values.shape[1:]), values.dtype)
    for part in parts_of(found):
        found[part] = values[rows[part]]
    return found


def known_numbers(values: np.ndarray, nodata: float | None = None) -> np.ndarray | None:
    """Which of the numbers (N, …) are neither NaN nor `nodata`, bool of the same shape; None where all are."""
    found: np.ndarray | None = None
    for part in parts_of(values):
        known = _known_of(values[part], nodata)
        if found is None and not known.all():
            found = allocated(values.shape, bool)
            found[: part.start] = True
        if found is not None:
            found[part] = known
    return found


def _known_of(values: np.ndarray, nodata: float | None) -> np.ndarray:
    known = ~np.isnan(values) if values.dtype.kind in "fc" else np.ones(values.shape, bool)
    return known if nodata is None else known & (values != values.dtype.type(nodata))
