"""undiffuse: trains, samples, guides, measures and explains diffusion models on people's own data.

import undiffuse
model = undiffuse.train("digits", steps=2000)
images = model.sample(16, {"class": 7}, guidance=2.0, seed=0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Condition",
    "Every",
    "Failure",
    "Guide",
    "InverseMethod",
    "Model",
    "Note",
    "SamplingConfig",
    "Trainer",
    "UsageError",
    "colorize",
    "deblur",
    "degrade",
    "denoise",
    "evaluate",
    "inpaint",
    "interpolate",
    "likelihood",
    "load",
    "load_classifier",
    "observe",
    "reconstruct",
    "register_condition",
    "register_file_kind",
    "register_grid",
    "register_guidance",
    "register_loss_weight",
    "register_network",
    "register_objective",
    "register_schedule",
    "register_solver",
    "register_source",
    "restore",
    "sweep",
    "train",
    "upscale",
    "vary",
]
HOMES = {
    "Condition": "conditioning.spec",
    "Every": "training.hooks",
    "Failure": "errors",
    "Guide": "sampling.classifier_guidance",
    "InverseMethod": "models.inverse_methods",
    "Model": "models.model",
    "Note": "conditioning.base",
    "SamplingConfig": "sampling.settings",
    "UsageError": "errors",
    "colorize": "models.inverse_problems",
    "deblur": "models.inverse_problems",
    "degrade": "models.restoration",
    "denoise": "models.denoising",
    "evaluate": "evaluation.adherence",
    "inpaint": "models.inverse_problems",
    "interpolate": "models.editing",
    "Trainer": "runs.trainer",
    "likelihood": "evaluation.likelihood",
    "load": "models.file",
    "load_classifier": "models.classifier",
    "observe": "models.restoration",
    "reconstruct": "models.editing",
    "register_condition": "conditioning.conditions",
    "register_grid": "sampling.grids",
    "register_guidance": "sampling.guidance",
    "register_loss_weight": "training.objectives",
    "register_network": "networks.building",
    "register_objective": "training.objectives",
    "register_schedule": "process.config",
    "register_solver": "sampling.solvers.registry",
    "restore": "models.restoration",
    "sweep": "evaluation.sweep",
    "register_file_kind": "data.sources",
    "register_source": "data.sources",
    "train": "api",
    "upscale": "models.inverse_problems",
    "vary": "models.editing",
}

if TYPE_CHECKING:
    from undiffuse.api import train
    from undiffuse.conditioning.base import Note
    from undiffuse.conditioning.conditions import register_condition
    from undiffuse.conditioning.spec import Condition
    from undiffuse.data.sources import register_file_kind, register_source
    from undiffuse.errors import Failure, UsageError
    from undiffuse.evaluation.adherence import evaluate
    from undiffuse.evaluation.likelihood import likelihood
    from undiffuse.evaluation.sweep import sweep
    from undiffuse.models.classifier import load_classifier
    from undiffuse.models.denoising import denoise
    from undiffuse.models.editing import interpolate, reconstruct, vary
    from undiffuse.models.file import load
    from undiffuse.models.inverse_methods import InverseMethod
    from undiffuse.models.inverse_problems import colorize, deblur, inpaint, upscale
    from undiffuse.models.model import Model
    from undiffuse.models.restoration import degrade, observe, restore
    from undiffuse.networks.building import register_network
    from undiffuse.process.config import register_schedule
    from undiffuse.runs.trainer import Trainer
    from undiffuse.sampling.classifier_guidance import Guide
    from undiffuse.sampling.grids import register_grid
    from undiffuse.sampling.guidance import register_guidance
    from undiffuse.sampling.settings import SamplingConfig
    from undiffuse.sampling.solvers.registry import register_solver
    from undiffuse.training.hooks import Every
    from undiffuse.training.objectives import register_loss_weight, register_objective


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import undiffuse` costs nothing."""
    if name in HOMES:
        return getattr(importlib.import_module(f"undiffuse.{HOMES[name]}"), name)
    raise AttributeError(f"module 'undiffuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What completion offers: the public names, imported or not."""
    return sorted({*globals(), *__all__})
