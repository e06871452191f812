"""The moving average: its formula, its warm-up, and that nothing but weights is averaged or disturbed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.small import tiny_model
from undiffuse.training.ema import EMA
from undiffuse.training.flat import Flat


class WithBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("schedule", torch.arange(5.0))


def test_it_is_the_recursion_with_its_warm_up():
    module = WithBuffer()
    average = EMA(Flat(module), 0.9)
    expected = torch.zeros(3, dtype=torch.float64)
    for n in range(1, 40):
        with torch.no_grad():
            module.weight.fill_(float(n) ** 0.5)
        average.update()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * float(n) ** 0.5
    torch.testing.assert_close(average.values["weight"].double(), expected, rtol=1e-5, atol=0)


def test_buffers_and_schedules_are_never_averaged():
    module = WithBuffer()
    average = EMA(Flat(module), 0.9)
    module.schedule += 1
    for _ in range(1000):
        average.update()
    assert list(average.values) == ["weight"]
    with average.swapped():
        assert torch.equal(module.schedule, torch.arange(5.0) + 1)
    model = tiny_model()
    betas = model.schedule.betas.clone()
    ema = EMA(Flat(model.denoiser))
    for _ in range(100):
        ema.update()
    assert torch.equal(model.schedule.betas, betas)
    assert model.schedule.betas.dtype == torch.float64


def test_a_swap_is_undone_to_the_bit_also_after_an_error():
    module = WithBuffer()
    average = EMA(Flat(module), 0.9)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([0.1, 0.2, 0.3]))
    before, kept = module.weight.detach().clone(), average.values["weight"].clone()
    with pytest.raises(KeyError), average.swapped():
        assert torch.equal(module.weight, kept)
        raise KeyError
    assert torch.equal(module.weight, before)
    assert torch.equal(average.values["weight"], kept)


def test_early_averages_follow_the_weights():
    """After 50 steps of a jump away from the initial weights, what is left of those is below 1e-6, not 95 %."""
    module = WithBuffer()
    average = EMA(Flat(module), 0.9999)
    with torch.no_grad():
        module.weight.fill_(1.0)
    for _ in range(50):
        average.update()
    assert (average.values["weight"] > 1 - 1e-6).all()
