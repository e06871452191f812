"""Parameters in one buffer: the same network, the same gradients, the same update as with separate tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.small import tiny_model
from undiffuse.training.flat import Flat


def loss(network: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 1, 8, 8, generator=generator)
    return network(x, torch.arange(5.0), torch.randn(5, network.embedding_width, generator=generator)).square().mean()


def twins() -> tuple[nn.Module, nn.Module]:
    """One network twice, its last layer no longer zero and its convolutions in either memory layout."""
    network = tiny_model().denoiser.network
    for p in network.parameters():
        nn.init.normal_(p, 0, 0.1)
    layouts = [p for p in network.parameters() if p.ndim == 4]
    layouts[0].data = layouts[0].data.contiguous()
    layouts[1].data = layouts[1].data.contiguous(memory_format=torch.channels_last)
    return network, copy.deepcopy(network)


def test_names_values_and_memory_layouts_are_kept():
    a, b = twins()
    Flat(b)
    for (name, p), (other, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(p, q)
        assert p.stride() == q.stride()


def test_every_view_has_memory_of_its_own():
    _, b = twins()
    flat = Flat(b)
    flat.parameter.data.copy_(torch.arange(len(flat.parameter)))
    every = torch.cat([p.detach().flatten() for p in b.parameters()])
    assert torch.equal(every.sort().values, torch.arange(float(len(flat.parameter))))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adamw_on_the_buffer_is_adamw_on_the_parameters(decay):
    a, b = twins()
    flat = Flat(b)
    separate = torch.optim.AdamW(a.parameters(), lr=1e-2, weight_decay=decay)
    together = torch.optim.AdamW([flat.parameter], lr=1e-2, weight_decay=decay)
    for _ in range(3):
        separate.zero_grad()
        loss(a).backward()
        separate.step()
        flat.gradient.zero_()
        loss(b).backward()
        together.step()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_mixed_dtypes_are_refused():
    with pytest.raises(ValueError, match="one dtype"):
        Flat(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double()]))
