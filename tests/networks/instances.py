"""Every network, small, by name: what laws of networks are tested over."""

from __future__ import annotations

from undiffuse.networks.autoencoder import AutoencoderConfig
from undiffuse.networks.building import build_network
from undiffuse.networks.mlp import MLPConfig
from undiffuse.networks.transformer import TransformerConfig
from undiffuse.networks.unet_config import UNetConfig

NETWORKS = {
    "unet": UNetConfig(width=8, multipliers=(1, 2), depth=1, groups=4),
    "unet, ncsnpp": UNetConfig(
        width=8,
        multipliers=(1, 2),
        depth=1,
        groups=4,
        attention=(2,),
        adaptive=False,
        residual_resample=True,
        resample_filter=(1, 3, 3, 1),
        resample_proj=True,
        skip_scale=0.7,
        timestep_embedding="fourier",
        encoder_type="residual",
        decoder_type="skip",
        decoder_attention="last",
    ),
    "transformer": TransformerConfig(width=16, depth=2, heads=2),
    "transformer, sines": TransformerConfig(patch=3, width=18, depth=2, heads=3, positions="sines", qk_norm=False),
    "transformer, learned": TransformerConfig(
        patch=1, width=8, depth=1, heads=1, positions="learned", embedding_width=5
    ),
    "mlp": MLPConfig(width=16, depth=2, embedding_width=12),
    "autoencoder": AutoencoderConfig(width=8, multipliers=(1, 2), depth=1, groups=4, latent_channels=2, kl=0.5),
}


def built(name: str, channels_in: int = 1, channels_out: int = 1, size: tuple[int, ...] = (8, 8), tokens: bool = False):
    config = NETWORKS[name]
    if hasattr(config, "dims"):
        config = config.model_copy(update={"dims": len(size)})
    return build_network(config, channels_in, channels_out, size, tokens)
