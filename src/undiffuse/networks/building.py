"""From a description to a network: the one place that knows all kinds, and what suits which data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from torch import nn

from undiffuse.config import OneOf, kind_of
from undiffuse.errors import UsageError
from undiffuse.networks.autoencoder import Autoencoder, AutoencoderConfig
from undiffuse.networks.base import Network, NetworkSettings
from undiffuse.networks.foreign import Factory, ForeignConfig, ForeignNetwork, embedding_width_of, made, offered_network
from undiffuse.networks.mlp import MLP, MLPConfig
from undiffuse.networks.transformer import Transformer, TransformerConfig
from undiffuse.networks.unet import UNet
from undiffuse.networks.unet_config import StagesConfig, UNetConfig
from undiffuse.registry import Registry

SMALL_EXAMPLE = 16  # of points and tables
MOST_PATCHES = {True: 64, False: 256}  # by whether it is for a CPU


@dataclass(frozen=True)
class NetworkEntry:
    """A kind of network by name.   title: as people write it.   config: its configuration.

    build: (configuration, channels_in, channels_out, size, tokens) → the network, or a module of a user's own.
    suggest: (shape (C, *size), whether it is for a CPU) → a configuration of a size for the data; None for that without any setting.
    factory: of a network of a user's own without a configuration, what makes it.
    """

    title: str
    config: type[NetworkSettings]
    build: Callable[[Any, int, int, Sequence[int], bool], nn.Module]
    suggest: Callable[[Sequence[int], bool], NetworkSettings] | None = None
    factory: Factory | None = None


def _of_axes(network: Callable[..., Network]) -> Callable[..., Network]:
    """A network whose configuration says how many axes it is for. Raises UsageError for examples with others."""

    def build(config: Any, channels_in: int, channels_out: int, size: Sequence[int], tokens: bool) -> Network:
        if config.dims != len(size):
            raise UsageError(
                f"the {NETWORKS[config.kind].title} is for {config.dims} axes, and the examples have {len(size)}: "
                f"set network.dims to {len(size)}."
            )
        return network(config, channels_in, channels_out, size, tokens)

    return build


def _unet(config: UNetConfig, channels_in: int, channels_out: int, size: Sequence[int], tokens: bool) -> UNet:
    return UNet(config, channels_in, channels_out, tokens)


def _foreign(
    config: ForeignConfig, channels_in: int, channels_out: int, size: Sequence[int], tokens: bool
) -> nn.Module:
    """What was handed over, or is registered under the name that the configuration has. Raises UsageError where neither is."""
    given = offered_network()
    if given is None and (entry := NETWORKS.find(config.name)) is not None:
        given = entry.factory
    if given is None:
        raise UsageError(
            f"the network is {config.name}, which is not part of undiffuse, and no code is imported because a file names it: hand it over, by "
            f"undiffuse.load(…, network={config.name.partition(':')[2] or config.name}) or as `network_class`."
        )
    return given if isinstance(given, nn.Module) else made(given, config.name)


def _suggested_autoencoder(shape: Sequence[int], cpu: bool) -> AutoencoderConfig:
    return AutoencoderConfig(**suggested_unet(shape, cpu).model_dump(include=set(StagesConfig.model_fields)))


def _suggested_transformer(shape: Sequence[int], cpu: bool) -> TransformerConfig:
    patch = _patch(shape[1:], cpu)
    return TransformerConfig(patch=patch, width=64, depth=4, heads=2) if cpu else TransformerConfig(patch=patch)


def _suggested_mlp(shape: Sequence[int], cpu: bool) -> MLPConfig:
    return MLPConfig(width=128, depth=3) if cpu else MLPConfig(width=1024, depth=6)


def register_network(name: str, build: Callable[..., nn.Module], config: type[NetworkSettings] | None = None) -> None:
    """Makes a network of one's own known as `name`, to `undiffuse.train(network=name)` and wherever its models are loaded.

    build: without a configuration, what makes the network when called without arguments: a class of torch.nn.Module, or a function; it is
    called as networks/foreign.py says.
    config: a subclass of NetworkSettings with the network's settings, which are then stored with every model; the field `kind` is a
    Literal of the same name, and its default.   build is then called with (configuration, channels_in, channels_out, size, tokens).
    Raises UsageError for a name that is taken, or that is not the configuration's `kind`.
    """
    if config is None:
        NETWORKS.register(name, NetworkEntry(name, ForeignConfig, _foreign, factory=build), build)
        return
    if kind_of(config) != name:
        raise UsageError(
            f"the configuration of {name!r} is recognised by its kind: write kind: Literal[{name!r}] = {name!r} in it."
        )
    NETWORKS.register(name, NetworkEntry(name, config, build), build)


def build_network(
    config: NetworkConfig,
    channels_in: int,
    channels_out: int,
    size: Sequence[int],
    tokens: bool,
    embeds: bool = False,
) -> Network:
    """The network with fresh weights.

    size: of the examples.   tokens: whether the model has conditions that are attended to.   embeds: whether it has conditions that are added
    to an embedding.
    Raises UsageError for a network that does not suit the data.
    """
    network = NETWORKS[config.kind].build(config, channels_in, channels_out, size, tokens)
    if isinstance(network, Network):
        return network
    width = embedding_width_of(network, getattr(config, "embedding_width", None))
    return ForeignNetwork(network, channels_in, channels_out, size, embedding_width=width, embeds=embeds, tokens=tokens)


def suggested(kind: str | None, shape: Sequence[int], cpu: bool) -> NetworkConfig:
    """A network of this kind for examples (C, *size), as large as is bearable on a GPU, or on a laptop's CPU.

    kind: where None, an mlp for points and tables and a U-Net for all else.   Raises UsageError for an unknown one.
    """
    if kind is None:
        kind = "mlp" if len(shape) == 2 and math.prod(shape) <= SMALL_EXAMPLE else "unet"
    entry = NETWORKS[kind]
    if kind == ForeignConfig.model_fields["kind"].default:
        raise UsageError(
            "a network of your own is named by the name that it is registered under: see undiffuse.register_network."
        )
    if entry.factory is not None:
        return ForeignConfig(name=kind, embedding_width=embedding_width_of(made(entry.factory, kind)))
    return entry.config() if entry.suggest is None else entry.suggest(shape, cpu)


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


NETWORKS: Registry[NetworkEntry] = Registry(
    "network",
    "undiffuse.networks",
    {
        "unet": NetworkEntry("U-Net", UNetConfig, _of_axes(_unet), suggested_unet),
        "transformer": NetworkEntry("transformer", TransformerConfig, Transformer, _suggested_transformer),
        "mlp": NetworkEntry("MLP", MLPConfig, MLP, _suggested_mlp),
        "autoencoder": NetworkEntry("autoencoder", AutoencoderConfig, _of_axes(Autoencoder), _suggested_autoencoder),
        "foreign": NetworkEntry("network of your own", ForeignConfig, _foreign),
    },
)
NetworkConfig = Annotated[NetworkSettings, OneOf(NETWORKS)]
"""The configuration of a network, of any kind in NETWORKS."""


def title_of(config: NetworkConfig) -> str:
    """What people call a network."""
    return config.name if isinstance(config, ForeignConfig) else NETWORKS[config.kind].title
