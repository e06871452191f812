"""Small networks, models and data sets for tests."""

from __future__ import annotations

import numpy as np
import torch

from undiffuse.conditioning.classes import ClassConfig
from undiffuse.data.codec import CodecConfig
from undiffuse.models.config import ModelConfig
from undiffuse.models.model import Model
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.process.config import ScheduleConfig
from undiffuse.sampling.settings import SamplingConfig

TINY = UNetConfig(width=8, multipliers=(1, 2), depth=1, groups=4)
TINY_SETTINGS = {
    "network.width": 8,
    "network.multipliers": [1, 2],
    "network.depth": 1,
    "network.groups": 4,
    "network.embedding_width": None,
}


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter drawn anew, so that zero-initialised ends hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.15)
    return module


def tiny_config(**changes) -> ModelConfig:
    shape = changes.pop("shape", (1, 8, 8))
    codec = CodecConfig(
        shape=shape,
        kind="integer",
        dtype="uint8",
        mode="L" if shape[0] == 1 else None,
        offset=(127.5,) * shape[0],
        scale=(127.5,) * shape[0],
        low=(0.0,) * shape[0],
        high=(255.0,) * shape[0],
    )
    content = {
        "codec": codec,
        "network": TINY.model_copy(update={"dims": len(shape) - 1}),
        "schedule": ScheduleConfig(name="cosine", T=100),
        "prediction": "v",
        "variance_type": "fixed_small",
        "sigma_data": 0.5,
        "conditions": {"class": ClassConfig(names=("cat", "dog", "7"))},
        "sampling": SamplingConfig(steps=5),
    }
    return ModelConfig(**(content | changes))


def tiny_model(seed: int = 0, **changes) -> Model:
    config = tiny_config(**changes)
    denoiser, schedule = config.build()
    randomised(denoiser, seed)
    return Model(config, denoiser, schedule)


def images(n: int = 24, shape: tuple[int, ...] = (8, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)
