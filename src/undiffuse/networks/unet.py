"""The U-Net of DDPM and of ADM, one network with both as settings.

    x ── conv ──┬─ blocks ─┬─ down ─┬─ blocks ─ … ─ middle ─ … ─ blocks ── up ── blocks ── norm, SiLU, conv ── F
                └──────────┴────────┴──────── every output is kept and concatenated on the way up ────────┘

Every residual block receives the embedding of the clock plus that of the conditions.  DDPM (Ho et al. 2020) adds it,
attends at 16×16 with one head and resamples by convolutions; ADM (Dhariwal & Nichol 2021, section 3) goes deeper and
less wide, attends at 32, 16 and 8 with 64 channels per head, resamples inside BigGAN residual blocks, and scales and
shifts normalised features by the embedding.  presets.py names the published configurations.  Where the network is told
tokens, positions also attend to these, in the middle and at some of the levels.

Sizes need not fit: inputs are padded to a multiple of the total downsampling and outputs cropped, so padded positions
receive no gradient of the loss and never leave the network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undiffuse.networks.blocks import conv, group_norm, zeroed
from undiffuse.networks.embeddings import sinusoidal_embedding
from undiffuse.networks.stages import Stages
from undiffuse.networks.unet_config import UNetConfig


class UNet(nn.Module):
    """F(x, clock, conditioning): (B, channels_in, *size), (B,), (B, embedding_width) → (B, channels_out, *size).

    tokens: whether it is told tokens (B, n, embedding_width) as well, and which of them are absent (B, n).
    """

    def __init__(self, config: UNetConfig, channels_in: int, channels_out: int, tokens: bool = False) -> None:
        super().__init__()
        self.config, self.stages = config, Stages(config, tokens)
        self.embedding_width, self.multiple = self.stages.embedding_width, self.stages.multiple
        self.clock_mlp = self.stages.clock_mlp()
        self.encoder, kept = self.stages.encoder(channels_in)
        self.middle = self.stages.middle()
        self.decoder = self.stages.decoder(kept)
        channels = self.stages.widths[0]
        self.norm = group_norm(channels, config.groups)
        self.last = zeroed(conv(config.dims, channels, channels_out))

    def forward(
        self, x: Tensor, clock: Tensor, conditioning: Tensor | None = None, tokens: Tensor | None = None, absent: Tensor | None = None
    ) -> Tensor:
        size = x.shape[2:]
        x = self.stages.padded(x)
        embedding = self.clock_mlp(sinusoidal_embedding(clock, self.config.width, self.config.clock_embedding))
        if conditioning is not None:
            embedding = embedding + conditioning
        embedding = nn.functional.silu(embedding)
        kept = []
        for stage in self.encoder:
            x = stage(x, embedding, tokens, absent)
            kept.append(x)
        x = self.middle(x, embedding, tokens, absent)
        for stage in self.decoder:
            x = stage(torch.cat([x, kept.pop()], 1), embedding, tokens, absent)
        x = self.last(nn.functional.silu(self.norm(x)))
        for axis, n in enumerate(size, start=2):
            x = x.narrow(axis, 0, n)
        return x
