"""Adapters on disk: the format of the peft library, so that either can read what the other wrote.

    adapters/
      adapter_model.safetensors   base_model.model.<layer>.lora_A.weight (r, in, *kernel), ….lora_B.weight (out, r, *ones)
      adapter_config.json         r, lora_alpha, and the layers as target_modules
      start.safetensors           what that format has no place for: the new model's header and whatever parameters it has that
                                  the one it started from has not, of new conditions say

Paths of layers are those in `Denoiser.network`, which is what peft is to wrap.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from undiffuse.config import Config, parsed
from undiffuse.errors import UsageError
from undiffuse.formats import tensor_name
from undiffuse.models import storage
from undiffuse.models.config import ModelConfig, StartConfig
from undiffuse.models.denoiser import Denoiser
from undiffuse.networks.adapters import PLACE, adaptable, adapters_of
from undiffuse.system import write_atomically, write_text

ADAPTER_WEIGHTS, ADAPTER_CONFIG, START_WEIGHTS = "adapter_model.safetensors", "adapter_config.json", "start.safetensors"
PREFIX = "base_model.model."
UNKNOWN = (
    "use_dora",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "layer_replication",
)


class AdaptersConfig(Config):
    """The header of start.safetensors: the tuned model, and what it started from."""

    model: ModelConfig = Field(description="The tuned model.")
    start: StartConfig = Field(description="The model that it was tuned from.")


def save_adapters(folder: Path, denoiser: Denoiser, config: AdaptersConfig) -> None:
    """Writes the adapters of a denoiser's network, and all else of it that is trained."""
    tensors, scale, rank = {}, 1.0, 0
    found = adapters_of(denoiser.network)
    for path, adapter in found.items():
        scale, rank = adapter.scale, len(adapter.A)
        tensors[f"{PREFIX}{path}.lora_A.weight"] = adapter.A.detach().cpu().clone(memory_format=torch.contiguous_format)
        tensors[f"{PREFIX}{path}.lora_B.weight"] = (
            adapter.B.detach().cpu().reshape(*adapter.B.shape, *[1] * (adapter.A.ndim - 2)).clone()
        )
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_atomically(folder / ADAPTER_WEIGHTS, lambda path: save_file(tensors, path, {"format": "pt"}), size)
    described = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "task_type": None,
        "target_modules": sorted(found),
        "base_model_name_or_path": config.start.name,
        "inference_mode": True,
    }
    write_text(folder / ADAPTER_CONFIG, json.dumps(described, indent=2) + "\n")
    rest = {name: p for name, p in denoiser.named_parameters() if p.requires_grad and PLACE not in name}
    storage.write(folder / START_WEIGHTS, "adapters", config.model_dump_json(), rest)


def written(folder: Path) -> dict[str, Any] | None:
    """The configuration of the tuned model, plain data, where `save` has written all that it writes; None else."""
    if not ((folder / ADAPTER_WEIGHTS).is_file() and (folder / ADAPTER_CONFIG).is_file()):
        return None
    return (storage.config_of(folder / START_WEIGHTS) or {}).get("model")


def read_rest(folder: Path) -> tuple[AdaptersConfig, dict[str, Tensor]] | None:
    """What a tuned model has beside adapters; None for adapters that another program made. Raises UsageError."""
    if not (folder / ADAPTER_CONFIG).exists():
        raise UsageError(
            f"there are no adapters at {folder}: give the folder adapters/ of a run trained with `adapter_rank`, or one that peft wrote."
        )
    if not (folder / START_WEIGHTS).exists():
        return None
    content, tensors = storage.read(folder / START_WEIGHTS, "adapters")
    return parsed(AdaptersConfig, content, f"{folder / START_WEIGHTS} has a header this version cannot use"), tensors


def add(network: nn.Module, folder: Path) -> None:
    """Adds what the adapters in a folder change to the weights of a network. Raises UsageError for adapters of another."""
    config, tensors = _read(folder)
    layers, scale = adaptable(network), float(config["lora_alpha"]) / int(config["r"])
    paths = sorted({name.removeprefix(PREFIX).rsplit(".lora_", 1)[0] for name in tensors})
    for path in paths:
        A, B = (tensors.get(f"{PREFIX}{path}.lora_{part}.weight") for part in "AB")
        weight = getattr(layers.get(path), "weight", None)
        if A is None or B is None or weight is None or (len(B), *A.shape[1:]) != weight.shape:
            raise UsageError(
                f"the adapters in {folder} change a layer {path!r} that this model does not have so: they belong to another model."
            )
        with torch.no_grad():
            weight += scale * (B.flatten(1) @ A.flatten(1)).reshape(weight.shape).to(weight)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
            tensors = {tensor_name(name, 1): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if config["peft_type"] != "LORA" or config.get("bias", "none") != "none":
            raise UsageError("they are no low-rank adapters of weights alone")
        int(config["r"]), float(config["lora_alpha"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the adapters in {folder} cannot be read ({error}): fetch them again.") from None
    unknown = [name for name in UNKNOWN if config.get(name)]
    if unknown:
        raise UsageError(f"the adapters in {folder} use {unknown[0]}, which is not known here: make them without.")
    return config, tensors
