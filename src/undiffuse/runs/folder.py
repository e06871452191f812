"""The folder that something is trained in: held by one process, its configuration, its checkpoints.

config.json   what is trained, and how
state/        checkpoints for exact resume, the newest kept
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor

from undiffuse.config import as_file, refuse_other
from undiffuse.system import FolderLock, write_text
from undiffuse.training import checkpoints
from undiffuse.training.loop import TrainingLoop

CONFIG, STATE = "config.json", "state"


class RunFolder:
    """with folder: holds it, and removes what a killed process left half written in it and in its `folders`.

    Raises Failure, with the process, where another one works in it.
    """

    def __init__(self, path: Path, folders: tuple[str, ...] = ()) -> None:
        self.path = path
        self._lock = FolderLock(path, (STATE, *folders))
        self.resumed = False  # whether what a training loop holds is newer than all that lies here

    def __enter__(self) -> RunFolder:
        self._lock.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.__exit__(*error)

    def refuse_other(self, config: BaseModel, fix: str, free: tuple[str, ...] = (), **more: Any) -> None:
        """Raises UsageError where another configuration is written here, with what differs; see config.refuse_other."""
        refuse_other(self.path / CONFIG, config, fix, free, **more)

    def write_config(self, config: BaseModel) -> None:
        """Writes config.json."""
        write_text(self.path / CONFIG, as_file(config))

    def resume(self, loop: TrainingLoop) -> None:
        """Takes up the newest checkpoint, where there is one. Raises UsageError for one that this training cannot go on from."""
        found = checkpoints.newest(self.path / STATE)
        if found:
            loop.resume(*found)
        self.resumed = True

    def save(self, loop: TrainingLoop) -> dict[str, Tensor]:
        """Writes a checkpoint; returns its tensors, which the next snapshot of the loop writes over.

        A loop that never took up what lies here does so first, so that no first weights are written over trained ones.
        """
        with self:
            if not self.resumed:
                self.resume(loop)
            tensors = loop.snapshot()
            checkpoints.save_checkpoint(self.path / STATE, tensors, loop.numbers())
        return tensors
