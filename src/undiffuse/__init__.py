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
    "Guidance",
    "Guide",
    "Model",
    "likelihood",
    "load",
    "load_classifier",
    "register_condition",
    "register_grid",
    "register_guidance",
    "register_loss_weight",
    "register_objective",
    "register_schedule",
    "register_solver",
    "train",
]
HOMES = {
    "Condition": "conditioning.spec",
    "Guide": "sampling.classifier_guidance",
    "Model": "models.model",
    "Guidance": "models.guidance",
    "likelihood": "evaluation.likelihood",
    "load": "models.file",
    "load_classifier": "models.classifier",
    "register_condition": "conditioning.conditions",
    "register_grid": "sampling.grids",
    "register_guidance": "sampling.guidance",
    "register_loss_weight": "training.objectives",
    "register_objective": "training.objectives",
    "register_schedule": "process.config",
    "register_solver": "sampling.solvers.registry",
    "train": "api",
}

if TYPE_CHECKING:
    from undiffuse.api import train
    from undiffuse.conditioning.conditions import register_condition
    from undiffuse.conditioning.spec import Condition
    from undiffuse.evaluation.likelihood import likelihood
    from undiffuse.models.classifier import load_classifier
    from undiffuse.models.file import load
    from undiffuse.models.guidance import Guidance
    from undiffuse.models.model import Model
    from undiffuse.process.config import register_schedule
    from undiffuse.sampling.classifier_guidance import Guide
    from undiffuse.sampling.grids import register_grid
    from undiffuse.sampling.guidance import register_guidance
    from undiffuse.sampling.solvers.registry import register_solver
    from undiffuse.training.objectives import register_loss_weight, register_objective


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import undiffuse` costs nothing."""
    if name in HOMES:
        return getattr(importlib.import_module(f"undiffuse.{HOMES[name]}"), name)
    raise AttributeError(f"module 'undiffuse' has no attribute {name!r}")
