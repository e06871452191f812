"""Checkpoints: what exact resume needs, one safetensors file each, written atomically, the newest K kept."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.formats import FORMAT, migrate, tensor_name, version_of
from undiffuse.system import write_atomically

KEPT = 2
NUMBERS = ("step", "seconds", "rate_scale", "ema_updates", "skipped", "in_a_row", "rollbacks")


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
    text = json.dumps(numbers)
    metadata = {"format": str(FORMAT), "numbers": text, "sha256": _digest(cpu, text)}
    write_atomically(path, lambda temporary: save_file(cpu, temporary, metadata), size)
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
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if "sha256" in metadata and metadata["sha256"] != _digest(
                stored, metadata["numbers"]
            ):  # older ones have none
                raise ValueError("its content is not what was written")
            numbers = _checked(migrate(json.loads(metadata["numbers"]), version))
            return {tensor_name(name, version): value for name, value in stored.items()}, numbers
    except UsageError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"the checkpoint {paths[-1]} is damaged ({error}): remove it to go on from the one before."
        ) from None


def _digest(tensors: dict[str, Tensor], numbers: str) -> str:
    """A hash of everything that a checkpoint says."""
    digest = hashlib.sha256(numbers.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _checked(numbers: dict[str, float]) -> dict[str, float]:
    """The numbers of a checkpoint. Raises ValueError for one that is missing, or can be none."""
    for name in NUMBERS:
        value = numbers[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}")
    if not 0 < numbers["rate_scale"] <= 1:
        raise ValueError(f"rate_scale is {numbers['rate_scale']!r}")
    return numbers
