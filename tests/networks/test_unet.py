"""The U-Net: the published sizes to the parameter, any shape, and every input heard."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from tests.small import randomised
from undiffuse.conditioning.classes import ClassCondition, ClassConfig
from undiffuse.networks.blocks import Attention, Conv2d, DownsampleLayer, Resampling, group_norm
from undiffuse.networks.building import build_network
from undiffuse.networks.embeddings import sinusoidal_embedding
from undiffuse.networks.unet import UNet
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.runs.presets import PRESETS


def parameters(preset, channels, classes):
    """Of a network that also answers with variances where the preset learns them, and of its embedding of classes."""
    design = PRESETS[preset]()
    with torch.device("meta"):
        network = build_network(
            design.network,
            channels,
            2 * channels if design.variance_type == "learned_range" else channels,
            (64, 64),
            False,
        )
        config = ClassConfig(
            names=tuple(map(str, range(classes or 1))), dropout=0.1 if preset.startswith("dit") else 0.0
        )
        condition = ClassCondition(config, network.embedding_width) if classes else nn.Identity()
    return sum(p.numel() for module in (network, condition) for p in module.parameters())


@pytest.mark.parametrize(
    ("preset", "classes", "published"),
    [
        ("adm_imagenet64", 1000, 295_904_454),
        ("adm_imagenet128", 1000, 421_529_606),
        ("adm_imagenet256", 1000, 553_838_086),
        ("ddpm_cifar10", 0, 35_746_307),
    ],
)
def test_published_parameter_counts(preset, classes, published):
    assert parameters(preset, 3, classes) == published


@pytest.mark.parametrize(
    ("preset", "channels", "classes", "millions"),
    [
        ("iddpm_imagenet64", 3, 0, 120),
        ("dit_s", 4, 1000, 33),
        ("dit_b", 4, 1000, 130),
        ("dit_l", 4, 1000, 458),
        ("dit_xl", 4, 1000, 675),
    ],
)
def test_parameter_counts_published_in_millions(preset, channels, classes, millions):
    """To the digits given: improved DDPM's "120M" has two of them, the table of the DiT paper whole millions."""
    digits = 5 if preset.startswith("iddpm") else 0.5
    assert abs(parameters(preset, channels, classes) / 1e6 - millions) < digits


VARIANTS = {
    "ddpm": UNetConfig(
        width=16, multipliers=(1, 2), attention=(2,), adaptive=False, depth=1, timestep_embedding="ddpm"
    ),
    "adm": UNetConfig(
        width=16, multipliers=(1, 2, 3), attention=(1, 4), head_channels=8, residual_resample=True, depth=(1, 2, 1)
    ),
    "legacy": UNetConfig(
        width=16, multipliers=(1,), attention=(1,), heads=4, attention_order="legacy", depth=1, dropout=0.1
    ),
    "heads wider than the channels": UNetConfig(
        width=16, multipliers=(1, 2), attention=(1,), head_channels=32, depth=1
    ),
    "ddpm's padding": UNetConfig(
        width=8, multipliers=(1, 2), depth=1, downsample_padding=0, first_width=4, noise_channels=6, norm_eps=1e-6
    ),
    "pyramids": UNetConfig(
        width=8,
        multipliers=(1, 2, 2),
        depth=1,
        attention=(2,),
        residual_resample=True,
        resample_filter=(1, 2, 2, 1),
        resample_proj=True,
        encoder_type="skip",
        decoder_type="skip",
        min_channels_per_group=4,
        skip_scale=0.7,
    ),
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
    config = UNetConfig(
        dims=dims, width=8, multipliers=(1, 2, 2), depth=1, attention=(2,), residual_resample=residual_resample
    )
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
    assert not [
        name for name, p in network.named_parameters() if p.requires_grad and (p.grad is None or (p.grad == 0).all())
    ]


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
    attention = randomised(Attention(8, heads=2, norm=partial(group_norm, groups=4), order=order))
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


def along_one_axis(x, taps, way):
    """The filter's definition: down, y_n = sum_k f_k x_(2n+k-p); up, the same sum over x with a zero after each number, twice as large."""
    f, p = [tap / sum(taps) for tap in taps], len(taps) // 2 - 1
    if way == "down":
        return [
            sum(f[k] * x[2 * n + k - p] for k in range(len(f)) if 0 <= 2 * n + k - p < len(x))
            for n in range(len(x) // 2)
        ]
    y = [0.0] * (2 * len(x))
    for i, value in enumerate(x):
        for k, tap in enumerate(f):
            if 0 <= 2 * i + k - p < len(y):
                y[2 * i + k - p] += 2 * tap * value
    return y


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 2, 5, 1), (1, 2, 3, 3, 2, 1)])
@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_resampling_is_the_filters_definition_along_each_axis(taps, way, dims):
    """On a product of one function for each axis, the filter of all axes is the product of what it makes of each."""
    generator = torch.Generator().manual_seed(0)
    along = [torch.randn(n, generator=generator) for n in (8, 6, 4)[:dims]]
    made = [torch.tensor(along_one_axis(axis.tolist(), taps, way)) for axis in along]
    product = {
        1: lambda a: a[0],
        2: lambda a: a[0][:, None] * a[1],
        3: lambda a: a[0][:, None, None] * a[1][:, None] * a[2],
    }[dims]
    x = torch.stack([product(along), 2 * product(along)])[None]
    found = Resampling(dims, way, taps)(x)
    torch.testing.assert_close(found, torch.stack([product(made), 2 * product(made)])[None])


def test_settings_of_others_leave_the_networks_there_were_as_they_were():
    """At their defaults they are the very operations, to the bit, and no parameter is new."""
    x, embedding = torch.randn(2, 6, 10, 12), torch.zeros(1)
    assert torch.equal(Resampling(2, "down")(x), nn.functional.avg_pool2d(x, 2))
    assert torch.equal(Resampling(2, "up")(x), nn.functional.interpolate(x, scale_factor=2, mode="nearest"))
    assert Resampling(2, None)(x) is x
    down = DownsampleLayer(2, 6)
    assert torch.equal(down(x, embedding), nn.functional.conv2d(x, down.conv.weight, down.conv.bias, 2, 1))
    network = UNet(UNetConfig(width=24, multipliers=(1, 2), depth=1, residual_resample=True, attention=(2,)), 1, 1)
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    assert all(m.eps == 1e-5 and m.num_groups == max(g for g in range(1, 33) if m.num_channels % g == 0) for m in norms)
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {
        "time_embedding",
        "encoder",
        "middle",
        "decoder",
        "norm",
        "last",
    }
    residuals = [m for m in network.modules() if hasattr(m, "embed")]
    assert all(isinstance(m.skip, nn.Identity) == (m.conv1.in_channels == m.conv1.out_channels) for m in residuals)


@pytest.mark.parametrize(
    ("channels", "least", "groups"),
    [(128, 4, 32), (64, 4, 16), (48, 4, 12), (24, 4, 6), (36, 4, 9), (3, 4, 1), (512, 4, 32)],
)
def test_groups_of_at_least_so_many_channels(channels, least, groups):
    """EDM's rule, min(32, channels / 4) where that divides the channels."""
    assert group_norm(channels, 32, least=least).num_groups == groups


def test_fourier_frequencies_are_kept_with_the_weights_and_never_trained():
    config = UNetConfig(width=8, multipliers=(1,), depth=1, timestep_embedding="fourier", noise_channels=2000)
    network = UNet(config, 1, 1)
    assert network.fourier.shape == (1000,)
    assert not network.fourier.requires_grad
    assert abs(network.fourier.std() / 16 - 1) < 4 / math.sqrt(2 * 1000)
    assert "fourier" in dict(network.named_parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"resample_filter": (1, 2, 1), "residual_resample": True}, "3 taps"),
        ({"resample_filter": (1, 3, 3, 1)}, "residual_resample to true"),
        ({"resample_proj": True}, "residual_resample to true"),
        ({"residual_resample": True, "downsample_padding": 0}, "downsample_padding"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"multipliers": ()}, {"depth": (1, 2), "multipliers": (1,)}, {"widht": 3}, {"dims": 4}, {"width": 0}]
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        UNetConfig(**wrong)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="equal heads"):
        UNet(UNetConfig(width=16, heads=3), 1, 1)
