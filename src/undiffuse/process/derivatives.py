"""Derivatives, taken where the caller of a function records none."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from undiffuse.errors import UsageError


def with_graph() -> AbstractContextManager[object]:
    """A stretch in which torch records what gradients need. Raises UsageError under torch.inference_mode, which forbids that."""
    if torch.is_inference_mode_enabled():
        raise UsageError(
            "this needs derivatives of the network, which torch.inference_mode forbids: use torch.no_grad, or nothing."
        )
    return torch.enable_grad()
