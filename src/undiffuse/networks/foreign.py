"""A network of a user's own as one of this package: any module that is called with x, its timestep and an embedding.

    module(x, t, embedding) → output        or with fewer arguments: (x, t), or x alone

x: float32 (B, channels_in, *size), the scaled noisy example, with the channels of conditions beside it after its own.
t: float32 (B,), the timestep: 0 … T - 1 of a chain, 1000 t of a continuous schedule.
embedding: float32 (B, embedding_width), the sum of the embeddings of conditions; None in a model without any.
output: (B, channels_out, *size).

Code is never imported because a file names it.  A network in a file is made by what the user hands over or has registered.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.networks.base import Network, NetworkSettings

Factory = Callable[[], nn.Module]
"""What makes a network when it is called without arguments: a class, or a function."""
ARGUMENTS = ("x", "t", "embedding")


class ForeignConfig(NetworkSettings):
    """A network of the user's own, made by code that is not part of undiffuse."""

    kind: Literal["foreign"] = Field("foreign", description="Which kind of network this is.")
    name: str = Field(description="The name it is registered under, or its class as module:class.")
    embedding_width: int | None = Field(
        None, gt=0, description="Width of the embedding of conditions; None where it takes no embedding."
    )


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside what torch.compile or DataParallel made of it, whose class and names of parameters are stored."""
    while isinstance(
        inside := module.module if isinstance(module, nn.DataParallel) else getattr(module, "_orig_mod", None),
        nn.Module,
    ):
        module = inside
    return module


def name_of(network: nn.Module | Factory) -> str:
    """How a file names the class of a network, or the function that makes it: module:class."""
    made_by = type(unwrapped(network)) if isinstance(network, nn.Module) else network
    return f"{made_by.__module__}:{getattr(made_by, '__qualname__', type(made_by).__qualname__)}"


def embedding_width_of(network: object, given: int | None = None) -> int | None:
    """The width of the embedding that a network takes: as given, or as its attribute `embedding_width` has it."""
    module = unwrapped(network) if isinstance(network, nn.Module) else network
    found = getattr(module, "embedding_width", None) if given is None else given
    return found if isinstance(found, int) and found > 0 else None


def made(make: Factory, name: str) -> nn.Module:
    """The network that `make` makes. Raises UsageError where it needs arguments, or makes something else."""
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise UsageError(
            f"{name} cannot be called without arguments ({error}): give a function that makes the network, such as lambda: Net(64)."
        ) from None
    except ValueError:  # one without a signature, such as a built-in
        pass
    network = make()
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name} makes a {type(network).__name__}, and a network is a torch.nn.Module: return one.")
    return network


_OFFERED: ContextVar[nn.Module | Factory | None] = ContextVar("_OFFERED", default=None)


@contextmanager
def offered(network: nn.Module | Factory | None) -> Iterator[None]:
    """Inside a `with`: models of a network of the user's own get this one, or what this makes; None leaves it to what is outside."""
    if network is None:
        yield
        return
    token = _OFFERED.set(network)
    try:
        yield
    finally:
        _OFFERED.reset(token)


def offered_network() -> nn.Module | Factory | None:
    """What `offered` offers here, None where nothing."""
    return _OFFERED.get()


class ForeignNetwork(Network):
    """A module of a user's own, checked once to take and to return the shapes that it has to.

    embedding_width: of the embedding it takes, its attribute of that name when None.   embeds: whether the model has conditions that are
    added to an embedding.   tokens: whether it has conditions that are attended to.
    Raises UsageError, one sentence, for a module that cannot be used so.
    """

    called: (
        nn.Module
    )  # as it was given: inside torch.compile's or DataParallel's; no part of this module, or all would be there twice
    draws = True  # it may: what it draws is then seeded for every step, and it is in training mode inside an update

    def __init__(
        self,
        module: nn.Module,
        channels_in: int,
        channels_out: int,
        size: Sequence[int],
        *,
        embedding_width: int | None = None,
        embeds: bool = False,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        self.module, self.__dict__["called"] = unwrapped(module), module
        name, width = type(self.module).__name__, embedding_width_of(module, embedding_width)
        self.arguments = _arguments(self.module, embeds)
        if tokens:
            raise UsageError(
                f"{name} cannot attend to tokens: give the condition inject='embedding' or inject='concat' instead of 'cross_attention'."
            )
        if embeds and self.arguments < len(ARGUMENTS):
            raise UsageError(
                f"{name} takes {self.arguments} of the arguments {', '.join(ARGUMENTS)}, and conditions reach it as the third: let its forward "
                "take an embedding (B, width), or leave the conditions out by conditions={}."
            )
        if embeds and width is None:
            raise UsageError(
                f"how wide an embedding {name} takes is not known: set its attribute embedding_width, or give embedding_width=…."
            )
        self.embedding_width = width or 1
        parameters = list(module.parameters())
        if not any(p.requires_grad for p in parameters):
            raise UsageError(f"{name} has no parameters to train.")
        if any(p.is_meta for p in parameters):
            raise UsageError(f"{name} has parameters on the device meta, which have no values: make it on the CPU.")
        if other := {p.dtype for p in parameters} - {torch.float32}:
            raise UsageError(f"the parameters of {name} are {other.pop()}: make them float32, by .float().")
        self._check(channels_in, channels_out, tuple(size), embeds)

    def _check(self, channels_in: int, channels_out: int, size: tuple[int, ...], embeds: bool) -> None:
        """Calls the module once, on zeros. Raises UsageError where that fails, or the output has another shape."""
        name, device = type(self.module).__name__, next(self.module.parameters()).device
        x, t = torch.zeros(2, channels_in, *size, device=device), torch.zeros(2, device=device)
        embedding = torch.zeros(2, self.embedding_width, device=device) if embeds else None
        called = f"{name}({', '.join(f'{n} {tuple(v.shape)}' for n, v in zip(ARGUMENTS, (x, t, embedding), strict=True) if v is not None)})"
        modes = {module: module.training for module in self.module.modules()}
        try:
            recorded = not torch.is_inference_mode_enabled()  # inside it, a model is loaded for sampling alone
            with torch.set_grad_enabled(recorded), torch.random.fork_rng(devices=[]):
                found = self.eval()(x, t, embedding)
        except UsageError:
            raise
        except Exception as error:
            none = (
                " (its embedding is None, for the model has no conditions)"
                if self.arguments == 3 and not embeds
                else ""
            )
            raise UsageError(f"{called} fails with {type(error).__name__}: {error}{none}") from error
        finally:
            for module, training in modes.items():
                module.training = training
        expected = (2, channels_out, *size)
        if not isinstance(found, Tensor) or tuple(found.shape) != expected:
            what = f"the shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            fix = "change its last layer" if isinstance(found, Tensor) else "return the tensor alone"
            raise UsageError(f"{called} returns {what}, and a tensor of the shape {expected} is needed: {fix}.")
        if not found.is_floating_point():
            raise UsageError(
                f"{called} returns numbers of the type {found.dtype}, and floats are needed: convert them."
            )
        if recorded and not found.requires_grad:
            raise UsageError(
                f"what {called} returns does not depend on its parameters, so nothing could be learned: leave no_grad, inference_mode and "
                "detach() out of its forward."
            )

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        conditioning: Tensor | None = None,
        tokens: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        output: Tensor = self.called(*(x, timestep, conditioning)[: self.arguments])
        return output

    def untrained(self) -> dict[str, Tensor]:
        """What is not trained and yet part of the network: frozen parameters and persistent buffers, by their names in the module."""
        trained = {name for name, p in self.module.named_parameters() if p.requires_grad}
        return {name: value for name, value in self.module.state_dict().items() if name not in trained}


def _arguments(module: nn.Module, embeds: bool) -> int:
    """How many of ARGUMENTS a module is called with: as many as its `forward` takes, without an embedding that may be left out and is not there.

    Raises UsageError for one that takes none, or needs more.
    """
    name = type(module).__name__
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except ValueError:
        raise UsageError(
            f"the forward of {name} does not say which arguments it takes, as that of a scripted module: wrap it in a torch.nn.Module whose "
            f"forward takes {', '.join(ARGUMENTS)}."
        ) from None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return len(ARGUMENTS)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p.name for p in positional if p.default is p.empty]
    required += [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not positional or len(required) > len(ARGUMENTS):
        raise UsageError(
            f"{name} is called as {name}({', '.join(ARGUMENTS)}), or with fewer of these, and its forward takes ({', '.join(required)}): "
            "wrap it in a module that takes these."
        )
    most = len(positional) if embeds else max(len(required), min(2, len(positional)))
    return min(len(ARGUMENTS), most)
