"""The autoencoder: everything passes its middle, whose divergence is Kingma and Welling's and reaches the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from tests.networks.instances import NETWORKS, built
from tests.small import randomised, tiny_config
from tests.training.test_loop import batches, finished, same, training_loop
from undiffuse.networks.autoencoder import AutoencoderConfig, Bottleneck
from undiffuse.training.learners import DenoiserLearner
from undiffuse.training.objectives import Simple, make_weight

AUTOENCODER = NETWORKS["autoencoder"]
CLOCK = torch.tensor([3.0, 700.0])


def test_the_divergence_is_that_of_the_distributions():
    bottleneck = randomised(Bottleneck(AUTOENCODER, 16))
    x = torch.randn(5, 16, 3, 4)
    mean, log_variance = bottleneck.into(torch.nn.functional.silu(bottleneck.norm(x))).chunk(2, 1)
    theirs = kl_divergence(
        Normal(mean, (log_variance / 2).exp()), Normal(torch.zeros_like(mean), torch.ones_like(mean))
    )
    torch.testing.assert_close(bottleneck(x)[1], theirs.flatten(1).sum(1))


def test_latents_are_drawn_from_what_the_encoder_says():
    bottleneck = randomised(Bottleneck(AUTOENCODER, 16)).train()
    x = torch.randn(1, 16, 1, 1)
    mean, log_variance = bottleneck.into(torch.nn.functional.silu(bottleneck.norm(x))).detach().chunk(2, 1)
    torch.manual_seed(0)
    n = 20_000
    with torch.no_grad():
        z = bottleneck(x.expand(n, -1, -1, -1))[0]
    deviation = (log_variance[0] / 2).exp()
    assert ((z.mean(0) - mean[0]).abs() < 5 * deviation / math.sqrt(n)).all()
    assert ((z.std(0) / deviation - 1).abs() < 5 / math.sqrt(2 * n)).all()


def test_in_evaluation_it_is_a_function_and_costs_nothing():
    network, x = randomised(built("autoencoder")), torch.randn(2, 1, 8, 8)
    network.eval()
    torch.testing.assert_close(network(x, CLOCK), network(x, CLOCK))
    assert network.pop_auxiliary_loss() is None
    network.train()
    assert (network(x, CLOCK) - network(x, CLOCK)).abs().max() > 1e-3
    assert network.pop_auxiliary_loss().shape == (2,)


def test_the_decoder_knows_nothing_but_z():
    """With a middle that says the same of all, the answer is the same for all."""
    network = randomised(built("autoencoder")).eval()
    x = torch.randn(2, 1, 8, 8)
    assert (network(x[:1], CLOCK[:1]) - network(x[1:], CLOCK[:1])).abs().max() > 1e-3
    with torch.no_grad():
        network.bottleneck.into.weight.zero_()
    torch.testing.assert_close(network(x[:1], CLOCK[:1]), network(x[1:], CLOCK[:1]))


def learner(kl):
    torch.manual_seed(0)
    denoiser, schedule = tiny_config(network=AUTOENCODER.model_copy(update={"kl": kl}), conditions={}).build()
    randomised(denoiser)
    return DenoiserLearner(denoiser.train(), Simple(make_weight("unit", denoiser.prediction, 0.5))), schedule


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_divergence_reaches_the_loss_per_dimension(dtype):
    x, eps = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    losses, divergence = {}, []
    for kl in (0.0, 0.3):
        which, schedule = learner(kl)
        which.denoiser.network.bottleneck.register_forward_hook(
            lambda module, given, out: divergence.append(out[1].detach())
        )
        torch.manual_seed(5)
        losses[kl] = which.losses(
            x,
            eps,
            schedule(torch.full((4,), 0.5)),
            {},
            lambda: torch.autocast("cpu", dtype, enabled=dtype != torch.float32),
        )
        assert losses[kl].dtype == torch.float32
    assert (divergence[0] > 1).all()
    torch.testing.assert_close(losses[0.3] - losses[0.0], 0.3 * divergence[1] / 64, rtol=1e-3, atol=1e-4)


def test_a_divergence_that_outweighs_all_else_makes_latents_standard_normal():
    network = built("autoencoder").train()
    optimizer, x = torch.optim.Adam(network.parameters(), 0.02), torch.randn(8, 1, 8, 8)
    costs = []
    for _ in range(80):
        network(x, CLOCK[:1].expand(8))
        cost = network.pop_auxiliary_loss().mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < 0.02 * costs[0]


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"objective": "hybrid"}])
def test_stopping_and_resuming_changes_no_bit(settings):
    whole, _ = finished(training_loop(network=AUTOENCODER, **settings))
    first = training_loop(network=AUTOENCODER, **settings)
    for update in first.updates(batches):
        if update.step == 5:
            break
    second = training_loop(network=AUTOENCODER, **settings)
    torch.manual_seed(99)  # what others draw meanwhile does not matter
    second.resume(first.tensors(), first.numbers())
    assert same(whole, finished(second)[0])


def test_it_has_a_divergence_of_no_negative_weight():
    with pytest.raises(ValueError, match="greater than or equal"):
        AutoencoderConfig(kl=-1.0)
