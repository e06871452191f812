"""The U-Net of DDPM and of ADM, one network with both as settings.

    x ── conv ──┬─ blocks ─┬─ down ─┬─ blocks ─ … ─ middle ─ … ─ blocks ── up ── blocks ── norm, SiLU, conv ── F
                └──────────┴────────┴──────── every output is kept and concatenated on the way up ────────┘

Every residual block receives the embedding of the timestep plus that of the conditions.  DDPM (Ho et al. 2020) adds it,
attends at 16×16 with one head and resamples by convolutions; ADM (Dhariwal & Nichol 2021, section 3) goes deeper and
less wide, attends at 32, 16 and 8 with 64 channels per head, resamples inside BigGAN residual blocks, and scales and
shifts normalised features by the embedding.  presets.py names the published configurations.  Where there are
tokens, positions also attend to these, in the middle and at some of the levels.  DDPM++ and NCSN++ (Song et al. 2021, appendix C),
as EDM trains them, are settings as well, the latter with a pyramid beside its encoder (pyramids.py).

Sizes need not fit: inputs are padded to a multiple of the total downsampling and outputs cropped, so padded positions
receive no gradient of the loss and never leave the network.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from undiffuse.networks.base import TimestepNetwork
from undiffuse.networks.blocks import Resampling, conv, cropped, zeroed
from undiffuse.networks.pyramids import input_pyramid, output_pyramid
from undiffuse.networks.stages import Stage, Stages, through
from undiffuse.networks.unet_config import UNetConfig


class UNet(TimestepNetwork):
    """F(x, timestep, conditioning, tokens, padding_mask), see base.py.   tokens: whether it attends to tokens."""

    def __init__(self, config: UNetConfig, channels_in: int, channels_out: int, tokens: bool = False) -> None:
        stages = Stages(config, tokens)
        super().__init__(
            config.noise_channels or config.width,
            stages.embedding_width,
            config.timestep_embedding,
            config.conditions_join,
        )
        self.config, self.stages = config, stages
        self.encoder, kept = stages.encoder(channels_in)
        self.middle = stages.middle()
        self.decoder = stages.decoder(kept)
        channels = stages.widths[0]
        self.norm = stages.norm(channels)
        self.last = zeroed(conv(config.dims, channels, channels_out))
        self.input_pyramid = input_pyramid(config, stages.widths, channels_in)
        self.output_pyramid = output_pyramid(config, stages.widths, channels_out, stages.norm)
        self.upsampling = Resampling(config.dims, "up", config.resample_filter)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        conditioning: Tensor | None = None,
        tokens: Tensor | None = None,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        size = x.shape[2:]
        x = self.stages.padded(x)
        embedding = self.embedding(timestep, conditioning)
        kept, resized = [], x
        for number, stage in enumerate(self.encoder):
            x = stage(x, embedding, tokens, padding_mask)
            if str(number) in self.input_pyramid:
                x, resized = self.input_pyramid[str(number)](x, resized)
            kept.append(x)
        x = self.middle(x, embedding, tokens, padding_mask)
        made = None
        for number, stage in enumerate(self.decoder):
            x = torch.cat([x, kept.pop()], 1)
            if (
                str(number) in self.output_pyramid
            ):  # takes what is there before the last part of the stage doubles the resolution
                *before, last = cast(Stage, stage)
                x = through(before, x, embedding, tokens, padding_mask)
                made = self.output_pyramid[str(number)](x, made)
                x = last(x, embedding)
            else:
                x = stage(x, embedding, tokens, padding_mask)
        answer = self.last(nn.functional.silu(self.norm(x)))
        return cropped(answer if made is None else answer + self.upsampling(made), size)
