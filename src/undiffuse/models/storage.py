"""The file format of everything that is trained: safetensors with a JSON header.  Never executed, never unpickled.

The header holds what kind of thing it is, the format's version, its whole configuration, and a SHA-256 of the configuration
and every tensor.  Reading checks, in this order: that it is a safetensors file, that it is one of ours, of the kind
wanted, its version and its configuration, all before a tensor is read; then names and shapes, which are those of the network,
and the hash, one tensor after another.  So a file takes no memory beside the network it is read into.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.formats import FORMAT, migrate, tensor_name, version_of
from undiffuse.system import write_atomically

SETS = ("online", "ema")
BYTES_AT_ONCE = 2**23  # bytes
DAMAGED = "was changed after it was written, or damaged: fetch it again"


def write(path: Path, kind: str, config: str, tensors: Mapping[str, Tensor]) -> None:
    """Writes a file atomically and compares what it holds with what was to be written.   kind: "model" or another.   config: JSON.

    Raises OSError for a full disk or a file that reads back wrong.
    """
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    header = {
        "undiffuse": json.dumps({"format": FORMAT, "kind": kind, "sha256": digest_of(config, plain)}),
        "config": config,
    }

    def write_and_compare(temporary: Path) -> None:
        save_file(plain, temporary, header)
        # the hash is in the header for whoever reads; here the bytes are at hand, and comparing them is cheaper than a hash
        with safe_open(temporary, "pt") as file:
            same = file.metadata() == header and all(
                _equal(file.get_tensor(name), tensor) for name, tensor in plain.items()
            )
        if not same:
            raise OSError(
                f"{path} was not written: what was written reads back wrong. What was saved before is untouched: check the disk."
            )

    write_atomically(path, write_and_compare, sum(tensor.numel() * tensor.element_size() for tensor in plain.values()))


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same bytes, NaN or not."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.flatten().view(whole), b.flatten().view(whole))


def config_of(path: Path) -> Any:
    """The configuration in a file's header, plain data, None where there is no such file. Tensors are neither read nor checked."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            return migrate(json.loads(metadata["config"]), version_of(json.loads(metadata["undiffuse"]), str(path)))
    except (SafetensorError, OSError, KeyError, ValueError):
        return None


@dataclass(frozen=True)
class Header:
    """The header of a file.   config: its JSON as it stands there.   sha256: of that and of all tensors.   version: of its format.

    stored: for the name that each tensor has today, the one that it has in the file.
    """

    path: Path
    kind: str
    config: str
    sha256: str
    version: int
    stored: Mapping[str, str]

    @property
    def content(self) -> Any:
        """The configuration, plain data of today's format."""
        return migrate(json.loads(self.config), self.version)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors, as they are called today."""
        return tuple(self.stored)


def read_header(path: Path, kind: str) -> Header:
    """The header of a file of this kind, before any tensor is read. Raises UsageError, one sentence."""
    try:
        with safe_open(path, "pt") as file:
            metadata, names = file.metadata() or {}, tuple(file.keys())
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not an intact {kind} file: {_looks_like(path, error)}.") from None
    if "undiffuse" not in metadata or "config" not in metadata:
        raise UsageError(f"{path} holds tensors in the safetensors format, but it is not an undiffuse {kind}.")
    try:
        header = json.loads(metadata["undiffuse"])
        digest, found = str(header["sha256"]), str(header.get("kind", "model"))
        json.loads(metadata["config"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} {DAMAGED}.") from None
    if found != kind:
        raise UsageError(f"{path} is a {found}, where a {kind} is needed.")
    version = version_of(header, str(path))
    return Header(path, kind, metadata["config"], digest, version, {tensor_name(name, version): name for name in names})


def tensors_in(header: Header) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a file with today's name, one after another, so that no more than one need be in memory.

    The hash is taken on the way: raises UsageError, after the last, where it is not the header's.
    """
    today = {stored: name for name, stored in header.stored.items()}
    names, digest = sorted(today), hashlib.sha256(header.config.encode())
    while names:
        with safe_open(
            header.path, "pt"
        ) as file:  # anew after every AT_ONCE bytes: what an open file was read of counts as memory
            read = 0
            while names and read < BYTES_AT_ONCE:
                name = names.pop(0)
                tensor = file.get_tensor(name)
                read += _add(digest, name, tensor)
                yield today[name], tensor
    if digest.hexdigest() != header.sha256:
        raise UsageError(f"{header.path} {DAMAGED} (its SHA-256 does not match).")


def read(path: Path, kind: str) -> tuple[Any, dict[str, Tensor]]:
    """(the configuration, plain data; all tensors) of a file of this kind. Raises UsageError, one sentence."""
    header = read_header(path, kind)
    tensors = dict(tensors_in(header))
    return header.content, tensors


def sets_of(tensors: Mapping[str, Tensor], sets: Sequence[str] = SETS) -> dict[str, dict[str, Tensor]]:
    """Tensors named set.parameter, of a training loop or a file, by set and by parameter."""
    return {
        kind: {n.removeprefix(f"{kind}."): t for n, t in tensors.items() if n.startswith(f"{kind}.")} for kind in sets
    }


def sets_in(header: Header, chosen: str) -> tuple[str, ...]:
    """The sets of weights that a file has: both, or the one that `Model.save` writes. Raises UsageError where it lacks the chosen one."""
    found = tuple(kind for kind in SETS if any(name.startswith(f"{kind}.") for name in header.names))
    if found and chosen not in found:
        raise UsageError(
            f"{header.path} has no {chosen!r} weights, only {found[0]!r}: load it with weights={found[0]!r}."
        )
    return found or SETS


def named(**sets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `sets_of`."""
    return {f"{kind}.{name}": tensor for kind, set_ in sets.items() for name, tensor in set_.items()}


def fill(header: Header, *parts: tuple[Mapping[str, Tensor], str, Sequence[str]]) -> None:
    """Reads weights from a file straight into tensors.

    parts: each the tensors by name, such as a module's parameters, which of the sets of weights, named set.parameter, is copied into
    them, and the sets that are their own.
    Raises UsageError unless every name and shape of every set is that of its tensors, and the file is as it was written.
    """
    expected, copied = dict[str, Tensor](), set[str]()
    for tensors, chosen, sets in parts:
        expected |= {f"{kind}.{name}": tensor for kind in sets for name, tensor in tensors.items()}
        copied |= {f"{chosen}.{name}" for name in tensors}
    ours = {name for name in header.names if name.split(".")[0] in {kind for _, _, sets in parts for kind in sets}}
    for name in sorted(expected.keys() ^ ours):
        what = "lacks" if name in expected else "has an unknown"
        raise UsageError(f"{header.path} {what} tensor {name}: it does not belong to what its header describes.")
    for name, tensor in tensors_in(header):
        if name not in expected:
            continue
        parameter = expected[name]
        if tensor.shape != parameter.shape or tensor.dtype != parameter.dtype:
            raise UsageError(
                f"{header.path}: tensor {name} is {tuple(tensor.shape)} {tensor.dtype}, but what its header describes needs "
                f"{tuple(parameter.shape)} {parameter.dtype}."
            )
        if name in copied:
            with torch.no_grad():
                parameter.copy_(tensor)


def digest_of(config: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a configuration and tensors on the CPU, with their names, dtypes and shapes."""
    digest = hashlib.sha256(config.encode())
    for name in sorted(tensors):
        _add(digest, name, tensors[name])
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: Tensor) -> int:
    """Adds a tensor to a hash; returns its bytes."""
    digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return tensor.numel() * tensor.element_size()


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
