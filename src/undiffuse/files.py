"""Writing files so that nothing is ever half there: to a temporary name, flushed, then renamed into place."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

SPARE = 1 << 20


def write_atomically(path: Path, write: Callable[[Path], object], expected_bytes: int = 0) -> None:
    """Calls `write` with a temporary path beside `path`, then renames it there.

    Raises OSError with one sentence, and leaves what was there before, if the disk is or gets full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if free < expected_bytes + SPARE:
        raise OSError(
            f"not enough disk space to write {path}: {expected_bytes / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB "
            "are free. What was saved before is untouched: free some space and repeat the command."
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(
                f"the disk is full: {path} was not written. What was saved before is untouched: free some space and "
                "repeat the command."
            ) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), len(text))
