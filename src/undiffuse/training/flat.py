"""Flat: all parameters of a module as views of one buffer, all gradients as views of another.

A small network has more than a hundred small tensors, and visiting each costs an optimizer, an average or a norm more
than the arithmetic does.  In one buffer each of these is one operation.  To everybody else nothing changes: parameters
keep their names, shapes and memory layouts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from undiffuse.errors import UsageError


class Flat:
    """The parameters of `module` that are not frozen, moved into `parameter` (n,), and their gradients into `gradient` (n,).

    Clear gradients by `gradient.zero_()`, never by setting them to None, which would cut them loose.
    Raises UsageError for parameters of several dtypes or devices.
    """

    def __init__(self, module: nn.Module) -> None:
        self.named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if len({(p.dtype, p.device) for p in self.named.values()}) != 1:
            raise UsageError("the parameters of a network must share one dtype and one device to be trained together.")
        any_parameter = next(iter(self.named.values()))
        self.parameter = nn.Parameter(any_parameter.new_zeros(sum(p.numel() for p in self.named.values())))
        self.gradient = torch.zeros_like(self.parameter)
        values, self._gradients = self.views(self.parameter.detach()), self.views(self.gradient)
        with torch.no_grad():
            for name, p in self.named.items():
                p.data = values[name].copy_(p)
        self.attach()

    def attach(self) -> None:
        """Puts gradients back where they belong, should somebody have set them to None or to others."""
        self.parameter.grad = self.gradient
        for name, p in self.named.items():
            if p.grad is not self._gradients[name]:
                p.grad = self._gradients[name]

    def views(self, buffer: Tensor) -> dict[str, Tensor]:
        """The tensors by name that lie in a buffer (n,), each with the shape and memory layout of its parameter."""
        found, start = {}, 0
        for name, p in self.named.items():
            found[name] = buffer.as_strided(p.shape, p.stride(), buffer.storage_offset() + start)
            start += p.numel()
        return found
