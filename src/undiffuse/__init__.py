"""undiffuse: trains, samples, steers, measures and explains diffusion models on people's own data.

import undiffuse
model = undiffuse.train("digits", steps=2000)
images = model.sample(16, {"class": 7}, guidance=2.0, seed=0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Condition", "Guidance", "Guide", "Model", "likelihood", "load", "load_classifier", "train"]
HOMES = {
    "Condition": "conditioning.spec",
    "Guide": "sampling.classifier_guidance",
    "Model": "models.model",
    "Guidance": "models.guidance",
    "likelihood": "evaluation.likelihood",
    "load": "models.file",
    "load_classifier": "models.classifier",
    "train": "api",
}

if TYPE_CHECKING:
    from undiffuse.api import train
    from undiffuse.conditioning.spec import Condition
    from undiffuse.evaluation.likelihood import likelihood
    from undiffuse.models.classifier import load_classifier
    from undiffuse.models.file import load
    from undiffuse.models.guidance import Guidance
    from undiffuse.models.model import Model
    from undiffuse.sampling.classifier_guidance import Guide


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import undiffuse` costs nothing."""
    if name in HOMES:
        return getattr(importlib.import_module(f"undiffuse.{HOMES[name]}"), name)
    raise AttributeError(f"module 'undiffuse' has no attribute {name!r}")
