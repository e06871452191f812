"""The U-Net: the published sizes to the parameter, any shape, and every input heard."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.small import randomised
from undiffuse.conditioning.classes import ClassCondition, ClassConfig
from undiffuse.networks.blocks import Attention, Conv2d, group_norm
from undiffuse.networks.building import build_network
from undiffuse.networks.embeddings import sinusoidal_embedding
from undiffuse.networks.unet import UNet
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.presets import PRESETS


def parameters(preset, channels, classes):
    """Of a network that also answers with variances where the preset learns them, and of its embedding of classes."""
    design = PRESETS[preset]()
    with torch.device("meta"):
        network = build_network(design.network, channels, 2 * channels if design.variance == "learned_range" else channels, (64, 64), False)
        config = ClassConfig(names=tuple(map(str, range(classes or 1))), drop=0.1 if preset.startswith("dit") else 0.0)
        condition = ClassCondition(config, network.embedding_width) if classes else nn.Identity()
    return sum(p.numel() for module in (network, condition) for p in module.parameters())


@pytest.mark.parametrize(("preset", "classes", "published"), [
    ("adm_imagenet64", 1000, 295_904_454), ("adm_imagenet128", 1000, 421_529_606), ("adm_imagenet256", 1000, 553_838_086),
    ("ddpm_cifar10", 0, 35_746_307),
])  # fmt: skip
def test_published_parameter_counts(preset, classes, published):
    assert parameters(preset, 3, classes) == published


@pytest.mark.parametrize(("preset", "channels", "classes", "millions"), [
    ("iddpm_imagenet64", 3, 0, 120), ("dit_s", 4, 1000, 33), ("dit_b", 4, 1000, 130), ("dit_l", 4, 1000, 458), ("dit_xl", 4, 1000, 675),
])  # fmt: skip
def test_parameter_counts_published_in_millions(preset, channels, classes, millions):
    """To the digits given: improved DDPM's "120M" has two of them, the table of the DiT paper whole millions."""
    digits = 5 if preset.startswith("iddpm") else 0.5
    assert abs(parameters(preset, channels, classes) / 1e6 - millions) < digits


VARIANTS = {
    "ddpm": UNetConfig(width=16, multipliers=(1, 2), attention=(2,), adaptive=False, depth=1, clock_embedding="ddpm"),
    "adm": UNetConfig(width=16, multipliers=(1, 2, 3), attention=(1, 4), head_channels=8, residual_resample=True, depth=(1, 2, 1)),
    "legacy": UNetConfig(width=16, multipliers=(1,), attention=(1,), heads=4, attention_order="legacy", depth=1, dropout=0.1),
    "heads wider than the channels": UNetConfig(width=16, multipliers=(1, 2), attention=(1,), head_channels=32, depth=1),
    "odd widths": UNetConfig(width=10, multipliers=(1, 3), depth=1, middle_attention=False, embedding_width=7),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (33, 50)), (7, (5, 12)), (2, (1, 1))])
def test_any_size_and_channel_count(config, channels, size):
    network = randomised(UNet(config, channels, 2 * channels)).eval()
    x = torch.randn(2, channels, *size)
    out = network(x, torch.tensor([3.0, 700.0]), torch.zeros(2, network.embedding_width))
    assert out.shape == (2, 2 * channels, *size)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize(("dims", "size"), [(1, (50,)), (2, (9, 6)), (3, (5, 6, 7))])
@pytest.mark.parametrize("residual_resample", [False, True])
def test_one_two_and_three_dimensions(dims, size, residual_resample):
    config = UNetConfig(dims=dims, width=8, multipliers=(1, 2, 2), depth=1, attention=(2,), residual_resample=residual_resample)
    network = randomised(UNet(config, 2, 3)).eval()
    out = network(torch.randn(2, 2, *size), torch.tensor([0.0, 9.0]))
    assert out.shape == (2, 3, *size)


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_it_starts_as_nothing_and_every_parameter_can_learn(config):
    network = UNet(config, 1, 1).eval()
    x, clock, told = torch.randn(2, 1, 8, 8), torch.tensor([1.0, 5.0]), torch.randn(2, network.embedding_width)
    assert (network(x, clock, told) == 0).all()
    randomised(network)
    network(x, clock, told).square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or (p.grad == 0).all()]


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_residual_block_hears_the_clock_and_the_condition(config):
    """No condition is silently ignored: with all other blocks deaf, each one alone still changes the output."""
    network = randomised(UNet(config, 1, 1)).eval()
    embeds = [module.embed for module in network.modules() if hasattr(module, "embed")]
    x, clock = torch.randn(1, 1, 8, 8), torch.tensor([5.0])
    a, b = torch.zeros(1, network.embedding_width), torch.ones(1, network.embedding_width)
    kept = [embed.weight.detach().clone() for embed in embeds]
    for chosen, embed in enumerate(embeds):
        with torch.no_grad():
            for k, other in enumerate(embeds):
                other.weight.copy_(kept[k] if k == chosen else torch.zeros_like(kept[k]))
        assert not torch.equal(network(x, clock, a), network(x, clock, b)), embed
        assert not torch.equal(network(x, clock, a), network(x, clock + 300, a)), embed


def test_padding_sends_no_gradient_and_changes_nothing_inside_the_receptive_field():
    network = randomised(UNet(UNetConfig(width=8, multipliers=(1, 2, 2), depth=1, middle_attention=False), 1, 1)).eval()
    x = torch.randn(1, 1, 6, 5)
    padded = torch.nn.functional.pad(x, (0, 3, 0, 2))
    clock = torch.tensor([1.0])
    torch.testing.assert_close(network(x, clock), network(padded, clock)[..., :6, :5])


def test_embedding_conventions_are_the_papers():
    t, width = 37.0, 8
    adm, ddpm = (sinusoidal_embedding(torch.tensor([t]), width, name)[0].tolist() for name in ("adm", "ddpm"))
    for i in range(4):
        assert adm[i] == pytest.approx(math.cos(t * 10000 ** (-i / 4)), abs=1e-5)
        assert adm[4 + i] == pytest.approx(math.sin(t * 10000 ** (-i / 4)), abs=1e-5)
        assert ddpm[i] == pytest.approx(math.sin(t * 10000 ** (-i / 3)), abs=1e-5)
        assert ddpm[4 + i] == pytest.approx(math.cos(t * 10000 ** (-i / 3)), abs=1e-5)
    assert sinusoidal_embedding(torch.tensor([t]), 7)[0, -1] == 0


@pytest.mark.parametrize("order", ["new", "legacy"])
def test_attention_is_the_formula(order):
    """softmax(q k'/sqrt(d)) v per head, written out with the two published layouts of the joint projection."""
    attention = randomised(Attention(8, heads=2, groups=4, order=order))
    x = torch.randn(1, 8, 3, 2)
    flat = attention.norm(x).flatten(2)[0].T  # (positions, 8)
    qkv = flat @ attention.qkv.weight.T + attention.qkv.bias
    heads = []
    for head in range(2):
        if order == "new":
            q, k, v = (qkv[:, part * 8 + head * 4 : part * 8 + head * 4 + 4] for part in range(3))
        else:
            q, k, v = (qkv[:, head * 12 + part * 4 : head * 12 + part * 4 + 4] for part in range(3))
        heads.append((q @ k.T / 2).softmax(1) @ v)
    expected = x + (torch.cat(heads, 1) @ attention.out.weight.T + attention.out.bias).T.reshape(1, 8, 3, 2)
    torch.testing.assert_close(attention(x, torch.zeros(1)), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_of_a_two_by_two_map_is_a_convolution(memory_format):
    ours = randomised(Conv2d(5, 7, 3, padding=1)).to(memory_format=memory_format).double()
    plain = nn.Conv2d(5, 7, 3, padding=1).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 2, 2, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    a, b = ours(x), plain(y)
    torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)
    torch.testing.assert_close(ours.bias.grad, plain.bias.grad)


@pytest.mark.parametrize(("channels", "groups"), [(128, 32), (48, 24), (100, 25), (7, 7), (33, 11), (1, 1)])
def test_groups_fit_any_width(channels, groups):
    assert group_norm(channels, 32).num_groups == groups


@pytest.mark.parametrize("wrong", [{"multipliers": ()}, {"depth": (1, 2), "multipliers": (1,)}, {"widht": 3}, {"dims": 4}, {"width": 0}])
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        UNetConfig(**wrong)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="equal heads"):
        UNet(UNetConfig(width=16, heads=3), 1, 1)
