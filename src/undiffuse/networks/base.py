"""What every network is to the rest of the house.

    F(x, clock, conditioning, tokens, absent) → output

x is the scaled noisy example with whatever goes beside it; the clock and the summed embeddings of conditions become one
embedding that every layer hears; tokens are attended to by networks that were built to be told any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from undiffuse.networks.embeddings import Convention, clock_mlp, fourier_embedding, fourier_frequencies, sinusoidal_embedding


class Network(nn.Module, ABC):
    """frequencies: numbers that the clock is first turned into.   embedding_width: of clock, conditions and tokens."""

    def __init__(self, frequencies: int, embedding_width: int, convention: Convention = "adm") -> None:
        super().__init__()
        self.frequencies, self.embedding_width, self.convention = frequencies, embedding_width, convention
        self.clock_mlp = clock_mlp(frequencies, embedding_width)
        self.fourier = fourier_frequencies(frequencies) if convention == "fourier" else None

    @abstractmethod
    def forward(
        self, x: Tensor, clock: Tensor, conditioning: Tensor | None = None, tokens: Tensor | None = None, absent: Tensor | None = None
    ) -> Tensor:
        """(B, channels_in, *size), (B,), (B, embedding_width), (B, n, embedding_width), (B, n) → (B, channels_out, *size).

        absent: True where a token is not there; at least one is in every row.
        """

    def taken_cost(self) -> Tensor | None:
        """What the last pass in training cost beside its error, (B,) in weighted nats, and forgets it; None where nothing."""
        return None

    def embedding(self, clock: Tensor, conditioning: Tensor | None) -> Tensor:
        """Of clock and conditions, activated: (B, embedding_width)."""
        if self.fourier is None:
            waves = sinusoidal_embedding(clock, self.frequencies, self.convention)
        else:
            waves = fourier_embedding(clock, self.fourier, self.frequencies)
        embedding = self.clock_mlp(waves)
        return nn.functional.silu(embedding if conditioning is None else embedding + conditioning)
