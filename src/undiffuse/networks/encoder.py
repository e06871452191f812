"""The encoder half of a U-Net with attention pooling: from a noisy example to a few numbers (Dhariwal & Nichol 2021, section 4).

    x ── conv ── blocks ── down ── … ── middle ── norm, SiLU ── attention pooling ── numbers

Pooling is one attention over all positions of the smallest map, whose query is their mean, which joins them as a position of
its own, each position with a learned offset (Radford et al. 2021, CLIP's; as in ADM's classifier).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from undiffuse.errors import UsageError
from undiffuse.networks.embeddings import sinusoidal_embedding, time_embedding_mlp
from undiffuse.networks.stages import Stages
from undiffuse.networks.unet_config import UNetConfig


class AttentionPooling(nn.Module):
    """One attention over all positions: (B, channels, *size) → (B, outputs)."""

    def __init__(self, channels: int, size: tuple[int, ...], outputs: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.place = nn.Parameter(torch.randn(math.prod(size) + 1, channels) / channels**0.5)
        self.q, self.kv = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, *size), of the size it was built for → (B, outputs)."""
        positions = x.flatten(2).transpose(1, 2)
        positions = torch.cat([positions.mean(1, keepdim=True), positions], 1) + self.place
        q = self.q(positions[:, :1]).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = (part.transpose(1, 2) for part in self.kv(positions).unflatten(2, (2, self.heads, -1)).unbind(2))
        out: Tensor = self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))
        return out


class UNetEncoder(nn.Module):
    """F(x, timestep): (B, shape[0], *shape[1:]), (B,) → (B, outputs).   shape: (C, *size) of x.

    Raises UsageError for the U-Net's settings that it does not have.
    """

    def __init__(self, config: UNetConfig, shape: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        if config.timestep_embedding == "fourier" or config.encoder_type != "standard":
            raise UsageError(
                "an encoder alone has sinusoidal timestep embeddings and no pyramid: leave timestep_embedding and encoder_type as they are."
            )
        self.config, self.stages = config, Stages(config)
        self.waves = config.noise_channels or config.width
        self.time_embedding = time_embedding_mlp(self.waves, self.stages.embedding_width)
        self.encoder, _ = self.stages.encoder(shape[0])
        self.middle = self.stages.middle()
        channels, multiple = self.stages.widths[-1], self.stages.multiple
        self.norm = self.stages.norm(channels)
        heads = max(1, channels // (config.head_channels or 64))
        size = tuple(-(-n // multiple) for n in shape[1:])
        self.pooling = AttentionPooling(channels, size, outputs, heads if channels % heads == 0 else 1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """x (B, *shape), timestep (B,) → (B, outputs)."""
        embedding = self._embedding(timestep)
        x = self._maps(x, embedding)[-1]
        out: Tensor = self.pooling(nn.functional.silu(self.norm(self.middle(x, embedding))))
        return out

    def features(self, x: Tensor, timestep: Tensor) -> list[Tensor]:
        """What every stage of the way down answers, (B, channels, *size) each."""
        return self._maps(x, self._embedding(timestep))

    def _embedding(self, timestep: Tensor) -> Tensor:
        return nn.functional.silu(
            self.time_embedding(sinusoidal_embedding(timestep, self.waves, self.config.timestep_embedding))
        )

    def _maps(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        maps = [self.stages.padded(x)]
        for stage in self.encoder:
            maps.append(stage(maps[-1], embedding))
        return maps[1:]
