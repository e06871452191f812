"""What every network is to the rest of the package.

    F(x, timestep, conditioning, tokens, padding_mask) → output

x is the scaled noisy example with whatever goes beside it; the timestep and the summed embeddings of conditions become one
embedding that every layer receives; networks that were built with tokens attend to tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from undiffuse.networks.embeddings import (
    Convention,
    fourier_embedding,
    fourier_frequencies,
    sinusoidal_embedding,
    time_embedding_mlp,
)


class NetworkSettings(BaseModel, ABC):
    """What all configurations of networks have: their `kind`, the name that the network is registered under."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    if TYPE_CHECKING:

        @property
        def kind(self) -> str:
            """Each configuration has it among its settings, as kind: Literal["…"] = "…"."""


class Network(nn.Module, ABC):
    """embedding_width: of the embedding of conditions, and of tokens."""

    embedding_width: int

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        conditioning: Tensor | None = None,
        tokens: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """(B, channels_in, *size), (B,), (B, conditioning_width), (B, n, embedding_width), (B, n) → (B, channels_out, *size).

        padding_mask: True where a token is not there; at least one is in every row.
        """

    @property
    def conditioning_width(self) -> int:
        """The width of the sum of the conditions' embeddings."""
        return self.embedding_width

    def pop_auxiliary_loss(self) -> Tensor | None:
        """The loss besides the error of the last pass in training, (B,) in weighted nats, which is then forgotten; None where there is none."""
        return None

    def untrained(self) -> dict[str, Tensor]:
        """What is not trained and not made anew alike either, by name: nothing of the networks of this package."""
        return {}


class TimestepNetwork(Network, ABC):
    """A network with an embedding of the timestep, to which that of conditions is added.

    frequencies: numbers that the timestep is first turned into.   embedding_width: of timestep, conditions and tokens.

    conditions_join: whether conditions are added to the timestep's embedding, "after" its layers, or to the numbers "before" them.
    """

    def __init__(
        self,
        frequencies: int,
        embedding_width: int,
        convention: Convention = "adm",
        conditions_join: Literal["after", "before"] = "after",
    ) -> None:
        super().__init__()
        self.frequencies, self.embedding_width, self.convention, self.conditions_join = (
            frequencies,
            embedding_width,
            convention,
            conditions_join,
        )
        self.time_embedding = time_embedding_mlp(frequencies, embedding_width)
        self.fourier = fourier_frequencies(frequencies) if convention == "fourier" else None

    @property
    def conditioning_width(self) -> int:
        """The width of the sum of the conditions' embeddings."""
        return self.frequencies if self.conditions_join == "before" else self.embedding_width

    def embedding(self, timestep: Tensor, conditioning: Tensor | None) -> Tensor:
        """The activated embedding of time step (B,) and conditions (B, conditioning_width): (B, embedding_width)."""
        if self.fourier is None:
            waves = sinusoidal_embedding(timestep, self.frequencies, self.convention)
        else:
            waves = fourier_embedding(timestep, self.fourier, self.frequencies)
        if conditioning is not None and self.conditions_join == "before":
            waves, conditioning = waves + conditioning, None
        embedding = self.time_embedding(waves)
        return nn.functional.silu(embedding if conditioning is None else embedding + conditioning)
