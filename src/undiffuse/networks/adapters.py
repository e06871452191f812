"""Low-rank adapters: a network is tuned by small matrices beside its own, which stay as they are (Hu et al. 2022, LoRA, eq. 3).

    W  →  W + (alpha/r) B A,      A (r, in),  B (out, r),  rank r

for every linear layer; for a convolution, A is one to r channels with the same kernel and B a 1×1 convolution after it,
so that in both B A is a change of the weight itself.  A starts random and B at zero, so the network starts as it was, and
afterwards the sum replaces W: a tuned network costs nothing more to use.  They are parametrisations of the weight, so that no layer
and no network knows of them.
"""

from __future__ import annotations

import math

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
PLACE = ".parametrizations.weight"


class AdapterConfig(BaseModel):
    """Low-rank adapters (LoRA)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rank: int = Field(gt=0, description="Rank r of the low-rank matrices (LoRA), such as 8.")
    alpha: float | None = Field(
        None, gt=0, description="The change is scaled by alpha/r; alpha equals r when left out."
    )

    @property
    def scale(self) -> float:
        """alpha/r, what B A is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class Adapter(nn.Module):
    """W (out, in, *kernel) → W + scale · B A.   A: (r, in, *kernel).   B: (out, r)."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.A = nn.Parameter(torch.empty(rank, *weight.shape[1:], dtype=weight.dtype, device=weight.device))
        self.B = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The adapted weight, of the shape of `weight` (out, in, *kernel)."""
        return weight + self.scale * (self.B @ self.A.flatten(1)).reshape(weight.shape)


def adaptable(network: nn.Module) -> dict[str, nn.Module]:
    """The layers of a network that can have an adapter, by their path."""
    return {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, ADAPTED) and getattr(module, "groups", 1) == 1
    }


def adapt(network: nn.Module, config: AdapterConfig, paths: list[str]) -> None:
    """Gives the layers at `paths` adapters, and freezes the weights they change."""
    layers = adaptable(network)
    for path in paths:
        layer = layers[path]
        layer.weight.requires_grad_(False)
        parametrize.register_parametrization(layer, "weight", Adapter(layer.weight, config.rank, config.scale))  # type: ignore[arg-type]


def adapters_of(module: nn.Module) -> dict[str, Adapter]:
    """The adapters in a module, by the path of their layer."""
    return {path.removesuffix(f"{PLACE}.0"): m for path, m in module.named_modules() if isinstance(m, Adapter)}


def merged(module: nn.Module) -> dict[str, Tensor]:
    """Copies of a module's parameters, under the names they have without adapters, and with what these change."""
    found, adapted = {}, set(adapters_of(module))
    for name, parameter in module.named_parameters():
        changed = module.get_submodule(name.removesuffix(".original")) if name.endswith(f"{PLACE}.original") else None
        if isinstance(changed, parametrize.ParametrizationList) and isinstance(
            changed[0], Adapter
        ):  # else a user's own
            found[name.replace(f"{PLACE}.original", ".weight")] = changed().detach().clone()
        elif name.rpartition(f"{PLACE}.0.")[0] not in adapted:
            found[name] = parameter.detach().clone()
    return found
