"""Files that another package reads: whatever it raises of a damaged file is one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from undiffuse.errors import Failure, UsageError


@contextmanager
def refuse_damaged(path: Path, what: str) -> Iterator[None]:
    """Inside a `with`, a package reads a file.   what: it should be.   Raises UsageError for any error of the package's.

    Parsers raise of everything: struct.error, IndexError, errors of their own.  Of a file that a user gives, all mean the same.
    """
    try:
        yield
    except (UsageError, Failure, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        raise UsageError(f"{path} cannot be read as {what}: {reason}.") from None
