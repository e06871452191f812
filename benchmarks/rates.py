"""How near each network comes to what the machine can multiply: a forward and a backward pass against a plain matrix product.

python -m benchmarks.rates [--rounds 15]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import machine, table, write
from benchmarks.overhead import matmul_rate
from undiffuse.networks.building import NETWORKS, build_network, suggested

SHAPES = {"digits": (1, 8, 8), "28×28": (1, 28, 28), "table of 5": (5, 1), "signal of 64": (1, 64)}
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds, where, rows, found = parser.parse_args().rounds, machine(), [], {}
    rate = matmul_rate()
    for what, shape in SHAPES.items():
        for kind in ("unet", "transformer", "mlp", "autoencoder"):
            name = NETWORKS[kind].title
            network = build_network(suggested(kind, shape, cpu=True), shape[0], shape[0], shape[1:], False)
            if len(shape) == 3:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            x, clock, times = torch.randn(BATCH, *shape), torch.rand(BATCH) * 1000, []
            for _ in range(rounds + 2):
                began = time.perf_counter()
                network(x, clock).square().mean().backward()
                times.append(time.perf_counter() - began)
            with FlopCounterMode(display=False) as counter:
                network(x, clock).square().mean().backward()
            seconds, count = median(times[2:]), sum(p.numel() for p in network.parameters())
            share = counter.get_total_flops() / seconds / rate
            rows.append([what, name, f"{count:,}", f"{seconds * 1e3:.1f}", f"{share:.0%}"])
            found[f"{what}, {kind}"] = {"parameters": count, "ms": seconds * 1e3, "share_of_matmul": share}
    print(
        table(
            ["data", "network", "parameters", f"ms for {BATCH}, forward and backward", "of a matrix product's rate"],
            rows,
        )
    )
    print(f"matrix product: {rate / 1e9:.0f} GFLOP/s, {where['threads']} threads, {where['device']}")
    write("rates", {"machine": where, "matmul_flops": rate, "found": found})


if __name__ == "__main__":
    main()
