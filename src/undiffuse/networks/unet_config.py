"""What a U-Net, either half of one, and an autoencoder are made of: data."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from undiffuse.errors import UsageError
from undiffuse.networks.embeddings import Convention

Positive = Annotated[int, Field(gt=0)]


class StagesConfig(BaseModel, ABC):
    """What stages (stages.py) are made of; the channels in and out come from the data.

    dims: 1 for signals, 2 for images, 3 for volumes.
    width: base number of channels; multipliers: of width, one per level, each level at half the resolution; rounded.
    depth: residual blocks per level (decoder levels have one more); one number, or one per level.
    attention: downsampling factors at which blocks are followed by attention (2 = half resolution).
    cross_attention: the same for attention to tokens, of networks that are told any; the two lowest levels when not given.
    heads, head_channels: number of heads, or channels per head, which wins when given.
    adaptive: scale and shift by the embedding (AdaGN) rather than add it.
    residual_resample: resample inside residual blocks (BigGAN) rather than by convolutions.
    embedding_width: of time and conditions, 4 · width when not given.
    groups: at most so many groups in GroupNorm; fewer where the channels ask for it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dims: Literal[1, 2, 3] = 2
    width: Positive = 128
    multipliers: tuple[Annotated[float, Field(gt=0)], ...] = (1, 2, 2, 2)
    depth: Positive | tuple[Positive, ...] = 2
    attention: tuple[Positive, ...] = ()
    middle_attention: bool = True
    cross_attention: tuple[Positive, ...] | None = None
    heads: Positive = 1
    head_channels: Positive | None = None
    adaptive: bool = True
    residual_resample: bool = False
    dropout: float = Field(0.0, ge=0, lt=1)
    groups: Positive = 32
    embedding_width: Positive | None = None
    attention_order: Literal["new", "legacy"] = "new"
    clock_embedding: Convention = "adm"

    @model_validator(mode="after")
    def _one_depth_per_level(self) -> StagesConfig:
        if not self.multipliers:
            raise UsageError("a network of stages needs at least one multiplier, one for each level.")
        if isinstance(self.depth, tuple) and len(self.depth) != len(self.multipliers):
            raise UsageError(f"{len(self.depth)} depths were given for {len(self.multipliers)} levels: give one each.")
        return self

    @property
    def depths(self) -> tuple[int, ...]:
        return self.depth if isinstance(self.depth, tuple) else (self.depth,) * len(self.multipliers)


class UNetConfig(StagesConfig):
    """A U-Net: stages down and up, with skip connections."""

    kind: Literal["unet"] = "unet"
