"""Presets: functions that return designs.  Each says what it reaches and the command that shows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, cast

from undiffuse.data.augmentation import AugmentConfig
from undiffuse.errors import UsageError
from undiffuse.networks.building import NetworkConfig, suggested
from undiffuse.networks.kl_autoencoder import KLAutoencoderConfig
from undiffuse.networks.latents import LatentConfig
from undiffuse.networks.mlp import MLPConfig
from undiffuse.networks.transformer import TransformerConfig
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.process.config import CNoiseConfig, ScheduleConfig
from undiffuse.runs.design import Design, LatentDesign
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.training.settings import TrainingConfig

AT_ONCE_ON_A_CPU = 2**20  # numbers of a micro-batch
EPOCHS, FEWEST_UPDATES, MANY_ROWS = 300, 100, 10_000  # of tables
NEW_MODELS = SamplingConfig(solver="unipc", grid="angle")
"""How new models sample: of what was tried, the best score on held-out data with 16 evaluations (docs/measurements/solvers.md)."""


def digits() -> Design:
    """The demo: handwritten digits of 8×8 in 90 seconds on two CPU cores.

    Over six seeds of `python -m benchmarks.digits`: 98.1 to 99.3 % class accuracy, Fréchet distance 0.13 to 0.20.
    """
    return Design(
        network=UNetConfig(
            width=16, multipliers=(1, 1.5, 3.5), depth=1, middle_attention=False, groups=4, embedding_width=240
        ),
        schedule=ScheduleConfig(name="cosine"),
        prediction="v",
        augment=AugmentConfig(probability=0.15),
        training=TrainingConfig(
            budget=90.0,
            batch_size=192,
            learning_rate=4e-3,
            weight_decay=0.01,
            ema_decay=0.998,
            timestep_sampling="logit_normal",
        ),
        sampling=NEW_MODELS,
    )


def small_data(shape: Sequence[int], cpu: bool, network: str | None = None) -> Design:
    """For any data set of small examples (C, *size): a network as large as is bearable on a GPU, or on a laptop's CPU.

    There an update of large examples is computed in parts of AT_ONCE_ON_A_CPU numbers, each of which takes about 2 kB of memory.
    """
    chosen = suggested(network, shape, cpu)
    batch_size = 256 if chosen.kind == "mlp" else 64
    training = TrainingConfig(
        steps=20_000,
        batch_size=batch_size,
        accumulate=min(batch_size, -(-batch_size * math.prod(shape) // AT_ONCE_ON_A_CPU)) if cpu else 1,
        learning_rate=1e-3 if cpu else 5e-4,
        ema_decay=0.999,
        timestep_sampling="logit_normal",
    )
    return Design(network=chosen, training=training, sampling=NEW_MODELS)


def ddpm_cifar10() -> Design:
    """DDPM's CIFAR-10 model: 35.7 M parameters, noise prediction on 1000 linear steps (Ho et al. 2020, appendix B)."""
    return Design(
        network=UNetConfig(
            width=128, multipliers=(1, 2, 2, 2), attention=(2,), adaptive=False, dropout=0.1, timestep_embedding="ddpm"
        ),
        schedule=ScheduleConfig(name="linear"),
        prediction="epsilon",
        variance_type="fixed_large",
        training=TrainingConfig(
            steps=800_000,
            learning_rate=2e-4,
            adam_betas=(0.9, 0.999),
            warmup=5000,
            cooldown=0.0,
            ema_decay=0.9999,
            stratified=False,
        ),
        sampling=SamplingConfig(solver="ddpm", grid="every"),
    )


def _adm(
    network: NetworkConfig, schedule: str, batch_size: int, learning_rate: float, T: int = 1000, steps: int = 1_000_000
) -> Design:
    """Noise and a range of variances by the hybrid objective, as the papers from improved DDPM to DiT train."""
    return Design(
        network=network,
        schedule=ScheduleConfig(name=schedule, T=T),
        prediction="epsilon",
        variance_type="learned_range",
        training=TrainingConfig(
            steps=steps,
            learning_rate=learning_rate,
            adam_betas=(0.9, 0.999),
            warmup=0,
            cooldown=0.0,
            batch_size=batch_size,
            ema_decay=0.9999,
            objective="hybrid",
            stratified=False,
        ),
        sampling=SamplingConfig(solver="ddpm", grid="250"),
    )


def iddpm_cifar10() -> Design:
    """Improved DDPM's CIFAR-10 model (Nichol & Dhariwal 2021, appendix A): 4000 cosine steps, learned variance."""
    network = UNetConfig(width=128, depth=3, multipliers=(1, 2, 2, 2), attention=(2, 4), heads=4, dropout=0.3)
    return _adm(network, "cosine", 128, 1e-4, T=4000, steps=500_000)


def iddpm_imagenet64() -> Design:
    """Improved DDPM's ImageNet-64 model of 120 M parameters (Nichol & Dhariwal 2021, appendix A)."""
    network = UNetConfig(width=128, depth=3, multipliers=(1, 2, 3, 4), attention=(4, 8), heads=4)
    return _adm(network, "cosine", 128, 1e-4, T=4000, steps=1_500_000)


def adm_imagenet64() -> Design:
    """ADM's ImageNet-64 model, 295.9 M parameters (Dhariwal & Nichol 2021, Table 12)."""
    network = UNetConfig(
        width=192,
        depth=3,
        multipliers=(1, 2, 3, 4),
        attention=(2, 4, 8),
        head_channels=64,
        residual_resample=True,
        dropout=0.1,
    )
    return _adm(network, "cosine", 2048, 3e-4)


def adm_imagenet128() -> Design:
    """ADM's ImageNet-128 model, 421.5 M parameters."""
    network = UNetConfig(width=256, multipliers=(1, 1, 2, 3, 4), attention=(4, 8, 16), heads=4, residual_resample=True)
    return _adm(network, "linear", 256, 1e-4)


def adm_imagenet256() -> Design:
    """ADM's ImageNet-256 model, 553.8 M parameters."""
    network = UNetConfig(
        width=256, multipliers=(1, 1, 2, 2, 4, 4), attention=(8, 16, 32), head_channels=64, residual_resample=True
    )
    return _adm(network, "linear", 256, 1e-4)


def edm_cifar10(ncsnpp: bool) -> Design:
    """EDM's CIFAR-10 models, DDPM++ and NCSN++ (Karras et al. 2022, Table 7), with their augmentation (Table 6, and appendix F.2)."""
    network = UNetConfig(
        width=128,
        first_width=128,
        multipliers=(2, 2, 2),
        depth=4,
        attention=(2,),
        adaptive=False,
        residual_resample=True,
        resample_proj=True,
        skip_scale=0.5**0.5,
        norm_eps=1e-6,
        min_channels_per_group=4,
        decoder_attention="last",
        timestep_embedding="ddpm",
        conditions_join="before",
        dropout=0.13,
    )
    if ncsnpp:
        network = network.model_copy(
            update={
                "timestep_embedding": "fourier",
                "noise_channels": 256,
                "encoder_type": "residual",
                "resample_filter": (1, 3, 3, 1),
            }
        )
    batch_size = 512
    return Design(
        network=network,
        schedule=ScheduleConfig(name="edm"),
        prediction="edm",
        c_noise=CNoiseConfig(of="log_sigma", scale=0.25),
        training=TrainingConfig(
            steps=200_000_000 // batch_size,
            learning_rate=1e-3,
            adam_betas=(0.9, 0.999),
            warmup=10_000_000 // batch_size,
            cooldown=0.0,
            batch_size=batch_size,
            ema_decay=0.5 ** (batch_size / 500_000),
            weight="edm",
            timestep_sampling="log_normal",
            stratified=False,
        ),
        sampling=SamplingConfig(solver="edm", grid="karras", steps=18),
        augment=AugmentConfig(
            probability=0.12,
            probabilities={"flip": 1.0},
            shift=0,
            flip=True,
            flip_vertical=True,
            scale=0.2,
            rotate=180,
            stretch=0.2,
            translate=0.125,
        ),
    )


def dit(depth: int, width: int, heads: int) -> Design:
    """A DiT of patches of 2, for latents of 32×32×4 in the paper (Peebles & Xie 2023, Table 1 and section 4)."""
    network = TransformerConfig(depth=depth, width=width, heads=heads, positions="sines", qk_norm=False)
    return _adm(network, "linear", 256, 1e-4, steps=400_000)


def table_rows(rows: int, cpu: bool) -> Design:
    """For the rows of a table, of numbers and categories: EPOCHS passes over few rows, with dropout, so that it copies little.

    On four public sets of 89 to 472 rows: docs/measurements/tables.md.
    """
    design = small_data((1, 1), cpu, "mlp")
    network = MLPConfig(width=256 if cpu else 512, depth=3, dropout=0.2 if rows < MANY_ROWS else 0.0)
    batch_size = design.training.batch_size
    steps = min(20_000, max(FEWEST_UPDATES, EPOCHS * rows // batch_size))
    training = design.training.model_copy(update={"steps": steps})
    return design.model_copy(update={"network": network, "training": training})


PRESETS: dict[str, Callable[[], Design]] = {
    "digits": digits,
    "ddpm_cifar10": ddpm_cifar10,
    "iddpm_cifar10": iddpm_cifar10,
    "iddpm_imagenet64": iddpm_imagenet64,
    "adm_imagenet64": adm_imagenet64,
    "adm_imagenet128": adm_imagenet128,
    "adm_imagenet256": adm_imagenet256,
    "edm_ddpmpp_cifar10": partial(edm_cifar10, False),
    "edm_ncsnpp_cifar10": partial(edm_cifar10, True),
    "dit_s": partial(dit, 12, 384, 6),  # 33 M parameters
    "dit_b": partial(dit, 12, 768, 12),  # 130 M
    "dit_l": partial(dit, 24, 1024, 16),  # 458 M
    "dit_xl": partial(dit, 28, 1152, 16),  # 675 M
}


def latents(shape: Sequence[int], cpu: bool, factor: int = 4) -> LatentDesign:
    """An autoencoder for examples (C, *size) that makes `factor` positions along each axis one.

    On a CPU neighbours are folded into channels first, and all layers work at one low resolution: over 60 s of one core on 64×64
    emoji that left 23.6 dB, three levels from full resolution 15.0 (docs/measurements/latents.md).
    Raises UsageError for a factor other than 2, 4 or 8, or sizes too small for it.
    """
    if factor not in (2, 4, 8):
        raise UsageError(f"latents by {factor} are not made here: choose 2, 4 or 8.")
    if min(shape[1:]) < 4 * factor:
        size = "×".join(str(n) for n in shape[1:])
        raise UsageError(
            f"latents by {factor} of examples of {size} leave nothing to diffuse in: train without `latent`, or by a smaller factor."
        )
    patch = min(factor, 4) if cpu else 1
    levels = (factor // patch).bit_length()
    autoencoder = KLAutoencoderConfig(
        dims=cast(Literal[1, 2, 3], len(shape) - 1),
        channels=((64, 96) if cpu else (64, 128, 256, 256))[:levels],
        depth=1 if cpu else 2,
        patch=patch,
        middle_attention=not cpu,
    )
    training = TrainingConfig(
        steps=20_000, batch_size=8 if cpu else 32, learning_rate=1e-3 if cpu else 2e-4, ema_decay=0.998
    )
    return LatentDesign(autoencoder=autoencoder, training=training)


def design_for(
    source: str,
    shape: Sequence[int],
    preset: str | None = None,
    cpu: bool = True,
    network: str | None = None,
    latent: LatentDesign | None = None,
    rows: int | None = None,
) -> Design:
    """The preset called `preset`; without one, digits for the embedded digits, `table_rows` for tables, `small_data` for all else.

    shape: (C, *size) of the data.   cpu: whether it will be trained on a CPU, which asks for a smaller network.   network: the
    kind of network to use instead of the preset's, of a size for the data.   latent: what latents it is to diffuse in.
    rows: of a table; None for anything else.
    """
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"there is no preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    shape = shape if latent is None else LatentConfig.shape_of(latent.autoencoder, shape)
    if preset is None and rows is not None and network in (None, "mlp"):
        design = table_rows(rows, cpu)
    elif preset is None and (source != "digits" or latent is not None):
        design = small_data(shape, cpu, network)
    else:
        design = PRESETS[preset or source]()
        if network not in (None, design.network.kind):
            design = design.model_copy(update={"network": suggested(network, shape, cpu)})
    if (
        network == "autoencoder"
    ):  # noise cannot pass it: let it predict what is left once each number is denoised on its own
        design = design.model_copy(update={"prediction": "edm"})
    return design if latent is None else design.model_copy(update={"latent": latent, "sigma_data": 1.0})
