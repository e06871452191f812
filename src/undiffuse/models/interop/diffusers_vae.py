"""Autoencoders of diffusers: AutoencoderKL and AutoencoderTiny, read from their folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from undiffuse.errors import UsageError
from undiffuse.networks.kl_autoencoder import KLAutoencoder, KLAutoencoderConfig
from undiffuse.networks.latents import build_autoencoder
from undiffuse.networks.tiny_autoencoder import TinyAutoencoder, TinyAutoencoderConfig

LEGACY_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"


def read_diffusers(folder: Path, channels: int) -> KLAutoencoder | TinyAutoencoder:
    """The AutoencoderKL or AutoencoderTiny in a folder that diffusers wrote, for x of so many channels.

    Raises UsageError for another class, other channels, a variant that is not known here, or weights that are no safetensors.
    """
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} holds no autoencoder that can be read ({error}).") from None
    kind = content.get("_class_name")
    if kind not in DIFFUSERS_READERS:
        raise UsageError(
            f"{folder} holds a {kind or 'model of no name'}, where an AutoencoderKL or an AutoencoderTiny is needed."
        )
    if {content.get("in_channels", 3), content.get("out_channels", 3)} != {channels}:
        raise UsageError(
            f"the autoencoder in {folder} takes {content.get('in_channels', 3)} channels, and the data has {channels}: "
            "convert images by `channels`, or train an autoencoder of your own by `latent`."
        )
    autoencoder = build_autoencoder(DIFFUSERS_READERS[kind](content, folder), channels)
    if not (folder / DIFFUSERS_FILE).exists():
        raise UsageError(f"{folder} holds no {DIFFUSERS_FILE}: other formats may be pickles, which are never loaded.")
    try:
        found = {_renamed(name): tensor.float() for name, tensor in load_file(folder / DIFFUSERS_FILE).items()}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{folder / DIFFUSERS_FILE} is damaged ({error}): fetch it again.") from None
    expected = dict(autoencoder.named_parameters())
    for name in sorted(expected.keys() ^ found.keys()):
        raise UsageError(
            f"{folder / DIFFUSERS_FILE} {'lacks' if name in expected else 'has an unknown'} tensor {name}: it is of a variant not known here."
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(found[name].reshape(parameter.shape))  # projections of attention were 1×1 convolutions once
    return autoencoder


def _renamed(name: str) -> str:
    parts = name.split(".")
    return ".".join(LEGACY_NAMES.get(part, part) for part in parts) if "attentions" in parts else name


def _kl(content: dict[str, Any], folder: Path) -> KLAutoencoderConfig:
    _refuse_variants(content, folder, {"act_fn": "silu"})
    for name, only in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if set(content.get(name, [only])) != {only}:
            raise UsageError(
                f"the autoencoder in {folder} is of a variant not known here: its {name} are {content[name]}."
            )
    return KLAutoencoderConfig(
        channels=tuple(content["block_out_channels"]),
        depth=content.get("layers_per_block", 1),
        latent_channels=content.get("latent_channels", 4),
        groups=content.get("norm_num_groups", 32),
        middle_attention=content.get("mid_block_add_attention", True),
        bottleneck=content.get("use_quant_conv", True),
    )


def _tiny(content: dict[str, Any], folder: Path) -> TinyAutoencoderConfig:
    _refuse_variants(content, folder, {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2})
    widths = {*content.get("encoder_block_out_channels", [64]), *content.get("decoder_block_out_channels", [64])}
    if len(widths) > 1:
        raise UsageError(
            f"the autoencoder in {folder} is of a variant not known here: its levels have different channels."
        )
    return TinyAutoencoderConfig(
        channels=widths.pop(),
        encoder_blocks=tuple(content.get("num_encoder_blocks", (1, 3, 3, 3))),
        decoder_blocks=tuple(content.get("num_decoder_blocks", (3, 3, 3, 1))),
        latent_channels=content.get("latent_channels", 4),
    )


def _refuse_variants(content: dict[str, Any], folder: Path, known: dict[str, Any]) -> None:
    for name, value in known.items():
        if content.get(name, value) != value:
            raise UsageError(
                f"the autoencoder in {folder} is of a variant not known here: its {name} is {content[name]!r}."
            )


DIFFUSERS_READERS: dict[str, Callable[[dict[str, Any], Path], KLAutoencoderConfig | TinyAutoencoderConfig]] = {
    "AutoencoderKL": _kl,
    "AutoencoderTiny": _tiny,
}
