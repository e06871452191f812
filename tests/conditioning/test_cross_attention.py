"""Attention to tokens: the formula, what is absent, the order of tokens, and U-Nets of any size that are told some."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from tests.small import TINY, randomised
from undiffuse.networks.blocks import CrossAttention, group_norm
from undiffuse.networks.unet import UNet
from undiffuse.networks.unet_config import UNetConfig

NORM = partial(group_norm, groups=3)
SIZES = {1: (7,), 2: (5, 6), 3: (3, 4, 5)}


def inputs(dims, channels=6, width=10, tokens=5, seed=0):
    """x, tokens and which of them are absent: of the first example the last two, of the second the second."""
    generator = torch.Generator().manual_seed(seed)
    absent = torch.zeros(2, tokens, dtype=torch.bool)
    absent[0, -2:] = absent[1, 1] = True
    return (
        torch.randn(2, channels, *SIZES[dims], generator=generator),
        torch.randn(2, tokens, width, generator=generator),
        absent,
    )


@pytest.mark.parametrize("dims", SIZES)
def test_it_starts_as_the_identity(dims):
    x, tokens, absent = inputs(dims)
    block = CrossAttention(6, 10, heads=2, norm=NORM)
    assert torch.equal(block(x, tokens, absent), x)
    assert not torch.equal(randomised(block)(x, tokens, absent), x)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_it_is_the_formula_over_the_tokens_that_are_there(heads):
    """Rombach et al. 2022, eq. 5, position by position and head by head in float64, with the absent tokens cut out."""
    x, tokens, absent = (t.double() if t.is_floating_point() else t for t in inputs(1))
    block = randomised(CrossAttention(6, 10, heads=heads, norm=NORM)).double().requires_grad_(False)
    out = block(x, tokens, absent)
    for b in range(2):
        h = nn.functional.group_norm(x[b : b + 1], 3, block.norm.weight, block.norm.bias)[0]
        said = nn.functional.layer_norm(tokens[b][~absent[b]], (10,), block.token_norm.weight, block.token_norm.bias)
        k, v = (said @ block.kv.weight.T + block.kv.bias).split(6, 1)
        for position in range(x.shape[2]):
            q, found, d = h[:, position] @ block.q.weight.T + block.q.bias, [], 6 // heads
            for head in range(heads):
                part = slice(head * d, (head + 1) * d)
                weights = torch.tensor(
                    [math.exp(float(q[part] @ key[part]) / math.sqrt(d)) for key in k], dtype=torch.float64
                )
                found.append((weights[:, None] * v[:, part]).sum(0) / weights.sum())
            expected = x[b, :, position] + torch.cat(found) @ block.out.weight.T + block.out.bias
            torch.testing.assert_close(out[b, :, position], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dims", SIZES)
def test_what_is_absent_has_no_say(dims):
    x, tokens, absent = inputs(dims)
    block = randomised(CrossAttention(6, 10, heads=2, norm=NORM))
    other = torch.where(absent[:, :, None], torch.full_like(tokens, 1e3), tokens)
    assert torch.equal(block(x, other, absent), block(x, tokens, absent))
    tokens.requires_grad_()
    block(x, tokens, absent).square().sum().backward()
    assert (tokens.grad[absent] == 0).all()
    assert (tokens.grad[~absent].abs().sum(1) > 0).all()


@pytest.mark.parametrize("dims", SIZES)
def test_the_order_of_tokens_is_nothing(dims):
    x, tokens, absent = inputs(dims)
    block = randomised(CrossAttention(6, 10, heads=2, norm=NORM))
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(
        block(x, tokens[:, order], absent[:, order]), block(x, tokens, absent), rtol=1e-5, atol=1e-6
    )


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="6 channels cannot be split into 4 equal heads"):
        CrossAttention(6, 10, heads=4, norm=NORM)


@pytest.mark.parametrize(
    ("dims", "size"), [(1, (7,)), (1, (50,)), (2, (8, 8)), (2, (9, 6)), (2, (1, 1)), (3, (5, 6, 7))]
)
@pytest.mark.parametrize("where", [None, (1,), (1, 2, 4), ()])
def test_a_u_net_is_told_tokens_at_any_size(dims, size, where):
    """Told tokens: absent ones have no say, their order is nothing, and each that is there is heard."""
    config = UNetConfig(
        dims=dims, width=8, multipliers=(1, 2, 2), depth=1, groups=4, attention=(2,), cross_attention=where
    )
    network = randomised(UNet(config, 2, 3, tokens=True)).eval()
    generator = torch.Generator().manual_seed(0)
    x, tokens = (
        torch.randn(2, 2, *size, generator=generator),
        torch.randn(2, 4, network.embedding_width, generator=generator),
    )
    clock, absent = torch.tensor([3.0, 500.0]), torch.tensor([[False, True, False, False], [False, False, True, True]])

    def out(tokens, absent=absent):
        with torch.no_grad():
            return network(x, clock, None, tokens, absent)

    base = out(tokens)
    assert base.shape == (2, 3, *size)
    assert torch.equal(out(torch.where(absent[:, :, None], torch.full_like(tokens, 50.0), tokens)), base)
    torch.testing.assert_close(out(tokens.flip(1), absent.flip(1)), base, rtol=1e-4, atol=1e-5)
    for k in range(4):
        other = tokens.clone()
        other[:, k] = -other[:, k]
        heard = (out(other) != base).flatten(1).any(1)
        assert heard.tolist() == (~absent[:, k]).tolist()


def test_attention_to_tokens_is_where_it_is_asked_for():
    """In the middle always, and at the two lowest levels where nothing else is said; a network told none has none."""

    def count(**changes):
        network = UNet(TINY.model_copy(update={"multipliers": (1, 2, 2), "depth": 2} | changes), 1, 1, tokens=True)
        return sum(isinstance(module, CrossAttention) for module in network.modules())

    assert count(cross_attention=()) == 1
    assert count(cross_attention=(1,)) == count(cross_attention=(2,)) == 1 + 2 + 3
    assert count() == count(cross_attention=(2, 4)) == 1 + 2 * (2 + 3)
    assert not any(isinstance(module, CrossAttention) for module in UNet(TINY, 1, 1).modules())


def test_every_parameter_that_attends_to_tokens_can_learn():
    network = randomised(UNet(TINY, 1, 1, tokens=True))
    tokens, absent = (
        torch.randn(2, 3, network.embedding_width, generator=torch.Generator().manual_seed(0)),
        torch.zeros(2, 3, dtype=torch.bool),
    )
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    network(x, torch.tensor([1.0, 5.0]), None, tokens, absent).square().sum().backward()
    blocks = [module for module in network.modules() if isinstance(module, CrossAttention)]
    assert not [
        name for block in blocks for name, p in block.named_parameters() if p.grad is None or (p.grad == 0).all()
    ]
