"""Devices: which one is used when none is named, and whether the one that is named can be."""

from __future__ import annotations

from functools import lru_cache

import torch

from undiffuse.errors import UsageError
from undiffuse.networks.unet import UNet
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.process.philox import standard_normal
from undiffuse.rng import GeneratorStream, NoiseStream, drawing, generator


def default_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def usable_device(name: torch.device | str | None) -> torch.device:
    """The device of that name, the default one for None. Raises UsageError unless what training and sampling need works on it."""
    if name is None:
        return default_device()
    try:
        return _tried(str(name))
    except (
        RuntimeError,
        AssertionError,
        TypeError,
    ) as error:  # what torch raises for a device, or an operation that it lacks there
        why = str(error).splitlines()[0].split(". ")[0]
        raise UsageError(
            f"the device {str(name)!r} cannot be used here ({why}): leave `device` out, or see 'undiffuse doctor'."
        ) from None


@lru_cache
def _tried(name: str) -> torch.device:
    """The device, after noise, a network, its gradient and the optimizer's step have worked on it; a CPU's do."""
    device = torch.device(name)
    torch.empty(0, device=device)
    if device.type != "cpu":
        with drawing(GeneratorStream.DISCARDED):
            network = UNet(UNetConfig(width=8, multipliers=(1, 2), depth=1, groups=4, attention=(2,)), 1, 1).to(device)
        x = standard_normal((1, 8, 8), 0, torch.arange(2, device=device), stream=NoiseStream.INITIAL)
        x = x + torch.randn(1, device=device, generator=generator(GeneratorStream.DISCARDED, device=device))
        network(x, torch.zeros(2, device=device)).square().mean().backward()
        torch.optim.AdamW(network.parameters(), fused=True).step()
        next(network.parameters()).sum().item()
    return device
