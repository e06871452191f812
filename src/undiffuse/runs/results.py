"""Folders of results, numbered in a run's folder or named: temporary until everything is there, then renamed, so that each is whole."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from undiffuse.system import DISK_FULL, remove_leftovers, temporary_beside


class ResultsFolder:
    """`parent/name`, or the next number in `parent`.  `with results:` renames `folder` to `final`, or removes it on an error.

    folder: the temporary one, made when it is first asked for.   Raises OSError with one sentence for a full disk.
    """

    def __init__(self, parent: Path, name: str | None = None) -> None:
        self.parent, self.name = parent, name
        self.final = parent / (name or "001")

    @cached_property
    def folder(self) -> Path:
        """The hidden folder that results are written to until it takes its final name. Made when first used."""
        self._made = [path for path in (self.parent, *self.parent.parents) if not path.exists()]
        self.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.parent)
        folder = temporary_beside(self.final)
        folder.mkdir()
        return folder

    def __enter__(self) -> ResultsFolder:
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
        if self.name is not None:
            if self.final.exists():  # and is empty
                self.final.rmdir()
            self.folder.rename(self.final)
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
