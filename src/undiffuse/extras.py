"""Optional dependencies: imported when they are used, with a sentence on how to install them."""

from __future__ import annotations

import importlib
from typing import Any

from undiffuse.errors import Failure

EXTRAS = {"torchdiffeq": "likelihood", "transformers": "text", "huggingface_hub": "text"}


def optional(module: str) -> Any:
    """The module. Raises RuntimeError, saying how to install it, where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise Failure(f"this needs {module}, which is not installed: pip install 'undiffuse[{EXTRAS[module]}]'.") from None
