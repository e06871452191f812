"""Which numbers of an example are known, as a condition: channels beside the noisy input, 1 where known, 0 where missing.

A network that is trained on examples with holes must know where they are, or it would learn to make holes (MissDiff, Ouyang et al. 2023,
section 3; Ambient Diffusion, Daras et al. 2023, section 3.1).  Made from the data; sampling says that all is known, so samples are complete;
it is never dropped, and users cannot set it.  Two things no sample can know: what is beyond the end of a sequence, which follows from the
number that says its length; and places of which no example knows anything, such as the land of a map of the sea.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from undiffuse.conditioning.base import ConditionModule, ConditionSettings
from undiffuse.conditioning.numbers import as_number
from undiffuse.errors import UsageError

KNOWN = "known"
"""The name of this condition in a model."""


class KnownConfig(ConditionSettings):
    """Which numbers of the training example are known."""

    declarable: ClassVar[bool] = False

    kind: Literal["known"] = Field("known", description="Which kind of condition this is.")
    shape: tuple[int, ...] = Field(
        min_length=2,
        description="Shape of what says it: (channels, *size), one channel where all miss the same places.",
    )
    never: str | None = Field(
        None,
        description="Places that no training example knows, as bits, packed by zlib, in hexadecimal digits; None where there are none.",
    )
    length: str | None = Field(
        None, description="The number that says where a sequence ends; None where all examples are of one length."
    )
    lengths: tuple[int, ...] = Field(
        (),
        description="Lengths of the training examples at evenly spaced quantiles, the shortest and the longest first and last.",
    )
    dropout: Literal[0] = Field(0, description="Always 0: this condition is never left out.")
    inject: Literal["concat"] = Field("concat", description="Always concat.")
    missing: Literal[True] = Field(True, description="Always true: samples, and complete examples, say nothing of it.")

    def merged_with(self, data: KnownConfig) -> KnownConfig:
        if data.shape[0] != self.shape[0]:
            raise UsageError(
                f"the model was told of {self.shape[0]} channels where numbers are missing, and this data has {data.shape[0]}: train a new one."
            )
        return self._merged(data, shape=data.shape, never=data.never, length=data.length, lengths=data.lengths)

    @property
    def concat_channels(self) -> int:
        return self.shape[0]

    def ever(self) -> Tensor:
        """Which places some training example knows, bool (channels, *size)."""
        if self.never is None:
            return torch.ones(self.shape, dtype=torch.bool)
        packed = np.frombuffer(zlib.decompress(bytes.fromhex(self.never)), np.uint8)
        bits = np.unpackbits(packed, count=math.prod(self.shape)).reshape(self.shape)
        return torch.from_numpy(bits == 0)


def packed_places(never: np.ndarray) -> str | None:
    """Places, bool (channels, *size), as KnownConfig has them."""
    return zlib.compress(np.packbits(never).tobytes(), 9).hex() if never.any() else None


class KnownCondition(ConditionModule):
    """bool (B, channels, *size) → the same as floats."""

    settable = False
    config: KnownConfig

    def __init__(self, config: KnownConfig, width: int) -> None:
        super().__init__(config)

    def forward(self, encoded: Tensor) -> Tensor:
        return encoded.float()

    def null_token(self) -> Tensor:
        return self.config.ever()

    def read(self, values: Sequence[object]) -> Tensor:
        raise UsageError("which numbers of an example are known cannot be set.")

    def before_ends(self, lengths: Sequence[object]) -> Tensor:
        """What is known of sequences of these lengths, None for the longest. Raises UsageError for one that there is not."""
        shape = self.config.shape
        ends = torch.tensor([float(shape[-1]) if length is None else as_number(length) for length in lengths])
        wrong = (ends < 1) | (ends > shape[-1]) | (ends != ends.round())
        if wrong.any():
            raise UsageError(
                f"sequences have 1 to {shape[-1]} positions, a whole number, and not {ends[wrong][0]:g}: give another {self.config.length}."
            )
        column = (-1, *[1] * len(shape))
        return (torch.arange(shape[-1]) < ends.reshape(column)) & self.config.ever()

    def drawn_lengths(self, shares: Tensor) -> list[int]:
        """Lengths as the training examples have them, of shares (n,) between 0 and 1 that are drawn uniformly."""
        quantiles = torch.tensor(self.config.lengths, dtype=torch.float64)
        place = shares.double() * (len(quantiles) - 1)
        below = place.floor().long().clamp(max=len(quantiles) - 2)
        return torch.lerp(quantiles[below], quantiles[below + 1], place - below).round().long().tolist()
