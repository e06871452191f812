"""The transformer against its formulas, and against PyTorch's own attention."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from tests.small import randomised
from undiffuse.networks.building import build_network
from undiffuse.networks.transformer import TransformerBlock, TransformerConfig, _from_patches, _to_patches, rotated


@pytest.mark.parametrize(
    ("size", "patch"), [((12,), (3,)), ((4, 6), (2, 3)), ((4, 2, 6), (2, 1, 3)), ((5,), (1,)), ((4, 4), (4, 4))]
)
def test_patches_are_the_pieces_of_an_example_in_order(size, patch):
    x = torch.randn(2, 3, *size)
    pieces = _to_patches(x, patch)
    grid = [n // p for n, p in zip(size, patch, strict=True)]
    for k, place in enumerate(itertools.product(*map(range, grid))):
        cut = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))
        assert torch.equal(pieces[:, k], x[(slice(None), slice(None), *cut)].flatten(1))
    assert torch.equal(_from_patches(pieces, grid, patch), x)


@pytest.mark.parametrize("size", [(9,), (4, 5), (3, 2, 4)])
def test_rotated_products_depend_on_how_far_apart_two_patches_are_and_on_nothing_else(size):
    network = build_network(TransformerConfig(patch=1, width=26, heads=1), 1, 1, size, False)
    rotation = network._positions(size).double()
    q, k = torch.randn(2, 26, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    n = int(np.prod(size))
    a, b = (rotated(v.expand(1, 1, n, -1), rotation)[0, 0] for v in (q, k))
    torch.testing.assert_close(a.norm(dim=1), q.norm().expand(n))
    places, found = list(itertools.product(*map(range, size))), {}
    for (i, here), (j, there) in itertools.product(enumerate(places), repeat=2):
        found.setdefault(tuple(np.subtract(here, there)), []).append(float(a[i] @ b[j]))
    means = {apart: np.mean(values) for apart, values in found.items()}
    # the angles are float32's, of positions up to 9
    assert max(np.ptp(values) for values in found.values()) < 1e-5
    assert (
        min(abs(means[apart] - means[(0,) * len(size)]) for apart in means if any(apart)) > 1e-3
    )  # and they do depend on it


def test_a_block_is_attention_and_an_mlp_between_adaptive_norms():
    """Put together from PyTorch's MultiheadAttention and LayerNorm with the same weights."""
    block = randomised(TransformerBlock(TransformerConfig(width=12, heads=3, qk_norm=False), 5, False))
    x, embedding = torch.randn(2, 7, 12), torch.randn(2, 5)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (
        embedding @ block.modulation.linear.weight.T + block.modulation.linear.bias
    ).split(12, 1)
    theirs, norm = nn.MultiheadAttention(12, 3, batch_first=True), nn.LayerNorm(12, eps=1e-6, elementwise_affine=False)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(block.qkv.weight)
        theirs.in_proj_bias.copy_(block.qkv.bias)
        theirs.out_proj.weight.copy_(block.out.weight)
        theirs.out_proj.bias.copy_(block.out.bias)
    h = norm(x) * (1 + scale[:, None]) + shift[:, None]
    expected = x + gate[:, None] * theirs(h, h, h)[0]
    h = norm(expected) * (1 + mlp_scale[:, None]) + mlp_shift[:, None]
    expected = expected + mlp_gate[:, None] * block.mlp(h)
    torch.testing.assert_close(block(x, embedding, None, None, None), expected, rtol=1e-4, atol=1e-5)


def test_normalised_queries_and_keys_do_not_hear_how_large_their_weights_are():
    network = randomised(build_network(TransformerConfig(width=16, depth=1, heads=2), 1, 1, (8, 8), False)).eval()
    x, clock = torch.randn(1, 1, 8, 8), torch.tensor([5.0])
    before = network(x, clock)
    with torch.no_grad():
        for parameter in (network.blocks[0].qkv.weight, network.blocks[0].qkv.bias):
            parameter[:32] *= 50
    torch.testing.assert_close(network(x, clock), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("positions", ["rotary", "sines", "learned"])
def test_it_knows_where_a_patch_is(positions):
    """Without positions, patches in another order would be answered in that order."""
    network = randomised(
        build_network(TransformerConfig(patch=4, width=16, depth=2, heads=2, positions=positions), 1, 1, (16,), False)
    ).eval()
    x, clock = torch.randn(1, 1, 16), torch.tensor([5.0])
    apart = (network(x.roll(4, 2), clock) - network(x, clock).roll(4, 2)).abs().max() / network(x, clock).abs().max()
    assert apart > 1e-4  # float error is a hundredth of this


@pytest.mark.parametrize("positions", ["rotary", "sines"])
def test_other_sizes_than_the_one_it_was_made_for(positions):
    config = TransformerConfig(width=16, depth=2, heads=2, positions=positions)
    small, large = (randomised(build_network(config, 1, 1, size, False)).eval() for size in ((8, 8), (10, 14)))
    x, clock = torch.randn(1, 1, 10, 14), torch.tensor([5.0])
    torch.testing.assert_close(small(x, clock), large(x, clock))


def test_learned_positions_are_for_one_size():
    network = build_network(TransformerConfig(width=16, depth=1, heads=2, positions="learned"), 1, 1, (8, 8), False)
    with pytest.raises(ValueError, match="rotary for other sizes"):
        network(torch.randn(1, 1, 10, 8), torch.tensor([5.0]))


def test_padding_is_never_seen_beyond_the_end():
    """A size that is no multiple of the patch is one that is, with zeros at the end, cropped."""
    network = randomised(
        build_network(TransformerConfig(patch=4, width=16, depth=2, heads=2), 1, 1, (8, 8), False)
    ).eval()
    x, clock = torch.randn(1, 1, 7, 5), torch.tensor([5.0])
    torch.testing.assert_close(network(x, clock), network(nn.functional.pad(x, (0, 3, 0, 1)), clock)[..., :7, :5])


@pytest.mark.parametrize("positions", ["rotary", "sines"])
def test_positions_of_another_size_are_made_once(positions, monkeypatch):
    """On a GPU, making them anew at each step of a sampling is a copy that waits for all before it."""
    network = randomised(
        build_network(TransformerConfig(patch=2, width=16, depth=1, heads=2, positions=positions), 1, 1, (8, 8), False)
    ).eval()
    made, original = [], type(network)._positions
    monkeypatch.setattr(type(network), "_positions", lambda self, grid: made.append(grid) or original(self, grid))
    x, clock = torch.randn(2, 1, 6, 10), torch.tensor([3.0, 700.0])
    first = network(x, clock)
    assert torch.equal(network(x, clock), first)
    network(torch.randn(2, 1, 8, 8), clock)
    assert torch.equal(network(x, clock), first)
    network(torch.randn(2, 1, 4, 4), clock)
    assert made == [(3, 5), (2, 2)]
