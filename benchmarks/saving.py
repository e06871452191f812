"""What a save costs while training waits, part by part, and what it cost when files were hashed twice and snapshots made anew.

    python -m benchmarks.saving [--parameters 25000000]

The network is plain layers of so many parameters.  A save takes a snapshot (raw and averaged weights, two moments), writes it, and
writes the model file (both sets of weights, their SHA-256), which is then compared with what was to be written.  Peaks are what the
process holds more than before, over its whole life (ru_maxrss), each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.common import machine, table, write
from undiffuse.models import storage
from undiffuse.process.schedules import Cosine
from undiffuse.system import write_atomically
from undiffuse.training import checkpoints
from undiffuse.training.learners import Learner
from undiffuse.training.loop import TrainingLoop
from undiffuse.training.settings import TrainingConfig
from undiffuse.training.timesteps import make_timestep_sampler

WIDTH = 1024
REPEATS = 3


class Plain(Learner):
    """Layers whose loss is cheap: what is measured is what lies around them."""

    def __init__(self, parameters: int) -> None:
        self.layers = [*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(parameters // WIDTH**2))]
        self.module = nn.ModuleList(self.layers)

    def prepared(self, values, generator):
        return values

    def losses(self, x, eps, level, values, computing):
        return sum(layer.weight.sum() for layer in self.layers) * torch.ones(len(x))


def trained(parameters: int) -> TrainingLoop:
    schedule = Cosine()
    loop = TrainingLoop(
        Plain(parameters),
        schedule,
        make_timestep_sampler("uniform", schedule, True),
        TrainingConfig(steps=2, batch_size=1),
    )
    next(loop.updates(lambda step: (torch.zeros(1, 1), {})))
    return loop


def written_as_before(path: Path, tensors: dict[str, Tensor]) -> None:
    """Hashed, written, read back whole, and hashed again."""
    header = {
        "undiffuse": json.dumps({"format": 1, "kind": "model", "sha256": storage.digest_of("{}", tensors)}),
        "config": "{}",
    }

    def write_and_read(temporary: Path) -> None:
        save_file(tensors, temporary, header)
        storage.read(temporary, "model")

    write_atomically(path, write_and_read)


def seconds(call) -> tuple[float, float]:
    """The least of a few times by the clock, and of the processor's: the first waits for the disk, and for other processes."""
    clock, processor = [], []
    for _ in range(REPEATS):
        began = time.perf_counter(), time.process_time()
        call()
        clock.append(time.perf_counter() - began[0])
        processor.append(time.process_time() - began[1])
    return min(clock), min(processor)


def times(parameters: int) -> dict[str, tuple[float, float]]:
    loop = trained(parameters)
    weights = {name: tensor for name, tensor in loop.tensors().items() if name.startswith(("online.", "ema."))}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        return {
            "snapshot": seconds(loop.snapshot),
            "snapshot, as before": seconds(loop.tensors),
            "checkpoint": seconds(
                lambda: checkpoints.save_checkpoint(place / "state", loop.snapshot(), loop.numbers())
            ),
            "model file": seconds(lambda: storage.write(place / "m", "model", "{}", weights)),
            "model file, as before": seconds(lambda: written_as_before(place / "m", weights)),
            "one SHA-256 of both sets": seconds(lambda: storage.digest_of("{}", weights)),
        }


def peak(parameters: int, how: str) -> float:
    """MB that two snapshots add to a loop, over its parameters' size."""
    loop = trained(parameters)
    loop.snapshot()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if how == "as before":
        loop._snapshot = loop.tensors()
        loop._snapshot = loop.tensors()
    else:
        loop.snapshot()
        loop.snapshot()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=25_000_000)
    parser.add_argument("--peak", choices=("now", "as before"))
    given = parser.parse_args()
    if given.peak:
        print(peak(given.parameters, given.peak))
        return
    command = [sys.executable, "-m", "benchmarks.saving", "--parameters", str(given.parameters), "--peak"]
    peaks = {
        how: float(subprocess.run([*command, how], check=True, capture_output=True, text=True).stdout)
        for how in ("now", "as before")
    }
    took, size = times(given.parameters), given.parameters * 4 / 1e6
    rows = [
        [name, f"{clock:.3f}", f"{processor:.3f}", f"{processor / size * 1000:.2f}"]
        for name, (clock, processor) in took.items()
    ]
    print(table(["part of a save", "seconds", "of the processor", "of the processor, per GB of parameters"], rows))
    print(
        table(
            ["renewing a snapshot", "MB more than the last one", "times the parameters"],
            [[how, f"{mb:.0f}", f"{mb / size:.2f}"] for how, mb in peaks.items()],
        )
    )
    write("saving", {"machine": machine(), "parameters": given.parameters, "seconds": took, "peak_mb": peaks})


if __name__ == "__main__":
    main()
