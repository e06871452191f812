"""Pyramids beside the stages of a U-Net: the input, and the output, at every resolution (NCSN++, Song et al. 2021, appendix C.1).

With a ↓ and a ↑ for half and twice the resolution by the filter of the residual blocks, h for the features of a stage and
p for the pyramid,

    input, skip        p ← p↓,                h ← h + conv1×1(p)                       from p = x
    input, residual    p ← (h + conv3×3↓(p))/sqrt(2),   h ← p                          from p = x
    output, skip       p ← p↑ + conv3×3(SiLU(norm(h)))                                 from the lowest resolution to the answer

The convolution ↓ of the second is one with its filter: x is padded once, for both together, as the published codes do.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from undiffuse.networks.blocks import CONV, Norm, Resampling, conv, zeroed
from undiffuse.networks.unet_config import UNetConfig


class InputSkip(nn.Module):
    """h (B, channels, *size/2), p (B, channels_in, *size) → (h, p), each at half the resolution of p."""

    def __init__(self, dims: int, channels_in: int, channels: int, taps: Sequence[int]) -> None:
        super().__init__()
        self.resampling = Resampling(dims, "down", taps)
        self.conv = conv(dims, channels_in, channels, size=1)

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, channels, *size/2), pyramid (B, channels_in, *size) → both at half the resolution of the pyramid."""
        pyramid = self.resampling(pyramid)
        return h + self.conv(pyramid), pyramid


class InputResidual(nn.Module):
    """h (B, channels, *size/2), p (B, channels_in, *size) → (h, p), both the same sum."""

    def __init__(self, dims: int, channels_in: int, channels: int, taps: Sequence[int]) -> None:
        super().__init__()
        self.conv = CONV[dims](channels_in, channels, 3, padding=len(taps) // 2)  # 1 of it, and the reach of the filter
        self.resampling = Resampling(dims, "down", taps, padding=0)

    def forward(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, channels, *size/2), pyramid (B, channels_in, *size) → twice their sum over sqrt(2), (B, channels, *size/2)."""
        pyramid = (h + self.resampling(self.conv(pyramid))) / 2**0.5
        return pyramid, pyramid


class OutputSkip(nn.Module):
    """h (B, channels, *size), p (B, channels_out, *size/2), None at the lowest resolution → p (B, channels_out, *size)."""

    def __init__(self, dims: int, channels: int, channels_out: int, norm: Norm, taps: Sequence[int]) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.conv = zeroed(conv(dims, channels, channels_out))
        self.resampling = Resampling(dims, "up", taps)

    def forward(self, h: Tensor, pyramid: Tensor | None) -> Tensor:
        """h (B, channels, *size), pyramid (B, channels_out, *size/2) or None → (B, channels_out, *size)."""
        made = self.conv(nn.functional.silu(self.norm(h)))
        out: Tensor = made if pyramid is None else self.resampling(pyramid) + made
        return out


def input_pyramid(config: UNetConfig, widths: Sequence[int], channels_in: int) -> nn.ModuleDict:
    """The pyramid's part after each stage of the encoder that halves the resolution, by the stage's number.   widths: of the levels."""
    parts, number, beside = nn.ModuleDict(), 0, channels_in
    for level, depth in enumerate(config.depths[:-1]):
        number += depth + 1
        if config.encoder_type == "skip":
            parts[str(number)] = InputSkip(config.dims, channels_in, widths[level], config.resample_filter)
        elif config.encoder_type == "residual":
            parts[str(number)] = InputResidual(config.dims, beside, widths[level], config.resample_filter)
            beside = widths[level]
    return parts


def output_pyramid(config: UNetConfig, widths: Sequence[int], channels_out: int, norm: Norm) -> nn.ModuleDict:
    """The pyramid's part within each stage of the decoder that doubles the resolution, by the stage's number."""
    parts, number = nn.ModuleDict(), -1
    for level in range(len(widths) - 1, 0, -1):
        number += config.depths[level] + 1
        if config.decoder_type == "skip":
            parts[str(number)] = OutputSkip(config.dims, widths[level], channels_out, norm, config.resample_filter)
    return parts
