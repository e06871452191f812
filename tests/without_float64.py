"""A device without float64, as Apple's GPUs are, played by the CPU.

Inside `with apple():` tensors made on, or brought to, the device "mps" are a subclass of Tensor which says that it lies there, refuses
float64 as that device does, and refuses to meet tensors of the CPU that have axes.  It knows nothing of operations which
that device lacks.
"""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

MPS = torch.device("mps")
LEAVES = {torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.item}
DEVICE = torch.Tensor.device.__get__


class OnDevice(torch.Tensor):
    """A tensor of the device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # noqa: ANN206
        kwargs = kwargs or {}
        if func == DEVICE:
            return MPS
        target = (
            kwargs.get("device", next((a for a in args[1:] if isinstance(a, torch.device | str)), None))
            if func is torch.Tensor.to
            else None
        )
        flat = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, torch.Tensor)]
        moved = func is torch.Tensor.to and len(flat) > 1  # x.to(other)
        leaves = (
            func in LEAVES
            or (target is not None and torch.device(target).type == "cpu")
            or (moved and not isinstance(flat[1], cls))
        )
        if func not in (
            torch.Tensor.to,
            torch.Tensor.copy_,
            torch.Tensor.__setitem__,
            torch.Tensor.__getitem__,
        ) and any(not isinstance(a, cls) and a.ndim for a in flat):
            raise RuntimeError(f"Expected all tensors to be on the same device ({func.__name__}).")
        with torch._C.DisableTorchFunction():
            if func is not torch.autograd.grad:  # which looks for the very tensors of the graph
                args, kwargs = tree_map(on_cpu, (args, kwargs))
            found = func(*args, **kwargs)
        return found if leaves or isinstance(found, torch.Size) else tree_map(on_device, found)


def on_cpu(value):
    if isinstance(value, OnDevice):
        return value.as_subclass(torch.Tensor)
    return "cpu" if isinstance(value, torch.device | str) and str(value) == "mps" else value


def on_device(value):
    if not isinstance(value, torch.Tensor):
        return value
    if value.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    return value.as_subclass(OnDevice)


class _Apple(TorchFunctionMode):
    """Makes what is asked for on "mps" a tensor of it."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        named = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.device | str) and str(a) == "mps"]
        others = [a for a in args[1:] if isinstance(a, OnDevice)] if func is torch.Tensor.to else []
        if func in (torch.device, torch._C._nn._parse_to) or (not named and not others):
            return func(*args, **kwargs)
        if func is torch.Tensor.to and others:
            with torch._C.DisableTorchFunction():
                return on_device(on_cpu(args[0]).to(others[0].dtype))
        with torch._C.DisableTorchFunction():
            args, kwargs = tree_map(on_cpu, (args, kwargs))
            return tree_map(on_device, func(*args, **kwargs))


def moved(module):
    """The module with its parameters and buffers on the device."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, value in tensors.items():
                tensors[name] = None if value is None else on_device(value.detach())
    return module


def apple():
    """See the top of this file."""
    return _Apple()
