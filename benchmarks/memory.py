"""Peak memory against the number of examples and their size, each measurement in a process of its own.

    python -m benchmarks.memory                        # every subject
    python -m benchmarks.memory tags texts             # some
    python -m benchmarks.memory --label before tags    # kept under another label, as of older code on PYTHONPATH

A subject is a function of (examples, size) that prepares its input and returns the work and what the result keeps in bytes, by
arithmetic.  What is measured is the growth of the largest resident size (resource.getrusage) while the work runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.common import RESULTS, machine, table, write
from undiffuse.columns import encode_columns, fit_conditions
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.declared import Condition
from undiffuse.conditioning.texts import TextCondition, TextConfig
from undiffuse.conditioning.transformers import TransformerEncoder
from undiffuse.data.dataset import Dataset
from undiffuse.data.tables import as_column

MB = 2**20


class Subject(NamedTuple):
    """prepare: (examples, size) → (the work, bytes that its result keeps).   size: what the second number means.   settings: to measure."""

    prepare: Callable[[int, int], tuple[Callable[[], Any], int]]
    size: str
    settings: tuple[tuple[int, int], ...]


def _encoded(n: int, column: np.ndarray, condition: Condition, shape: tuple[int, ...] = (1,)) -> Any:
    data = Dataset("measured", np.zeros((n, *shape), np.uint8), columns={"it": column})
    declared = {"it": condition}
    conditions = Conditions(fit_conditions(data, declared, 0.1), 8)
    values = encode_columns(data, declared, conditions)["it"]
    values[np.arange(64)]  # one batch
    return values


def tags(n: int, size: int) -> tuple[Callable[[], Any], int]:
    """10 tags each, of a vocabulary of `size`."""
    texts = [";".join(f"tag{(7 * k + 131 * j) % size}" for j in range(10)) for k in range(n)]
    return lambda: _encoded(n, as_column(texts), Condition(kind="tags")), n * (10 * 4 + 16) + 4 * n * max(map(len, texts))


def texts(n: int, size: int) -> tuple[Callable[[], Any], int]:
    """Captions of 6 words, all different, and one of `size` words."""
    captions = [f"picture {k} of a cat" for k in range(n - 1)] + [" ".join(["word"] * size)]
    words = 5 * (n - 1) + size
    return lambda: _encoded(n, as_column(captions), Condition(kind="text")), words * 8 * 4 + 16 * n + 8 * n


class _Stub:
    """In place of a transformer: states of 8 to 20 tokens a text."""

    def __init__(self, config: TransformerEncoder) -> None:
        self.config = config

    def batches(self, texts: list[str], config: TransformerEncoder) -> Any:
        for start in range(0, len(texts), 64):
            states = torch.ones(len(texts[start : start + 64]), 20, config.width + 1)
            for row in range(len(states)):
                states[row, 8 + (start + row) % 13 :] = 0
            yield states

    def states(self, texts: list[str], config: TransformerEncoder) -> torch.Tensor:
        return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, config.most - 20)) for part in self.batches(texts, config)])


def states(n: int, size: int) -> tuple[Callable[[], Any], int]:
    """States of `size` numbers of all tokens of captions, a third of which are different."""
    captions = [f"caption {k % (n // 3)}" for k in range(n)]
    encoder = TransformerEncoder(source="-", sha256="-", architecture="-", pooling="tokens", width=size, most=77)
    module = TextCondition(TextConfig(encoder=encoder, inject="attention"), 8)
    module.__dict__["encoder"] = _Stub(encoder)

    def work() -> Any:
        values = module.encode_all(captions) if hasattr(module, "encode_all") else module.encode(captions)
        values[np.arange(64)]
        return values

    return work, n // 3 * 14 * (size + 1) * 4 + 8 * n


def pictures(n: int, size: int) -> tuple[Callable[[], Any], int]:
    """Pictures of 3 x size x size that are conditions, as an array of the user's."""
    column = np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8)
    return lambda: _encoded(n, column, Condition(kind="image"), (3, size, size)), 0


SUBJECTS = {
    "tags": Subject(tags, "tags in all", ((5_000, 1_000), (20_000, 1_000), (20_000, 5_000))),
    "texts": Subject(texts, "words of the longest", ((5_000, 50), (20_000, 50), (20_000, 1_000))),
    "states": Subject(states, "numbers of a state", ((3_000, 128), (9_000, 128), (9_000, 384))),
    "pictures": Subject(pictures, "pixels a side", ((2_000, 32), (8_000, 32), (2_000, 64))),
}


def measure(name: str, n: int, size: int) -> dict[str, Any]:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--one", name, str(n), str(size)], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def one(name: str, n: int, size: int) -> None:
    """Prints what is measured of a subject here and now."""
    work, kept = SUBJECTS[name].prepare(n, size)
    began, before = time.monotonic(), _largest()
    result = work()
    peak = _largest() - before
    print(json.dumps({
        "subject": name, "examples": n, "size": size, "size_means": SUBJECTS[name].size, "peak_mb": round(peak / MB, 1),
        "kept_mb": round(kept / MB, 1), "seconds": round(time.monotonic() - began, 2), "of": type(result).__name__,
    }))  # fmt: skip


def _largest() -> int:
    """The largest resident size of this process so far, in bytes; the system counts in kilobytes, macOS in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS), help=", ".join(SUBJECTS))
    parser.add_argument("--label", default="now")
    parser.add_argument("--one", nargs=3, metavar=("SUBJECT", "EXAMPLES", "SIZE"))
    options = parser.parse_args()
    if options.one:
        one(options.one[0], int(options.one[1]), int(options.one[2]))
        return
    path = RESULTS / "memory.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machine": machine(), "rows": []}
    for name in options.subjects:
        for n, size in SUBJECTS[name].settings:
            row = {"label": options.label} | measure(name, n, size)
            same = ("label", "subject", "examples", "size")
            content["rows"] = [old for old in content["rows"] if any(old[key] != row[key] for key in same)] + [row]
            print(f"{row['label']}: {name}, {n:,} examples, {size:,} {row['size_means']}: {row['peak_mb']:,} MB in {row['seconds']} s", flush=True)
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    content["rows"].sort(key=lambda row: (row["subject"], row["examples"], row["size"], row["label"]))
    labels = sorted({row["label"] for row in content["rows"]})
    measured: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in content["rows"]:
        measured.setdefault((row["subject"], row["examples"], f"{row['size']:,} {row['size_means']}", row["kept_mb"]), {})[row["label"]] = row["peak_mb"]
    rows = [[*key[:3], *(peaks.get(label, "-") for label in labels), key[3]] for key, peaks in measured.items()]
    print(table(["subject", "examples", "size", *(f"peak {label}, MB" for label in labels), "kept, MB"], rows))
    write("memory", content)


if __name__ == "__main__":
    main()
