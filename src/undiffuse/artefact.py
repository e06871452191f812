"""The file format of everything that is trained: safetensors with a JSON header.  Never executed, never unpickled.

The header holds what kind of thing it is, the format's version, its whole configuration, and a SHA-256 of the configuration
and every tensor.  Reading checks, in this order: that it is a safetensors file, that it is one of ours, of the kind
wanted, its version, the hash, and its configuration.  The names and shapes of the tensors are checked when they are put
into a network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.files import write_atomically

FORMAT_VERSION = 1
SETS = ("raw", "averaged")


def write(path: Path, kind: str, config: str, tensors: Mapping[str, Tensor]) -> None:
    """Writes a file atomically and compares what it holds with what was to be written.   kind: "model" or another.   config: JSON.

    Raises OSError for a full disk or a file that reads back wrong.
    """
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = {"undiffuse": json.dumps({"format": FORMAT_VERSION, "kind": kind, "sha256": digest_of(config, plain)}), "config": config}

    def write_and_compare(temporary: Path) -> None:
        save_file(plain, temporary, header)
        # the hash is in the header for whoever reads; here the bytes are at hand, and comparing them costs a fraction of a hash
        with safe_open(temporary, "pt") as file:
            same = file.metadata() == header and all(_equal(file.get_tensor(name), tensor) for name, tensor in plain.items())
        if not same:
            raise OSError(f"{path} was not written: what was written reads back wrong. What was saved before is untouched: check the disk.")

    write_atomically(path, write_and_compare, sum(tensor.numel() * tensor.element_size() for tensor in plain.values()))


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same bytes, NaN or not."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))


def config_of(path: Path) -> Any:
    """The configuration in a file's header, plain data, None where there is no such file. Tensors are neither read nor checked."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})["config"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


def read(path: Path, kind: str) -> tuple[Any, dict[str, Tensor]]:
    """(the configuration, plain data; all tensors) of a file of this kind. Raises UsageError, one sentence."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not an intact {kind} file: {_looks_like(path, error)}.") from None
    if "undiffuse" not in metadata or "config" not in metadata:
        raise UsageError(f"{path} holds tensors in the safetensors format, but it is not an undiffuse {kind}.")
    damaged = f"{path} was changed after it was written, or damaged: fetch it again"
    try:
        header = json.loads(metadata["undiffuse"])
        version, digest, found = int(header["format"]), str(header["sha256"]), str(header.get("kind", "model"))
        content = json.loads(metadata["config"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{damaged}.") from None
    if version > FORMAT_VERSION:
        raise UsageError(f"{path} has format {version}, and this version of undiffuse reads up to {FORMAT_VERSION}: upgrade undiffuse.")
    if digest != digest_of(metadata["config"], tensors):
        raise UsageError(f"{damaged} (its SHA-256 does not match).")
    if found != kind:
        raise UsageError(f"{path} is a {found}, where a {kind} is needed.")
    return content, tensors


def sets_of(tensors: Mapping[str, Tensor], sets: Sequence[str] = SETS) -> dict[str, dict[str, Tensor]]:
    """Tensors named set.parameter, of a trainer or a file, by set and by parameter."""
    return {kind: {n.removeprefix(f"{kind}."): t for n, t in tensors.items() if n.startswith(f"{kind}.")} for kind in sets}


def named(**sets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `sets_of`."""
    return {f"{kind}.{name}": tensor for kind, set_ in sets.items() for name, tensor in set_.items()}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], chosen: str, path: Path, sets: Sequence[str] = SETS) -> None:
    """Copies one of several sets of weights, named set.parameter, into a module.

    Raises UsageError unless every name and shape of every set is that of the module.
    """
    expected = dict(module.named_parameters())
    for kind, found in sets_of(tensors, sets).items():
        for name in sorted(expected.keys() ^ found.keys()):
            what = "lacks" if name in expected else "has an unknown"
            raise UsageError(f"{path} {what} tensor {kind}.{name}: it does not belong to what its header describes.")
        for name, parameter in expected.items():
            if found[name].shape != parameter.shape or found[name].dtype != parameter.dtype:
                raise UsageError(
                    f"{path}: tensor {kind}.{name} is {tuple(found[name].shape)} {found[name].dtype}, but what its "
                    f"header describes needs {tuple(parameter.shape)} {parameter.dtype}."
                )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(tensors[f"{chosen}.{name}"])


def digest_of(config: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a configuration and tensors on the CPU, with their names, dtypes and shapes."""
    digest = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        digest.update(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _looks_like(path: Path, error: Exception) -> str:
    """What a file that is not safetensors looks like. It is looked at, never loaded."""
    with open(path, "rb") as file:
        start = file.read(8)
    if start[:2] == b"PK":
        return "it is a zip archive, such as PyTorch's .pt, under another name; pickles are never loaded"
    if start[:1] == b"\x80":
        return "it is a Python pickle under another name; pickles are never loaded"
    if len(start) < 8 or int.from_bytes(start, "little") > path.stat().st_size:
        return "it is truncated, or of another format"
    return f"it is truncated or damaged ({error})"
