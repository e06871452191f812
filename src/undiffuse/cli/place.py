"""Where results are written: in a temporary folder that is renamed when everything is there, so that a folder of results is whole."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import tempfile
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from undiffuse.errors import Failure, UsageError
from undiffuse.system import DISK_FULL, remove_leftovers, temporary_beside


class Place:
    """A folder of results: `out`, or the next number of RUN/kind.  `with place:` renames `folder` to `final`, or removes it on an error.

    kind: of the results.   folder: the temporary one, made when it is first asked for.
    """

    def __init__(self, run: Path, kind: str, out: Path | None) -> None:
        self.run, self.out = run, out
        self.parent = (run if run.is_dir() else run.parent) / kind if out is None else out.parent
        self.final = self.parent / "001" if out is None else out

    def check(self) -> None:
        """Before any work: raises UsageError for a folder that holds something already, Failure for one that cannot be written."""
        if self.out is not None and self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise UsageError(f"{self.out} is not empty, and nothing is written over: name another --out.")
        if self.run.exists():
            refuse_unwritable(self.parent if self.out is None else self.out)

    @cached_property
    def folder(self) -> Path:
        """The hidden folder that results are written to until it takes its final name. Made when first used."""
        self._made = [path for path in (self.parent, *self.parent.parents) if not path.exists()]
        self.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.parent)
        folder = temporary_beside(self.final)
        folder.mkdir()
        return folder

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if "folder" not in self.__dict__:
            return
        if error is None:
            self._publish()
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in self._made:
            with suppress(OSError):  # another process writes there now
                path.rmdir()
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise OSError(
                "the disk is full: no results were written; free some space and repeat the command."
            ) from None

    def _publish(self) -> None:
        """Gives the folder its name; of numbers the first that is free, which another process may take meanwhile."""
        for path in self.folder.iterdir():
            if path.is_file():
                with open(path, "rb+") as file:
                    os.fsync(file.fileno())
        if self.out is not None:
            if self.out.exists():  # and is empty
                self.out.rmdir()
            self.folder.rename(self.out)
            return
        for number in itertools.count(1):
            self.final = self.parent / f"{number:03d}"
            if not self.final.exists():
                try:
                    self.folder.rename(self.final)
                    return
                except OSError as error:  # another process has just taken it
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                        raise


def refuse_unwritable(path: Path) -> None:
    """Raises Failure for a file or folder, there or to be made, that cannot be written where it should be."""
    while not path.exists():
        path = path.parent
    try:
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise Failure(f"{path} cannot be written to ({error.strerror}): name a place that can be by --out.") from None
