"""Peak memory against the number of examples and their size, each measurement in a process of its own.

The law: the peak is what is kept, plus 10 %, plus CONSTANT, which one batch and the allocator take.

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
from typing import Any

from benchmarks.common import RESULTS, machine, table, write
from benchmarks.memory_subjects import SUBJECTS

MB = 2**20
CONSTANT = 16 * 4 * 2**20  # 16 arrays of the largest batch, 2^20 numbers in float32, which the allocator may keep


def measure(name: str, n: int, size: int) -> dict[str, Any]:
    """In a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--one", name, str(n), str(size)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def one(name: str, n: int, size: int) -> None:
    """Prints what is measured of a subject here and now."""
    warm = SUBJECTS[name].warm
    if warm is not None:
        SUBJECTS[name].prepare(warm(n), size)[0]()
    work, kept = SUBJECTS[name].prepare(n, size)
    began, before = time.monotonic(), _largest()
    result = work()
    peak = _largest() - before
    print(
        json.dumps(
            {
                "subject": name,
                "examples": n,
                "size": size,
                "size_means": SUBJECTS[name].size,
                "peak_mb": round(peak / MB, 1),
                "kept_mb": round(kept / MB, 1),
                "lawful": peak <= 1.1 * kept + CONSTANT,
                "seconds": round(time.monotonic() - began, 2),
                "of": type(result).__name__,
            }
        )
    )


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
    content: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"machine": machine(), "rows": []}
    )
    for name in options.subjects:
        for n, size in SUBJECTS[name].settings:
            row: dict[str, Any] = {"label": options.label} | measure(name, n, size)
            same = ("label", "subject", "examples", "size")
            content["rows"] = [old for old in content["rows"] if any(old[key] != row[key] for key in same)] + [row]
            print(
                f"{row['label']}: {name}, {n:,} examples, {size:,} {row['size_means']}: {row['peak_mb']:,} MB in {row['seconds']} s",
                flush=True,
            )
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    content["rows"].sort(key=lambda row: (row["subject"], row["examples"], row["size"], row["label"]))
    labels = sorted({row["label"] for row in content["rows"]})
    measured: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in content["rows"]:
        measured.setdefault(
            (row["subject"], row["examples"], f"{row['size']:,} {row['size_means']}", row["kept_mb"]), {}
        )[row["label"]] = row["peak_mb"]
    rows = [[*key[:3], *(peaks.get(label, "-") for label in labels), key[3]] for key, peaks in measured.items()]
    print(table(["subject", "examples", "size", *(f"peak {label}, MB" for label in labels), "kept, MB"], rows))
    write("memory", content)


if __name__ == "__main__":
    main()
