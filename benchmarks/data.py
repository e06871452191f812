"""How data reaches the network: seconds to the first update, memory against items, waiting for input, and the rate of the first inspection.

    python -m benchmarks.data start                         arrays, tables and shards of 1e3 to 1e6 items, two sizes of item
    python -m benchmarks.data start --most 100000           the same, of fewer
    python -m benchmarks.data wait DATA [--size 32] …       what share of a training step is spent on waiting for input
    python -m benchmarks.data inspect FOLDER [--size 64]    images a second of the first inspection, beside Pillow's decoder alone

Every start is measured in a process of its own, after the imports: until the first update is done, its memory `RssAnon`, what is the
process's own, and `RssFile`, pages of files, which the system takes back when memory is short.  Shards are started a second time, when
they are decoded already; the first start is decoding, and is given beside.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import RESULTS, machine, table, write
from undiffuse.data.config import DataConfig
from undiffuse.runs.prepare import prepare

ITEMS = (1_000, 10_000, 100_000, 1_000_000)
SIDES = {"small": 8, "large": 28}
EACH_SHARD = 10_000
SMALL_UNET = {"network.width": 8, "network.multipliers": [1, 2], "network.groups": 4, "training.batch_size": 32}
SMALL_MLP = {"network.width": 32, "network.depth": 2, "training.batch_size": 32}


def array(path: Path, n: int, side: int) -> tuple[str, dict[str, Any]]:
    """Colour pictures in an .npy file."""
    values = np.lib.format.open_memmap(path / "x.npy", mode="w+", dtype=np.uint8, shape=(n, side, side, 3))
    rng = np.random.default_rng(0)
    for start in range(0, n, 10_000):
        values[start : start + 10_000] = rng.integers(0, 256, values[start : start + 10_000].shape, np.uint8)
    return str(path / "x.npy"), SMALL_UNET


def rows(path: Path, n: int, side: int) -> tuple[str, dict[str, Any]]:
    """Rows of `side` numbers in an .npy file."""
    values = np.random.default_rng(0).normal(size=(n, side)).astype(np.float32)
    np.save(path / "x.npy", values)
    return str(path / "x.npy"), SMALL_MLP


def shards(path: Path, n: int, side: int) -> tuple[str, dict[str, Any]]:
    """WebDataset: tars of PNG files with a class beside each."""
    rng = np.random.default_rng(0)
    for start in range(0, n, EACH_SHARD):
        with tarfile.open(path / f"shard-{start // EACH_SHARD:06d}.tar", "w") as archive:
            for k in range(start, min(n, start + EACH_SHARD)):
                content = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)).save(content, "png", compress_level=1)
                for suffix, part in (("png", content.getvalue()), ("cls", str(k % 10).encode())):
                    info = tarfile.TarInfo(f"{k:08d}.{suffix}")
                    info.size = len(part)
                    archive.addfile(info, io.BytesIO(part))
    return str(path), SMALL_UNET


MAKERS: dict[str, Callable[[Path, int, int], tuple[str, dict[str, Any]]]] = {
    "array": array,
    "rows": rows,
    "shards": shards,
}


def memory() -> dict[str, float]:
    """MB of this process: its own, and of files."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile")}


def start_here(source: str, settings: dict[str, Any], runs: str) -> None:
    """Prints what a start takes in this process."""
    peak, over = {"RssAnon": 0.0, "RssFile": 0.0}, threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for name, now in memory().items():
                peak[name] = max(peak[name], now)

    layout = "NC" if "network.depth" in settings else None
    before, began = memory(), time.monotonic()
    watcher = threading.Thread(target=watch)
    watcher.start()
    plan = prepare(
        DataConfig(source=source, layout=layout), Path(runs) / "run", settings={"training.steps": 1000, **settings}
    )
    run = plan.run()
    for _ in islice(run.loop.updates(run.batch), 1):
        seconds = time.monotonic() - began
    over.set()
    watcher.join()
    found = {"seconds": round(seconds, 2)} | {name: round(peak[name]) for name in peak}
    print(json.dumps(found | {"before": round(before["RssAnon"])}))


def started(kind: str, n: int, size: str) -> dict[str, Any]:
    """What a start takes, in a process of its own; of shards the first one too."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "data"
        place.mkdir()
        source, settings = MAKERS[kind](place, n, SIDES[size])
        command = [sys.executable, "-m", "benchmarks.data", "--one", source, json.dumps(settings), folder]

        def once() -> dict[str, Any]:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found

        first = once()
        again = once() if kind == "shards" else first
        item = {"kind": kind, "items": n, "size": size, **again, "first_seconds": first["seconds"]}
        print(item, flush=True)
        return item


def start(most: int) -> None:
    """All starts."""
    found = [started(kind, n, size) for kind in MAKERS for size in SIDES for n in ITEMS if n <= most]
    write("data_start", {"machine": machine(), "starts": found})
    show_start()


def show_start() -> None:
    """The table of the stored starts."""
    found = json.loads((RESULTS / "data_start.json").read_text(encoding="utf-8"))["starts"]
    head = [
        "kind",
        "item",
        "items",
        "seconds to the first update",
        "decoding first",
        "memory of its own, MB",
        "pages of files, MB",
    ]
    lines = [
        [
            f["kind"],
            f["size"],
            f"{f['items']:,}",
            f["seconds"],
            f["first_seconds"] if f["kind"] == "shards" else "",
            f["RssAnon"],
            f["RssFile"],
        ]
        for f in found
    ]
    print(table(head, lines))


def wait(source: str, size: int | None, updates: int) -> None:
    """The share of a training step that is spent on waiting for input."""
    config = DataConfig(source=source, size=None if size is None else (size, size))
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        run = prepare(config, Path(folder) / "run", settings={"training.steps": 10_000}).run()
        prepared = time.monotonic() - began
        waited, last = list[float](), [0.0]

        def batches(step: int) -> Any:
            began = time.monotonic()
            found = run.batch(step)
            last[0] = time.monotonic() - began
            return found

        ticks = [time.monotonic()]
        for _ in islice(run.loop.updates(batches), updates + 1):
            ticks.append(time.monotonic())
            waited.append(last[0])
        steps = [b - a for a, b in zip(ticks[1:-1], ticks[2:], strict=True)]
        share = sum(waited[1:]) / sum(steps)
        found = {
            "source": Path(source).name,
            "examples": len(run.prepared.data),
            "shape": list(run.prepared.data.shape),
            "kept_encoded": run.loader.encoded is not None,
            "prepared_seconds": round(prepared, 1),
            "step_ms": round(1000 * statistics.median(steps), 1),
            "wait_ms": round(1000 * statistics.median(waited[1:]), 2),
            "wait_share": round(share, 4),
        }
    path = RESULTS / "data_wait.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["waits"] if path.exists() else {}
    write("data_wait", {"machine": machine(), "waits": stored | {found["source"]: found}})
    print(table(list(found), [list(found.values())]))


def inspect(folder: str, size: int | None) -> None:
    """The rate of the first inspection, decoding and looking, and that of Pillow's decoder alone on as many threads; alternating."""
    from undiffuse.data.cache import CacheEntry
    from undiffuse.data.inspection import files as inspection

    files, names = inspection.image_files(Path(folder))
    config = DataConfig(source=folder, size=None if size is None else (size, size))

    def decoder(path: Any) -> None:
        with path.open("rb") as stream, Image.open(stream) as image:
            image.load()

    rates: dict[str, list[float]] = {"pillow": [], "undiffuse": []}
    original, CacheEntry.load = CacheEntry.load, lambda self: None  # type: ignore[method-assign]
    for _ in range(3):
        began = time.monotonic()
        with ThreadPoolExecutor() as pool:
            list(pool.map(decoder, files))
        rates["pillow"].append(len(files) / (time.monotonic() - began))
        began = time.monotonic()
        side = None if size else inspection.suggested_side(inspection.sizes_of_some(files))
        inspection.scan(files, names, config if side is None else config.model_copy(update={"size": (side, side)}))
        rates["undiffuse"].append(len(files) / (time.monotonic() - began))
    CacheEntry.load = original  # type: ignore[method-assign]
    medians = {name: statistics.median(each) for name, each in rates.items()}
    found: dict[str, float] = {"files": len(files), **{name: round(rate) for name, rate in medians.items()}}
    found["ratio"] = round(medians["undiffuse"] / medians["pillow"], 3)
    path = RESULTS / "data_inspect.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["rates"] if path.exists() else {}
    write("data_inspect", {"machine": machine(), "rates": stored | {Path(folder).name: found}})
    print(table(list(found), [list(found.values())]))


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        start_here(sys.argv[2], json.loads(sys.argv[3]), sys.argv[4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["start", "wait", "inspect", "show"])
    parser.add_argument("source", nargs="?")
    parser.add_argument("--most", type=int, default=ITEMS[-1])
    parser.add_argument("--size", type=int)
    parser.add_argument("--updates", type=int, default=30)
    given = parser.parse_args()
    if given.what == "start":
        start(given.most)
    elif given.what == "show":
        show_start()
    elif given.what == "wait":
        wait(given.source, given.size, given.updates)
    else:
        inspect(given.source, given.size)


if __name__ == "__main__":
    main()
