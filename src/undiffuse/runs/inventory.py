"""What a run was trained on, example by example, so that a change of its data can be said by name.

examples.npz   keys     the key of each example's values, see data/splitting.py, by the seed of the split
               names    of the files that they are, if they are any, a line each
               columns  a hash of the labels and of each column
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from undiffuse.data.dataset import Dataset
from undiffuse.data.images import first_few
from undiffuse.data.splitting import keys_of
from undiffuse.system import write_atomically

INVENTORY = "examples.npz"


@dataclass(frozen=True)
class Inventory:
    """keys: of the examples, uint64 (N,).   seed: of these.   names: of their files, or none.   columns: a hash of each, and of the labels."""

    keys: np.ndarray
    seed: int
    names: list[str]
    columns: dict[str, str]

    @classmethod
    def of(cls, data: Dataset, seed: int, keys: np.ndarray | None = None) -> Inventory:
        """keys: of the examples by this seed, where they are known."""
        files = data.columns.get("file")
        hashes = {name: _hash(column) for name, column in data.columns.items()}
        if data.labels is not None:
            hashes["class"] = _hash(data.labels) + _hash(np.array(data.classes))
        names = [] if files is None else [str(file) for file in files]
        return cls(keys_of(data, seed) if keys is None else keys, seed, names, hashes)

    @classmethod
    def read(cls, folder: Path) -> Inventory | None:
        """The inventory in a run's folder, None where there is none, or none that can be read."""
        try:
            with np.load(folder / INVENTORY, allow_pickle=False) as content:
                about = json.loads(content["about"].tobytes())
                return cls(content["keys"], int(about["seed"]), list(about["names"]), dict(about["columns"]))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile):
            return None

    def write(self, folder: Path) -> None:
        """Writes it into a run's folder."""
        about = json.dumps({"seed": self.seed, "names": self.names, "columns": self.columns}).encode()

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                np.savez_compressed(file, keys=self.keys, about=np.frombuffer(about, np.uint8))

        write_atomically(folder / INVENTORY, write)

    def changes(self, now: Inventory) -> str:
        """What is different now, in words; empty where nothing of this is."""
        parts = self._by_name(now) if self.names and now.names else self._by_row(now)
        columns = sorted(
            name for name in {*self.columns, *now.columns} - {"file"} if self.columns.get(name) != now.columns.get(name)
        )
        if columns and not parts:
            parts.append(f"other values of {', '.join(columns)}")
        return ", ".join(parts)

    def _by_name(self, now: Inventory) -> list[str]:
        """Of files."""
        before, after = (dict(zip(each.names, each.keys.tolist(), strict=True)) for each in (self, now))
        gone, new = [name for name in before if name not in after], [name for name in after if name not in before]
        other = [name for name, key in after.items() if before.get(name, key) != key]
        found = ((gone, "gone"), (new, "new"), (other, "of another content"))
        return [_said(names, f"is {what}", f"are {what}") for names, what in found if names]

    def _by_row(self, now: Inventory) -> list[str]:
        """Of examples that have no names."""
        kept, there = Counter(self.keys.tolist()), Counter(now.keys.tolist())
        gone, new = (kept - there).total(), (there - kept).total()
        if len(self.keys) != len(now.keys):
            counts = ((gone, "gone"), (new, "new"))
            return [f"{n:,} example{'s are' if n > 1 else ' is'} {what}" for n, what in counts if n]
        rows = [f"data:{row}" for row in np.flatnonzero(self.keys != now.keys)]
        if rows and not gone:
            return ["the examples are in another order"]
        return [_said(rows, "has other values", "have other values")] if rows else []


def _said(names: Sequence[str], one: str, several: str) -> str:
    """A few of the names, and what is said of one, or of several."""
    return f"{first_few(names)} {one if len(names) == 1 else several}"


def _hash(column: np.ndarray) -> str:
    """Of the values of a column."""
    content = (
        "\0".join(map(str, column)).encode("utf-8", "surrogatepass")
        if column.dtype.kind in "OU"
        else np.ascontiguousarray(column).tobytes()
    )
    return hashlib.blake2b(content, digest_size=8).hexdigest()
