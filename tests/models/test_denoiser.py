"""A network becomes a belief: the affine map, the variance heads, and float32 whatever the network computes in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.small import tiny_model
from undiffuse.conditioning.conditions import Conditions
from undiffuse.models.denoiser import Denoiser
from undiffuse.process.betas import cosine_betas
from undiffuse.process.chains import Chain
from undiffuse.process.forward import add_noise
from undiffuse.process.posteriors import FixedVariance, LearnedRangeVariance, LearnedVariance
from undiffuse.process.predictions import PREDICTIONS, make_prediction

CHAIN = Chain(cosine_betas(50))


class Oracle(nn.Module):
    """Outputs what it is told to, in a dtype of choice."""

    def __init__(self, answer, dtype=torch.float32):
        super().__init__()
        self.answer, self.dtype, self.seen = answer, dtype, None

    def forward(self, x, clock, conditioning):
        self.seen = (x, clock)
        return self.answer.to(self.dtype)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_the_true_target_is_turned_into_x(name):
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(4, 1, 2, 2, generator=generator), torch.randn(4, 1, 2, 2, generator=generator)
    level = CHAIN(torch.tensor([0.0, 10.0, 30.0, 45.0]))
    prediction = make_prediction(name, CHAIN)
    network = Oracle(prediction.target(x, eps, level))
    posterior = Denoiser(network, prediction, Conditions({}, 1), "fixed_small")(add_noise(x, level, eps), level)
    torch.testing.assert_close(posterior.mean, x, rtol=1e-4, atol=1e-4)  # float32, 1/alpha up to 6 here
    assert network.seen[1].tolist() == [0, 10, 30, 45]


@pytest.mark.parametrize(("variance", "kind"), [("learned_range", LearnedRangeVariance), ("learned", LearnedVariance)])
def test_the_second_half_of_the_output_is_the_variance(variance, kind):
    answer = torch.cat([torch.zeros(1, 2, 3), torch.full((1, 2, 3), 0.7)], 1)
    denoiser = Denoiser(Oracle(answer), make_prediction("x0", CHAIN), Conditions({}, 1), variance)
    posterior = denoiser(torch.ones(1, 2, 3), CHAIN(5.0))
    assert isinstance(posterior.variance, kind)
    assert (next(iter(vars(posterior.variance).values())) == 0.7).all()
    assert (posterior.mean == 0).all()


@pytest.mark.parametrize(("variance", "fraction"), [("fixed_small", 0.0), ("fixed_large", 1.0)])
def test_fixed_variances(variance, fraction):
    posterior = Denoiser(Oracle(torch.zeros(1, 1, 1)), make_prediction("x0", CHAIN), Conditions({}, 1), variance)(
        torch.ones(1, 1, 1), CHAIN(5.0)
    )
    assert posterior.variance == FixedVariance(fraction)


def test_a_half_precision_network_still_gives_a_float32_belief():
    denoiser = Denoiser(
        Oracle(torch.full((1, 1, 1), 0.3), torch.bfloat16),
        make_prediction("v", CHAIN),
        Conditions({}, 1),
        "fixed_small",
    )
    x_t = torch.full((1, 1, 1), 1.2345678)
    mean = denoiser(x_t, CHAIN(5.0)).mean
    level = CHAIN(5.0)
    assert mean.dtype == torch.float32
    expected = level.alpha * 1.2345678 - level.sigma * torch.tensor(0.3).bfloat16().double()
    assert mean.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_pair_is_the_denoiser_with_and_without_its_conditions():
    model = tiny_model()
    conditions, level = model.denoiser.conditions, model.schedule(40.0)
    values = conditions.encode({"class": ["cat", "dog", "7"]}, 3)
    x_t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with_, without = (p.mean for p in model.denoiser.batched([values, conditions.without(values)])(x_t, level))
    torch.testing.assert_close(with_, model.denoiser(x_t, level, values).mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(without, model.denoiser(x_t, level, conditions.encode({}, 3)).mean, rtol=1e-4, atol=1e-5)
    assert (with_ - without).abs().max() > 1e-3
