"""Checkpoints: what exact resume needs, one safetensors file each, written atomically, the newest K kept."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.formats import FORMAT, migrate, tensor_name, version_of
from undiffuse.system import write_atomically

KEPT = 2


def path_of(folder: Path, step: int) -> Path:
    """The file of the checkpoint of a step."""
    return folder / f"step-{step:08d}.safetensors"


def all_of(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def save_checkpoint(folder: Path, tensors: dict[str, Tensor], numbers: dict[str, float], kept: int = KEPT) -> Path:
    """Writes a checkpoint of numbers["step"], then removes all but the newest `kept`."""
    path = path_of(folder, int(numbers["step"]))
    cpu = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in cpu.values())
    write_atomically(
        path, lambda temporary: save_file(cpu, temporary, {"format": str(FORMAT), "numbers": json.dumps(numbers)}), size
    )
    for old in all_of(folder)[:-kept]:
        old.unlink()
    return path


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """The newest checkpoint's tensors and numbers, None where there is none.

    Raises UsageError for one that cannot be read (it was not written by `save`, which never leaves half a file).
    """
    paths = all_of(folder)
    if not paths:
        return None
    try:
        with safe_open(paths[-1], "pt") as file:
            metadata = file.metadata()
            version = version_of({"format": int(metadata.get("format", "1"))}, str(paths[-1]))
            tensors = {tensor_name(name, version): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, migrate(json.loads(metadata["numbers"]), version)
    except UsageError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"the checkpoint {paths[-1]} is damaged ({error}): remove it to go on from the one before."
        ) from None
