"""What a U-Net, either half of one, and an autoencoder are made of: data."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from undiffuse.errors import UsageError
from undiffuse.networks.base import NetworkSettings
from undiffuse.networks.embeddings import Convention

Positive = Annotated[int, Field(gt=0)]
BOX_FILTER = (1, 1)  # the filter that averages


class StagesConfig(NetworkSettings, ABC):
    """What stages (stages.py) are made of; the channels in and out come from the data.

    The settings from attention_order on are there to use the weights of other programs (docs/measurements/networks.md).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dims: Literal[1, 2, 3] = Field(2, description="1 for signals, 2 for images, 3 for volumes.")
    width: Positive = Field(128, description="Channels at full resolution.")
    multipliers: tuple[Annotated[float, Field(gt=0, le=1024)], ...] = Field(
        (1, 2, 2, 2),
        description="Channels of each level as a multiple of the width, one per level; each level has half the resolution "
        "of the one before.",
    )
    depth: Positive | tuple[Positive, ...] = Field(
        2, description="Residual blocks per level, one number for all or one per level; the decoder has one more."
    )
    attention: tuple[Positive, ...] = Field(
        (), description="Downsampling factors at which blocks are followed by self-attention; 2 is half the resolution."
    )
    middle_attention: bool = Field(True, description="Whether the lowest level has attention between its two blocks.")
    cross_attention: tuple[Positive, ...] | None = Field(
        None,
        description="Downsampling factors at which blocks attend to tokens of the conditions; the two lowest levels when "
        "left out.",
    )
    heads: Positive = Field(1, description="Attention heads.")
    head_channels: Positive | None = Field(None, description="Channels per attention head; replaces heads when given.")
    adaptive: bool = Field(True, description="Scale and shift by the embedding (AdaGN) rather than add it.")
    residual_resample: bool = Field(
        False, description="Change the resolution inside residual blocks (BigGAN) rather than by convolutions."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropout in every block, from 0 to less than 1.")
    groups: Positive = Field(32, description="Most groups of a GroupNorm; fewer where the channels do not divide.")
    embedding_width: Positive | None = Field(
        None, description="Width of the embedding of timestep and conditions; 4 times the width when left out."
    )
    attention_order: Literal["new", "legacy"] = Field(
        "new",
        description="Order of queries, keys and values among the channels: new, or legacy as in OpenAI's older models.",
    )
    timestep_embedding: Convention = Field(
        "adm", description="Frequencies of the timestep embedding: adm, ddpm or fourier."
    )
    min_channels_per_group: Positive = Field(1, description="Fewest channels of a GroupNorm's group.")
    norm_eps: float = Field(1e-5, gt=0, description="Epsilon of GroupNorm, above 0.")
    downsample_padding: Literal[0, 1] = Field(
        1,
        description="Padding of strided convolutions: 1 at both ends of an axis, or 0 for one zero at the end alone, as in DDPM.",
    )
    noise_channels: Positive | None = Field(
        None, description="Numbers in the timestep's sinusoidal embedding; the width when left out."
    )
    conditions_join: Literal["after", "before"] = Field(
        "after",
        description="Where conditions are added: after the two layers of the timestep embedding, or before them.",
    )
    first_width: Positive | None = Field(
        None, description="Channels after the first convolution; those of the first level when left out."
    )
    decoder_attention: Literal["every", "last"] = Field(
        "every", description="On the way up, attention after every block of a level or after the last alone."
    )
    resample_filter: tuple[Positive, ...] = Field(
        BOX_FILTER,
        description="Taps of the filter that changes the resolution in residual blocks: 1, 1 averages; 1, 3, 3, 1 is the "
        "FIR filter of StyleGAN2 and NCSN++.",
    )
    resample_proj: bool = Field(
        False, description="A 1×1 convolution on the skip path of blocks that change the resolution."
    )
    skip_scale: float = Field(
        1.0,
        gt=0,
        description="What sums of residual blocks and attention are multiplied by, above 0; sqrt(1/2) in DDPM++ and NCSN++.",
    )

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
        if not self.residual_resample and (self.resample_filter != BOX_FILTER or self.resample_proj):
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
        """Residual blocks on each level."""
        return self.depth if isinstance(self.depth, tuple) else (self.depth,) * len(self.multipliers)


class UNetConfig(StagesConfig):
    """A U-Net: stages down and up, with skip connections, and pyramids beside them where configured (pyramids.py)."""

    kind: Literal["unet"] = Field("unet", description="Which kind of network this is.")
    encoder_type: Literal["standard", "skip", "residual"] = Field(
        "standard",
        description="standard; skip or residual add a pyramid of the input on the way down (Song et al. 2021, appendix C.1).",
    )
    decoder_type: Literal["standard", "skip"] = Field(
        "standard",
        description="standard; skip adds up the output from every resolution on the way up (Song et al. 2021, appendix C.1).",
    )
