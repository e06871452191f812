"""undiffuse: trains, samples, steers, measures and explains diffusion models on people's own data.

    import undiffuse
    model = undiffuse.train("digits", steps=2000)
    images = model.sample(16, {"class": 7}, guidance=2.0, seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Condition", "Model", "load", "train"]

if TYPE_CHECKING:
    from undiffuse.conditioning.declared import Condition
    from undiffuse.model import Model, load
    from undiffuse.prepare import train


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import undiffuse` costs nothing."""
    if name in ("Model", "load"):
        from undiffuse import model

        return getattr(model, name)
    if name == "Condition":
        from undiffuse.conditioning.declared import Condition

        return Condition
    if name == "train":
        from undiffuse.prepare import train

        return train
    raise AttributeError(f"module 'undiffuse' has no attribute {name!r}")
