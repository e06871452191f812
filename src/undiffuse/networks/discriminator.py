"""A discriminator of patches: is this piece of x an example, or an autoencoder's reconstruction? (Isola et al. 2017, section 3.2.2)

    x ── conv, half ── conv, half, norm ── … ── conv ──>  one number for every patch

GroupNorm stands where the paper has batch normalization, so that an example is judged alone.
"""

from __future__ import annotations

from torch import Tensor, nn

from undiffuse.networks.blocks import conv, group_norm


class Discriminator(nn.Module):
    """x (B, channels, *size) → (B, 1, *fewer), above 0 for examples.   halvings: how often the resolution halves."""

    def __init__(self, dims: int, channels: int, width: int = 32, halvings: int = 3) -> None:
        super().__init__()
        layers, of = [conv(dims, channels, width, stride=2), nn.LeakyReLU(0.2)], width
        for _ in range(halvings - 1):
            layers += [conv(dims, of, 2 * of, stride=2), group_norm(2 * of, 32), nn.LeakyReLU(0.2)]
            of *= 2
        self.layers = nn.Sequential(*layers, conv(dims, of, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, *size) → one logit for each patch, (B, 1, *fewer)."""
        out: Tensor = self.layers(x)
        return out
