"""What a U-Net, either half of one, and an autoencoder are made of: data."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from undiffuse.errors import UsageError
from undiffuse.networks.embeddings import Convention

Positive = Annotated[int, Field(gt=0)]
PLAIN = (1, 1)  # the filter that averages


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

    What follows is set as others have it, to use their weights (docs/reference/released-networks.md says which networks are which settings):
    min_channels_per_group: fewer groups where they would have fewer channels.   norm_eps: epsilon of GroupNorm.
    downsample_padding: of strided convolutions; 1 at both ends of an axis, or 0 for one zero at the end alone, as DDPM has it.
    noise_channels: numbers that the timestep is first turned into, `width` when not given.   conditions_join: what is told by layers is added
    after the timestep's two layers, or before them, to these numbers.
    first_width: channels after the first convolution, those of the first level when not given.
    decoder_attention: on the way up, after every block of a level or its last alone.
    resample_filter: taps of the filter for changing the resolution inside residual blocks; 1, 1 is the average, and nearest neighbour;
    1, 3, 3, 1 the FIR filter of StyleGAN2 and NCSN++.   resample_proj: a 1×1 convolution on the skip path of blocks that resample.
    skip_scale: what the sums of residual blocks and attention are multiplied by; sqrt(1/2) in DDPM++ and NCSN++.
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
    timestep_embedding: Convention = "adm"
    min_channels_per_group: Positive = 1
    norm_eps: float = Field(1e-5, gt=0)
    downsample_padding: Literal[0, 1] = 1
    noise_channels: Positive | None = None
    conditions_join: Literal["after", "before"] = "after"
    first_width: Positive | None = None
    decoder_attention: Literal["every", "last"] = "every"
    resample_filter: tuple[Positive, ...] = PLAIN
    resample_proj: bool = False
    skip_scale: float = Field(1.0, gt=0)

    @model_validator(mode="after")
    def _one_depth_per_level(self) -> StagesConfig:
        if not self.multipliers:
            raise UsageError("a network of stages needs at least one multiplier, one for each level.")
        if isinstance(self.depth, tuple) and len(self.depth) != len(self.multipliers):
            raise UsageError(f"{len(self.depth)} depths were given for {len(self.multipliers)} levels: give one each.")
        if len(self.resample_filter) % 2:
            raise UsageError(
                f"resample_filter has {len(self.resample_filter)} taps: a filter that halves the resolution evenly has 2, 4, …"
            )
        if not self.residual_resample and (self.resample_filter != PLAIN or self.resample_proj):
            raise UsageError(
                "resample_filter and resample_proj are of residual blocks that resample: set residual_resample to true with them."
            )
        if self.residual_resample and self.downsample_padding == 0:
            raise UsageError(
                "downsample_padding is of strided convolutions, and with residual_resample there are none: leave it out."
            )
        return self

    @property
    def depths(self) -> tuple[int, ...]:
        return self.depth if isinstance(self.depth, tuple) else (self.depth,) * len(self.multipliers)


class UNetConfig(StagesConfig):
    """A U-Net: stages down and up, with skip connections.

    encoder_type, decoder_type: "standard", or with a pyramid beside the stages (Song et al. 2021, appendix C.1; pyramids.py): "skip" adds
    the input, at every resolution, on the way down, or makes the output of what every resolution adds to it on the way up;
    "residual" adds what a convolution makes of the pyramid's level before.
    """

    kind: Literal["unet"] = "unet"
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
