"""The machine: files, folders and optional packages.

Files are written so that nothing is ever half there, and a folder is worked in by one process at a time.

A file is written to a temporary name beside its own, flushed, then renamed into place; then the folder is flushed too, since
a rename that is only in memory is lost with the power.  A process that is killed leaves its temporary file or folder; whoever
holds the folder next, or writes a folder of results beside it, removes it.

A folder is held by a lock of the operating system (flock) on its file .lock.  It ends with the process, however that ends, so
there are no stale locks to break; what the file says, who holds it, is for people.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from undiffuse.errors import Failure, UsageError

try:
    import fcntl
except ImportError:  # Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]

EXTRAS = {"torchdiffeq": "likelihood", "transformers": "text", "huggingface_hub": "text"} | dict.fromkeys(
    (
        "h5py",
        "zarr",
        "xarray",
        "h5netcdf",
        "scipy",
        "tifffile",
        "nibabel",
        "nrrd",
        "soundfile",
        "pyarrow",
        "pyarrow.parquet",
    ),
    "data",
)
SPARE = 1 << 20
LOCK = ".lock"
TEMPORARY = re.compile(r"\..+\.\d+(-[0-9a-f]+)?\.part")
OWNED = re.compile(r"\..+\.(?P<process>\d+)-(?P<machine>[0-9a-f]{8})[0-9a-f]{8}\.part")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, write: Callable[[Path], object], expected_bytes: int = 0) -> None:
    """Calls `write` with a temporary path beside `path`, then renames it there.

    Who may read it is as for any new file (umask), or as before where there was one, whatever `write` makes of that.
    Raises OSError with one sentence, and leaves what was there before, if the disk is or gets full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < expected_bytes + SPARE:
        raise OSError(
            f"not enough disk space to write {path}: {expected_bytes / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB "
            "are free. What was saved before is untouched: free some space and repeat the command."
        )
    temporary = temporary_beside(path)
    try:
        temporary.touch()
        mode = stat.S_IMODE((path if path.exists() else temporary).stat().st_mode)
        write(temporary)
        temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise OSError(
                f"the disk is full: {path} was not written. What was saved before is untouched: free some space and "
                "repeat the command."
            ) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A hidden path beside `path` for what is not whole yet, with the machine and the process that make it, and new every time."""
    return path.with_name(f".{path.name}.{os.getpid()}-{_machine()}{secrets.token_hex(4)}.part")


def remove_leftovers(folder: Path, held: bool = False) -> None:
    """Removes temporary files and folders of processes of this machine that are gone.   held: whether nobody else can write files there now."""
    for path in folder.glob(".*.part"):
        if path.is_dir():
            if _is_abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
        elif (held and is_leftover(path)) or _is_abandoned(path):
            path.unlink(missing_ok=True)


def _machine() -> str:
    """What tells this machine from others of one file system, eight hexadecimal digits: their processes have the same numbers."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _is_abandoned(path: Path) -> bool:
    """Whether `temporary_beside` named this in a process of this machine that is gone."""
    named = OWNED.fullmatch(path.name)
    if named is None or named["machine"] != _machine() or fcntl is None:  # Windows has no way to ask for a process
        return False
    try:
        os.kill(int(named["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # somebody else's
        return False
    return False


def as_file_name(name: str) -> str:
    """A name as one that any file system takes, and that lies in no other folder: other signs than most names have are underscores."""
    return "".join(sign if sign.isprintable() and sign not in '/\\<>:"|?*' else "_" for sign in name)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, atomically. Raises OSError for a full disk."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), len(text))


def _flush_folder(folder: Path) -> None:
    """Makes the names in a folder last. Some systems and file systems cannot, and the file is there all the same."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_leftover(path: Path) -> bool:
    """Whether this is the lock, or a temporary file, of a process that may be gone: nothing that anybody made on purpose."""
    return path.name == LOCK or TEMPORARY.fullmatch(path.name) is not None


class FolderLock:
    """The right to work in a folder, for one process at a time and, within it, for whoever has this object.

    `with lock:` takes it, as often as one likes, one inside the other.  The first removes temporary files that a killed process
    left in the folder, and in those of its folders that are named.  Raises Failure, saying who holds it, where another has it.
    """

    def __init__(self, folder: Path, folders: tuple[str, ...] = ()) -> None:
        self.folder, self.folders = folder, folders
        self._descriptor: int | None = None
        self._depth = 0

    def __enter__(self) -> FolderLock:
        if self._depth == 0:
            self._take()
            self._sweep()
        self._depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._descriptor is not None:
            (self.folder / LOCK).unlink(missing_ok=True)  # before it is let go, so that nobody else's is removed
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LOCK
        while fcntl is not None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                held = _held(self.folder, descriptor)
                os.close(descriptor)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    return  # a file system without locks
                raise held from None
            if _is_at(path, descriptor):
                break
            os.close(descriptor)  # who had it has just removed the file
        else:
            return
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}\n".encode())
        self._descriptor = descriptor

    def _sweep(self) -> None:
        for folder in (self.folder, *(self.folder / name for name in self.folders)):
            remove_leftovers(folder, held=True)


def refuse_held(folder: Path) -> None:
    """Raises Failure, saying who, where another process works in a folder now.  Nothing is taken, nor made."""
    if fcntl is None:
        return
    with suppress(FileNotFoundError, PermissionError):
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _held(folder, descriptor) from None
        finally:
            os.close(descriptor)


def _held(folder: Path, descriptor: int) -> Failure:
    """What is said of a folder that another process works in.   descriptor: of its lock."""
    holder = os.read(descriptor, 200).decode(errors="replace").strip()
    return Failure(
        f"{folder} is being worked in by {holder or 'another process'}: wait until it is done or stop it, or choose another name for this run."
    )


def inside(folder: Path, name: str) -> Path:
    """The folder called `name` in another. Raises UsageError for a name that leads out of it."""
    if not name.strip() or Path(name).is_absolute() or ".." in Path(name).parts or Path(name) == Path():
        raise UsageError(
            f"the name {name!r} would lie outside {folder}: give a plain name, such as mine, and `runs` for another place."
        )
    return folder / name


def _is_at(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def optional(module: str) -> Any:
    """The module. Raises RuntimeError, saying how to install it, where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Failure(
            f"this needs {module}, which is not installed: pip install 'undiffuse[{EXTRAS[module]}]'."
        ) from None
