"""A 3×3 convolution on a map of 2×2, as a convolution and as the matrix product it is; and the demo model with each.

python -m benchmarks.small_maps
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.common import machine, table, write
from benchmarks.overhead import alternated
from undiffuse.networks.blocks import Conv2d
from undiffuse.networks.unet import UNet
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.runs.presets import digits

BATCH, ROUNDS = 192, 80


def channels_last(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def step(module: nn.Module, *inputs: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        module(*inputs).square().mean().backward()
        module.zero_grad(set_to_none=True)

    return run


def main() -> None:
    where, rows = machine(), list[tuple[str, float, float]]()
    for channels in (32, 64, 128):
        x = torch.randn(BATCH, channels, 2, 2, requires_grad=True)
        ours = channels_last(Conv2d(channels, channels, 3, padding=1))
        plain = channels_last(nn.Conv2d(channels, channels, 3, padding=1))
        a, b = alternated([step(ours, x), step(plain, x)], ROUNDS)
        rows.append((f"one convolution, {channels} channels", a, b))
    config = digits().network
    assert isinstance(config, UNetConfig)
    network, plain_network = (channels_last(UNet(config, 1, 1)) for _ in range(2))
    for module in plain_network.modules():
        if isinstance(module, Conv2d):
            module.__class__ = nn.Conv2d  # type: ignore[assignment]  # the same parameters, torch's own forward
    x, timestep = torch.randn(BATCH, 1, 8, 8), torch.rand(BATCH) * 1000
    a, b = alternated([step(network, x, timestep), step(plain_network, x, timestep)], ROUNDS)
    rows.append(("the demo network", a, b))
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
