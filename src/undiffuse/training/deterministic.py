"""Deterministic algorithms: the same bits of the same step, on a GPU too.

On a CPU torch's operations give the same bits every time. On a GPU some add numbers in whatever order their threads arrive,
and float addition is not associative, so a resumed run drifts from one that was not stopped. torch can be set to take
algorithms with a fixed order instead, and to refuse operations that have none:
https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from undiffuse.errors import Failure

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # of cuBLAS; torch refuses its matrix products unless this is one of two values
REFUSED = "does not have a deterministic implementation"


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Deterministic algorithms inside a `with`, where `enabled`; torch's setting is as it was afterwards.

    Raises Failure for an operation that has no deterministic algorithm on this device.
    """
    if not enabled:
        yield
        return
    before, only_warned = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if REFUSED not in str(error):
            raise
        operation = str(error).split(REFUSED)[0].strip()
        raise Failure(
            f"training.deterministic cannot be kept on this device, since {operation} {REFUSED}: set it to false, or use the CPU."
        ) from None
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)
