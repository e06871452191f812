"""The autoencoder of latent diffusion: to fewer, smoother numbers and back (Rombach et al. 2022, section 3.1 and appendix G).

    x ── conv ── blocks ── down ── … ── middle ── norm, SiLU, conv ── 1×1 ──>  mean, log-variance of z
    z ── 1×1 ── conv ── middle ── blocks ── up ── … ── norm, SiLU, conv ──>  x

No skip connections: what does not fit into z is lost.  Blocks are those of the U-Net without an embedding; the middle
attends over all positions with one head.  The names of the modules are those of diffusers' AutoencoderKL, so weights
trained there load as they are.

With a patch the input is first folded, patch × patch neighbours into channels, and unfolded at the end: the layers of the
highest resolution cost most and do least.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu

from undiffuse.networks.blocks import CONV, conv, group_norm
from undiffuse.networks.gaussian import split
from undiffuse.networks.unet_config import Positive

GROUP_NORM_EPS = 1e-6  # of the norms, as in the published code


class KLAutoencoderConfig(BaseModel):
    """A variational autoencoder, as Stable Diffusion's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Literal["kl"] = Field("kl", description="Which kind of autoencoder this is.")
    dims: Literal[1, 2, 3] = Field(2, description="1 for signals, 2 for images, 3 for volumes.")
    channels: tuple[Positive, ...] = Field(
        (32, 64, 128), description="Channels of each level; each level has half the resolution of the one before."
    )
    depth: Positive = Field(1, description="Residual blocks per level; the decoder has one more.")
    latent_channels: Positive = Field(4, description="Channels of z.")
    groups: Positive = Field(32, description="Most groups of a GroupNorm.")
    middle_attention: bool = Field(True, description="Whether the lowest level has attention.")
    bottleneck: bool = Field(True, description="1×1 convolutions before and after z, as in Stable Diffusion.")
    patch: Positive = Field(1, description="Neighbours along each axis that are folded into channels first.")

    @property
    def factor(self) -> int:
        """How many positions of x along each axis become one of z."""
        return int(self.patch * 2 ** (len(self.channels) - 1))


class VAEBlock(nn.Module):
    """GroupNorm, SiLU, conv, twice, added to x."""

    def __init__(self, config: KLAutoencoderConfig, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = (
            group_norm(channels_in, config.groups, GROUP_NORM_EPS),
            conv(config.dims, channels_in, channels_out),
        )
        self.norm2, self.conv2 = (
            group_norm(channels_out, config.groups, GROUP_NORM_EPS),
            conv(config.dims, channels_out, channels_out),
        )
        self.conv_shortcut = (
            conv(config.dims, channels_in, channels_out, size=1) if channels_in != channels_out else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels_in, *size) → (B, channels_out, *size)."""
        h = self.conv1(silu(self.norm1(x)))
        out: Tensor = self.conv_shortcut(x) + self.conv2(silu(self.norm2(h)))
        return out


class VAEAttention(nn.Module):
    """Attention over all positions with one head, added to x."""

    def __init__(self, config: KLAutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.group_norm = group_norm(channels, config.groups, GROUP_NORM_EPS)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, *size) → the same shape."""
        positions = self.group_norm(x).flatten(2).transpose(1, 2)
        h = scaled_dot_product_attention(self.to_q(positions), self.to_k(positions), self.to_v(positions))
        out: Tensor = x + self.to_out[0](h).transpose(1, 2).reshape(x.shape)
        return out


class Middle(nn.Module):
    """A block, attention where the configuration has it, and a block, at the lowest resolution."""

    def __init__(self, config: KLAutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([VAEBlock(config, channels, channels) for _ in range(2)])
        self.attentions = nn.ModuleList([VAEAttention(config, channels)] if config.middle_attention else [])

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, *size) → the same shape."""
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = self.resnets[1](x)
        return out


class Down(nn.Module):
    """Half the resolution by a strided convolution, with one zero of padding at the end of each axis."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = CONV[dims](channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, *size) → (B, channels, *size/2)."""
        out: Tensor = self.conv(pad(x, (0, 1) * (x.ndim - 2)))
        return out


class Up(nn.Module):
    """Twice the resolution: nearest neighbour, then a convolution."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        self.conv = conv(dims, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels, *size) → (B, channels, *2 size)."""
        out: Tensor = self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))
        return out


class DownLevel(nn.Module):
    """The blocks of one resolution of the encoder, and half the resolution after them unless it is the last."""

    def __init__(self, config: KLAutoencoderConfig, channels_in: int, channels_out: int, last: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            [VAEBlock(config, channels_in if k == 0 else channels_out, channels_out) for k in range(config.depth)]
        )
        self.downsamplers = nn.ModuleList([] if last else [Down(config.dims, channels_out)])

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels_in, *size) → (B, channels_out, *size/2), *size of the last level."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpLevel(nn.Module):
    """The blocks of one resolution of the decoder, and twice the resolution after them unless it is the last."""

    def __init__(self, config: KLAutoencoderConfig, channels_in: int, channels_out: int, last: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            [VAEBlock(config, channels_in if k == 0 else channels_out, channels_out) for k in range(config.depth + 1)]
        )
        self.upsamplers = nn.ModuleList([] if last else [Up(config.dims, channels_out)])

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels_in, *size) → (B, channels_out, *2 size), *size of the last level."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class KLEncoder(nn.Module):
    """The encoder: x (B, channels_in, *size) → mean and log-variance together, (B, channels_out, *size/factor)."""

    def __init__(self, config: KLAutoencoderConfig, channels_in: int, channels_out: int) -> None:
        super().__init__()
        of = config.channels
        self.conv_in = conv(config.dims, channels_in, of[0])
        self.down_blocks = nn.ModuleList(
            [DownLevel(config, of[max(k - 1, 0)], of[k], k == len(of) - 1) for k in range(len(of))]
        )
        self.mid_block = Middle(config, of[-1])
        self.conv_norm_out = group_norm(of[-1], config.groups, GROUP_NORM_EPS)
        self.conv_out = conv(config.dims, of[-1], channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, channels_in, *size) → (B, channels_out, *size/2^levels)."""
        x = self.conv_in(x)
        for level in self.down_blocks:
            x = level(x)
        out: Tensor = self.conv_out(silu(self.conv_norm_out(self.mid_block(x))))
        return out


class KLDecoder(nn.Module):
    """The decoder: z (B, channels_in, *size) → x (B, channels_out, *factor size)."""

    def __init__(self, config: KLAutoencoderConfig, channels_in: int, channels_out: int) -> None:
        super().__init__()
        of = config.channels[::-1]
        self.conv_in = conv(config.dims, channels_in, of[0])
        self.mid_block = Middle(config, of[0])
        self.up_blocks = nn.ModuleList(
            [UpLevel(config, of[max(k - 1, 0)], of[k], k == len(of) - 1) for k in range(len(of))]
        )
        self.conv_norm_out = group_norm(of[-1], config.groups, GROUP_NORM_EPS)
        self.conv_out = conv(config.dims, of[-1], channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """z (B, channels_in, *size) → (B, channels_out, *2^levels size)."""
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            x = level(x)
        out: Tensor = self.conv_out(silu(self.conv_norm_out(x)))
        return out


class KLAutoencoder(nn.Module):
    """encode: x (B, channels, *size) → mean and log-variance of z, (B, latent_channels, *size/factor) each.   decode: z → x.

    Every axis of x is a multiple of the factor.
    """

    def __init__(self, config: KLAutoencoderConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        folded, latent = channels * config.patch**config.dims, config.latent_channels
        self.encoder, self.decoder = KLEncoder(config, folded, 2 * latent), KLDecoder(config, latent, folded)
        self.quant_conv = conv(config.dims, 2 * latent, 2 * latent, size=1) if config.bottleneck else nn.Identity()
        self.post_quant_conv = conv(config.dims, latent, latent, size=1) if config.bottleneck else nn.Identity()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z, (B, latent_channels, *size/factor) each, of x (B, channels, *size)."""
        return split(self.quant_conv(self.encoder(folded(x, self.config.patch))))

    def decode(self, z: Tensor) -> Tensor:
        """x (B, channels, *factor size) of z (B, latent_channels, *size)."""
        return unfolded(self.decoder(self.post_quant_conv(z)), self.config.patch)


def folded(x: Tensor, patch: int) -> Tensor:
    """(B, C, *size) → (B, C·patch^dims, *size/patch): neighbours become channels."""
    if patch == 1:
        return x
    for axis in range(2, 2 * x.ndim - 2, 2):  # each axis n becomes n/patch, patch
        x = x.unflatten(axis, (-1, patch))
    outer, inner = range(2, x.ndim, 2), range(3, x.ndim, 2)
    return x.permute(0, 1, *inner, *outer).flatten(1, 1 + len(inner))


def unfolded(x: Tensor, patch: int) -> Tensor:
    """The inverse of `folded`: (B, C·patch^dims, *size) → (B, C, *patch size)."""
    if patch == 1:
        return x
    dims = x.ndim - 2
    x = x.unflatten(1, (-1, *[patch] * dims))  # (B, C, patch…, n/patch…)
    x = x.permute(0, 1, *(axis for k in range(dims) for axis in (2 + dims + k, 2 + k)))
    for axis in range(2, 2 + dims):
        x = x.flatten(axis, axis + 1)
    return x
