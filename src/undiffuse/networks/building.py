"""From a description to a network: the one place that knows all kinds, and what suits which data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, cast, get_args

from pydantic import Field

from undiffuse.errors import UsageError
from undiffuse.networks.autoencoder import Autoencoder, AutoencoderConfig
from undiffuse.networks.base import Network
from undiffuse.networks.mlp import MLP, MLPConfig
from undiffuse.networks.transformer import Transformer, TransformerConfig
from undiffuse.networks.unet import UNet
from undiffuse.networks.unet_config import StagesConfig, UNetConfig

NetworkKind = Literal["unet", "transformer", "mlp", "autoencoder"]
NetworkConfig = Annotated[UNetConfig | TransformerConfig | MLPConfig | AutoencoderConfig, Field(discriminator="kind")]
NETWORK_NAMES: dict[str, str] = {
    "unet": "U-Net",
    "transformer": "transformer",
    "mlp": "MLP",
    "autoencoder": "autoencoder",
}

SMALL_EXAMPLE = 16  # of points and tables
MOST_PATCHES = {True: 64, False: 256}  # by whether it is for a CPU


def build_network(
    config: NetworkConfig, channels_in: int, channels_out: int, size: Sequence[int], tokens: bool
) -> Network:
    """The network with fresh weights.   size: of the examples.   tokens: whether it attends to tokens.   Raises UsageError."""
    if isinstance(config, UNetConfig | AutoencoderConfig) and config.dims != len(size):
        raise UsageError(
            f"the {NETWORK_NAMES[config.kind]} is for {config.dims} axes, and the examples have {len(size)}: set network.dims to {len(size)}."
        )
    if isinstance(config, UNetConfig):
        return UNet(config, channels_in, channels_out, tokens)
    if isinstance(config, TransformerConfig):
        return Transformer(config, channels_in, channels_out, size, tokens)
    if isinstance(config, MLPConfig):
        return MLP(config, channels_in, channels_out, size, tokens)
    return Autoencoder(config, channels_in, channels_out, size, tokens)


def suggested(kind: str | None, shape: Sequence[int], cpu: bool) -> NetworkConfig:
    """A network of this kind for examples (C, *size), as large as is bearable on a GPU, or on a laptop's CPU.

    kind: where None, an mlp for points and tables and a U-Net for all else.   Raises UsageError for an unknown one.
    """
    if kind is None:
        kind = "mlp" if len(shape) == 2 and math.prod(shape) <= SMALL_EXAMPLE else "unet"
    if kind == "unet":
        return suggested_unet(shape, cpu)
    if kind == "autoencoder":
        return AutoencoderConfig(**suggested_unet(shape, cpu).model_dump(include=set(StagesConfig.model_fields)))
    if kind == "mlp":
        return MLPConfig(width=128, depth=3) if cpu else MLPConfig(width=1024, depth=6)
    if kind == "transformer":
        patch = _patch(shape[1:], cpu)
        return TransformerConfig(patch=patch, width=64, depth=4, heads=2) if cpu else TransformerConfig(patch=patch)
    raise UsageError(f"there is no network {kind!r}: choose one of {', '.join(get_args(NetworkKind))}.")


def suggested_unet(shape: Sequence[int], cpu: bool) -> UNetConfig:
    """A U-Net for examples (C, *size), as large as is bearable on a GPU, or on a laptop's CPU."""
    dims = cast(Literal[1, 2, 3], len(shape) - 1)
    side = min(shape[1:])
    levels = max(1, min(3 if cpu else 4, side.bit_length() - 2))
    attention = tuple(2**level for level in range(1, levels) if side / 2**level <= 16)
    return UNetConfig(
        dims=dims,
        width=24 if cpu else 64,
        multipliers=(1, 2, 3, 4)[:levels],
        depth=1 if cpu else 2,
        groups=4 if cpu else 32,
        attention=() if cpu else attention,
        head_channels=32,
        middle_attention=not cpu,
        residual_resample=not cpu,
    )


def _patch(size: Sequence[int], cpu: bool) -> tuple[int, ...]:
    """The smallest patch, from 2 on, that leaves a bearable number of them: as long along each axis, but where that is shorter."""
    patch = 2
    while math.prod(-(-n // min(patch, n)) for n in size) > MOST_PATCHES[cpu]:
        patch += 1
    return tuple(min(patch, n) for n in size)
