"""A 3×3 convolution on a map of 2×2, as a convolution and as the matrix product it is; and the demo model with each.

python -m benchmarks.small_maps
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.common import machine, table, write
from benchmarks.overhead import alternated
from undiffuse.networks.blocks import Conv2d
from undiffuse.networks.unet import UNet
from undiffuse.runs.presets import digits

BATCH, ROUNDS = 192, 80


def step(module: nn.Module, *inputs: torch.Tensor):
    def run() -> None:
        module(*inputs).square().mean().backward()
        module.zero_grad(set_to_none=True)

    return run


def main() -> None:
    where, rows = machine(), []
    for channels in (32, 64, 128):
        x = torch.randn(BATCH, channels, 2, 2, requires_grad=True)
        ours = Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
        plain = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
        rows.append([f"one convolution, {channels} channels", *alternated([step(ours, x), step(plain, x)], ROUNDS)])
    network = UNet(digits().network, 1, 1).to(memory_format=torch.channels_last)
    plain_network = UNet(digits().network, 1, 1).to(memory_format=torch.channels_last)
    for module in plain_network.modules():
        if isinstance(module, Conv2d):
            module.__class__ = nn.Conv2d  # the same parameters, torch's own forward
    x, clock = torch.randn(BATCH, 1, 8, 8), torch.rand(BATCH) * 1000
    rows.append(["the demo network", *alternated([step(network, x, clock), step(plain_network, x, clock)], ROUNDS)])
    print(
        table(
            ["forward and backward", "product, ms", "convolution, ms", "ratio"],
            [[name, f"{a * 1e3:.2f}", f"{b * 1e3:.2f}", f"{a / b:.2f}"] for name, a, b in rows],
        )
    )
    write(
        "small_maps",
        {
            "machine": where,
            "rows": [dict(zip(("what", "product_s", "convolution_s"), row, strict=True)) for row in rows],
        },
    )


if __name__ == "__main__":
    main()
