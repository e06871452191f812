"""The variational autoencoder as the network of the reverse process: everything passes a narrow, noisy middle.

    x ── conv ── blocks ── down ── … ── middle ── (mean, log-variance) ── z ── middle ── … ── up ── blocks ── norm, SiLU, conv ── F

The stages are the U-Net's, and every block receives the timestep and the conditions as there, but nothing is carried across:
what the decoder knows of x is z.  In training z is drawn from N(mean, variance), and its divergence from N(0, I)
(gaussian.py) is what a pass costs beside its error, weighted by `kl`.  The loss is a mean over dimensions, so the cost is divided by
their number too; with `kl` = 2 s² the sum is, up to a factor, the bound of a decoder whose output has the standard deviation s.
In evaluation z is the mean, so that x̂ is a function of x_t.

Without skip connections fine detail, and the noise itself, cannot pass: docs/measurements/networks.md measures what that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from undiffuse.errors import UsageError
from undiffuse.networks.base import TimestepNetwork
from undiffuse.networks.blocks import conv, cropped, zeroed
from undiffuse.networks.gaussian import divergence, sample_gaussian, split
from undiffuse.networks.stages import Stages, norm_layer
from undiffuse.networks.unet_config import Positive, StagesConfig


class AutoencoderConfig(StagesConfig):
    """A denoiser with a variational bottleneck between its two halves."""

    kind: Literal["autoencoder"] = Field("autoencoder", description="Which kind of network this is.")
    latent_channels: Positive = Field(16, description="Channels of z, at the lowest resolution.")
    kl: float = Field(1e-3, ge=0, description="Weight of the KL divergence of z from N(0, I), 0 or more.")


class Bottleneck(nn.Module):
    """features (B, channels, *size) → z (B, latent_channels, *size), and the KL divergence from N(0, I) in nats, (B,)."""

    draws = True  # in training, from torch's global generator

    def __init__(self, config: AutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.norm = norm_layer(config)(channels)
        self.into = conv(config.dims, channels, 2 * config.latent_channels, size=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, channels, *size) → (B, latent_channels, *size), a sample in training and the mean otherwise; and the KL divergence in nats, (B,)."""
        mean, log_variance = split(self.into(nn.functional.silu(self.norm(x))))
        z = sample_gaussian(mean, log_variance) if self.training else mean
        return z.to(x.dtype), divergence(mean, log_variance)


class Autoencoder(TimestepNetwork):
    """F(x, timestep, conditioning, tokens, padding_mask), see base.py.   size: of the examples.   tokens: whether it attends to tokens.

    Raises UsageError for more levels than the size can be halved.
    """

    def __init__(
        self, config: AutoencoderConfig, channels_in: int, channels_out: int, size: Sequence[int], tokens: bool = False
    ) -> None:
        stages = Stages(config, tokens)
        if stages.multiple > min(size):
            raise UsageError(
                f"an autoencoder of {len(stages.widths)} levels halves its input {len(stages.widths) - 1} times, which examples of "
                f"{'×'.join(str(n) for n in size)} do not allow: give network.multipliers fewer numbers."
            )
        super().__init__(
            config.noise_channels or config.width,
            stages.embedding_width,
            config.timestep_embedding,
            config.conditions_join,
        )
        self.config, self.stages, channels = config, stages, stages.widths[-1]
        self.encoder, _ = stages.encoder(channels_in)
        self.middle = stages.middle()
        self.bottleneck = Bottleneck(config, channels)
        self.out_of = conv(config.dims, config.latent_channels, channels, size=1)
        self.decoder_middle = stages.middle()
        self.decoder = stages.decoder()
        self.norm = stages.norm(stages.widths[0])
        self.last = zeroed(conv(config.dims, stages.widths[0], channels_out))
        self._cost: Tensor | None = None

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
        for stage in [*self.encoder, self.middle]:
            x = stage(x, embedding, tokens, padding_mask)
        z, apart = self.bottleneck(x)
        self._cost = self.config.kl * apart if self.training else None
        x = self.out_of(z)
        for stage in [self.decoder_middle, *self.decoder]:
            x = stage(x, embedding, tokens, padding_mask)
        return cropped(self.last(nn.functional.silu(self.norm(x))), size)

    def pop_auxiliary_loss(self) -> Tensor | None:
        cost, self._cost = self._cost, None
        return cost
