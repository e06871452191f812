"""undiffuse: trains, samples, steers, measures and explains diffusion models on people's own data.

    import undiffuse
    model = undiffuse.train("digits", steps=2000)
    images = model.sample(16, {"class": 7}, guidance=2.0, seed=0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Condition", "Guide", "Model", "Steering", "load", "load_classifier", "train"]
HOMES = {
    "Condition": "conditioning.declared", "Guide": "sampling.gradients", "Model": "model", "Steering": "steering", "load": "model",
    "load_classifier": "classifier", "train": "prepare",
}  # fmt: skip

if TYPE_CHECKING:
    from undiffuse.classifier import load_classifier
    from undiffuse.conditioning.declared import Condition
    from undiffuse.model import Model, load
    from undiffuse.prepare import train
    from undiffuse.sampling.gradients import Guide
    from undiffuse.steering import Steering


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import undiffuse` costs nothing."""
    if name in HOMES:
        return getattr(importlib.import_module(f"undiffuse.{HOMES[name]}"), name)
    raise AttributeError(f"module 'undiffuse' has no attribute {name!r}")
