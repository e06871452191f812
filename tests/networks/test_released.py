"""Weights that others released are expressible: the same function as diffusers' U-Nets and EDM's, weight by weight, and as many of them."""

from __future__ import annotations

import math

import pytest
import torch

from tests.networks.released import EDMUNet, filled, from_diffusers
from tests.small import randomised, tiny_config
from undiffuse.conditioning.classes import ClassConfig
from undiffuse.networks.unet import UNet
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.process.config import CNoiseConfig, ScheduleConfig
from undiffuse.runs.presets import PRESETS

diffusers = pytest.importorskip("diffusers")

DDPM = UNetConfig(
    width=32,
    multipliers=(1, 2),
    depth=2,
    attention=(2,),
    adaptive=False,
    groups=8,
    timestep_embedding="ddpm",
    downsample_padding=0,
    norm_eps=1e-6,
)
SONG = UNetConfig(
    width=32,
    first_width=32,
    multipliers=(2, 2, 2),
    depth=2,
    attention=(2,),
    adaptive=False,
    residual_resample=True,
    resample_proj=True,
    skip_scale=math.sqrt(0.5),
    norm_eps=1e-6,
    min_channels_per_group=4,
    decoder_attention="last",
    timestep_embedding="ddpm",
)
NCSNPP = {"timestep_embedding": "fourier", "encoder_type": "residual", "resample_filter": (1, 3, 3, 1)}
DHARIWAL = UNetConfig(
    width=64,
    multipliers=(1, 2, 3),
    depth=1,
    attention=(2, 4),
    head_channels=64,
    residual_resample=True,
    min_channels_per_group=4,
)


def ddpm(width, multipliers, depth, groups, **other):
    """diffusers' network with the settings of google/ddpm-cifar10-32: attention at the second level."""
    kinds = ["AttnDownBlock2D" if level == 1 else "DownBlock2D" for level in range(len(multipliers))]
    return diffusers.UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=tuple(width * m for m in multipliers),
        layers_per_block=depth,
        norm_num_groups=groups,
        attention_head_dim=None,
        downsample_padding=0,
        norm_eps=1e-6,
        flip_sin_to_cos=False,
        freq_shift=1,
        act_fn="silu",
        down_block_types=tuple(kinds),
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        **other,
    )


def ours_of(theirs, config=DDPM, negated=False):
    return filled(UNet(config, 3, 3), from_diffusers(theirs, config, negated))


def close(ours, theirs, rounding=1e-5):
    """Equal to float32 rounding: 2^-24 times some hundred operations a number passes, of the largest number."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=rounding * theirs.abs().max().item())


@pytest.fixture(scope="module")
def google():
    return randomised(ddpm(32, (1, 2), 2, 8)).eval()


@torch.no_grad()
def test_googles_ddpm_is_the_same_function_at_every_step(google):
    network, x = ours_of(google), torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for start in range(0, 1000, 50):
        t = torch.arange(start, start + 50)
        close(network(x, t.float()), google(x, t).sample)


@torch.no_grad()
@pytest.mark.parametrize("other", [{"downsample_padding": 1}, {"norm_eps": 1e-5}, {"timestep_embedding": "adm"}])
def test_each_of_its_settings_matters(google, other):
    network, x = (
        ours_of(google, DDPM.model_copy(update=other)),
        torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)),
    )
    t = torch.tensor([3, 700])
    with pytest.raises(AssertionError):
        close(network(0.01 * x, t.float()), google(0.01 * x, t).sample, 1e-6 if "norm_eps" in other else 1e-5)


def test_googles_ddpm_has_as_many_parameters():
    config = UNetConfig(
        width=128,
        multipliers=(1, 2, 2, 2),
        attention=(2,),
        adaptive=False,
        timestep_embedding="ddpm",
        downsample_padding=0,
        norm_eps=1e-6,
    )
    with torch.device("meta"):
        ours, theirs = UNet(config, 3, 3), ddpm(128, (1, 2, 2, 2), 2, 32)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 35_746_307


# What a network is shown -------------------------------------------------------------------------------------------------


def believed(network_weights, config, x_t, t):
    """x̂ of a model whose network has these weights, at times t."""
    denoiser, schedule = config.build()
    filled(denoiser.network, network_weights)
    return denoiser.eval()(x_t, schedule(t)).mean, schedule(t)


CONVENTIONS = {
    # name: (settings of the model, times, what others tell their network there, their x̂ of (x_t, F, t))
    "improved diffusion, 4000 steps": (
        {
            "schedule": ScheduleConfig(name="cosine", T=4000),
            "prediction": "epsilon",
            "c_noise": CNoiseConfig(scale=1000 / 4000),
        },
        [0.0, 1.0, 777.0, 3500.0],
        lambda t: t * (1000 / 4000),
        None,
    ),
    "flow, told 1000 t": (
        {"schedule": ScheduleConfig(name="flow"), "prediction": "flow", "c_in": "one"},
        [0.01, 0.3, 0.9, 1.0],
        lambda t: 1000 * t,
        lambda x_t, F, t: x_t - t * F,
    ),
    "flow, told t": (
        {
            "schedule": ScheduleConfig(name="flow"),
            "prediction": "flow",
            "c_in": "one",
            "c_noise": CNoiseConfig(scale=1e-3),
        },
        [0.01, 0.3, 0.9, 1.0],
        lambda t: t,
        lambda x_t, F, t: x_t - t * F,
    ),
    "flow the other way round, told 1 - t": (
        {
            "schedule": ScheduleConfig(name="flow"),
            "prediction": "flow",
            "c_in": "one",
            "c_noise": CNoiseConfig(scale=-1e-3, shift=1.0),
        },
        [0.01, 0.3, 0.9, 1.0],
        lambda t: 1 - t,
        lambda x_t, F, t: x_t - t * F,
    ),
    "VP of score SDEs, told 999 t": (
        {"schedule": ScheduleConfig(name="vp"), "prediction": "epsilon", "c_noise": CNoiseConfig(scale=0.999)},
        [0.01, 0.3, 0.9, 1.0],
        lambda t: 999 * t,
        None,
    ),
    "VE, told log(sigma/2)": (
        {
            "schedule": ScheduleConfig(name="edm"),
            "prediction": "epsilon",
            "c_in": "one",
            "c_noise": CNoiseConfig(of="log_sigma", shift=-math.log(2)),
        },
        [0.02, 0.5, 7.0, 60.0],
        lambda t: (t / 2).log(),
        lambda x_t, F, t: x_t - t * F,
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_model_shows_its_network_what_others_show_theirs(google, name):
    settings, times, told, clean = CONVENTIONS[name]
    config = tiny_config(shape=(3, 8, 8), network=DDPM, conditions={}, **settings)
    t = torch.tensor(times, dtype=torch.float64)
    x_t = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    found, level = believed(from_diffusers(google, DDPM), config, x_t, t)
    F = google(x_t, told(t).float()).sample
    column = [c.float().reshape(-1, 1, 1, 1) for c in (t, level.alpha, level.sigma)]
    close(found, clean(x_t, F, column[0]) if clean else (x_t - column[2] * F) / column[1], 3e-5)


@torch.no_grad()
def test_a_network_of_another_clock_is_asked_on_other_schedules_as_on_its_own(google):
    """process/predictions.py, eq. (2), with c_in = 1 and log(sigma)/4: x̂ depends on x_t's direction and SNR alone."""
    settings = {
        "network": DDPM,
        "prediction": "flow",
        "c_in": "one",
        "c_noise": CNoiseConfig(of="log_sigma", scale=0.25),
        "conditions": {},
    }
    own = tiny_config(shape=(3, 8, 8), schedule=ScheduleConfig(name="edm"), **settings)
    other = tiny_config(
        shape=(3, 8, 8), schedule=ScheduleConfig(name="vp"), trained_schedule=ScheduleConfig(name="edm"), **settings
    )
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    found, level = believed(from_diffusers(google, DDPM), other, x, torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64))
    scaled = x / level.alpha.float().reshape(-1, 1, 1, 1)
    expected, _ = believed(from_diffusers(google, DDPM), own, scaled, level.sigma_edm)
    close(found, expected, 3e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule": ScheduleConfig(name="flow"), "prediction": "flow", "c_noise": CNoiseConfig(of="log_sigma")},
            "infinite",
        ),
        ({"c_noise": CNoiseConfig(scale=0.0)}, "c_noise.scale is 0"),
    ],
)
def test_a_clock_that_says_nothing_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**settings).build()


# Pyramids, filters, EDM ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_ncsnpp_of_score_sdes_is_the_same_function():
    """google/ncsnpp-*: skips of the input and of the output; its output is a score, -eps/sigma, of x_t = x + sigma eps, told log(sigma)."""
    theirs = randomised(
        diffusers.UNet2DModel(
            in_channels=3,
            out_channels=3,
            block_out_channels=(128, 128, 128),
            layers_per_block=1,
            norm_eps=1e-6,
            attention_head_dim=None,
            down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
            time_embedding_type="fourier",
            up_block_types=("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
            mid_block_scale_factor=math.sqrt(2),
        )
    ).eval()
    with torch.no_grad():
        theirs.time_proj.weight.mul_(16 / 0.15)
    network = UNetConfig(
        width=128,
        multipliers=(1, 1, 1),
        depth=1,
        attention=(2,),
        adaptive=False,
        residual_resample=True,
        resample_proj=True,
        norm_eps=1e-6,
        skip_scale=math.sqrt(0.5),
        min_channels_per_group=4,
        decoder_attention="last",
        timestep_embedding="fourier",
        noise_channels=256,
        resample_filter=(1, 3, 3, 1),
        encoder_type="skip",
        decoder_type="skip",
    )
    config = tiny_config(
        shape=(3, 8, 8),
        network=network,
        schedule=ScheduleConfig(name="edm"),
        prediction="epsilon",
        c_in="one",
        conditions={},
        c_noise=CNoiseConfig(of="log_sigma"),
    )
    sigma = torch.tensor([0.02, 0.5, 7.0, 60.0], dtype=torch.float64)
    x_t = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2)) * sigma.float().reshape(-1, 1, 1, 1)
    found, _ = believed(from_diffusers(theirs, network, negated=True), config, x_t, sigma)
    score = theirs(x_t, sigma.float()).sample
    # the angle 2 pi w log(sigma) is up to 1500, so rounding it is an error of 1e-4 in its sine
    close(found, x_t + sigma.float().reshape(-1, 1, 1, 1) ** 2 * score, 1e-3)


EDM = {
    "ddpmpp": (SONG, {"song": True}),
    "ncsnpp": (
        SONG.model_copy(update={**NCSNPP, "noise_channels": 64}),
        {"song": True, "fourier": True, "residual": True, "taps": (1, 3, 3, 1)},
    ),
    "ncsnpp, the average as filter": (
        SONG.model_copy(update={"encoder_type": "residual"}),
        {"song": True, "residual": True},
    ),
    "adm": (DHARIWAL, {"song": False}),
}


@torch.no_grad()
@pytest.mark.parametrize("name", EDM)
def test_edms_networks_are_the_same_functions(name):
    config, settings = EDM[name]
    theirs = EDMUNet(config.width, config.multipliers, config.depth, config.attention, **settings)
    x, c_noise = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)), torch.tensor([-1.2, 0.1, 1.09])
    expected = theirs(x, c_noise)
    close(
        filled(UNet(config, 3, 3), theirs.renamed(config))(x, c_noise),
        expected,
        1e-4 if settings.get("fourier") else 1e-5,
    )


@torch.no_grad()
def test_an_edm_model_is_preconditioned_as_edms():
    config, settings = EDM["ncsnpp"]
    theirs = EDMUNet(config.width, config.multipliers, config.depth, config.attention, **settings)
    sigma, x = (
        torch.tensor([0.02, 1.0, 30.0], dtype=torch.float64),
        torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)),
    )
    s = sigma.float().reshape(-1, 1, 1, 1)
    expected = 0.25 / (s**2 + 0.25) * x + s * 0.5 / (s**2 + 0.25).sqrt() * theirs(
        x / (s**2 + 0.25).sqrt(), sigma.float().log() / 4
    )
    model = tiny_config(
        shape=(3, 16, 16),
        network=config,
        schedule=ScheduleConfig(name="edm"),
        prediction="edm",
        conditions={},
        c_noise=CNoiseConfig(of="log_sigma", scale=0.25),
    )
    close(believed(theirs.renamed(config), model, x, sigma)[0], expected, 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddpmpp", "adm"])
def test_edms_networks_are_told_their_class_where_theirs_are(name):
    config, settings = EDM[name]
    config = config.model_copy(update={"conditions_join": "before" if name == "ddpmpp" else "after"})
    theirs = EDMUNet(config.width, config.multipliers, config.depth, config.attention, classes=3, **settings)
    sigma, x = (
        torch.tensor([0.02, 1.0, 30.0], dtype=torch.float64),
        torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3)),
    )
    s, k = sigma.float().reshape(-1, 1, 1, 1), torch.tensor([2, 0, 1])
    expected = 0.25 / (s**2 + 0.25) * x + s * 0.5 / (s**2 + 0.25).sqrt() * theirs(
        x / (s**2 + 0.25).sqrt(), sigma.float().log() / 4, k
    )
    model = tiny_config(
        shape=(3, 16, 16),
        network=config,
        schedule=ScheduleConfig(name="edm"),
        prediction="edm",
        c_noise=CNoiseConfig(of="log_sigma", scale=0.25),
        conditions={"class": ClassConfig(names=("a", "b", "c"), dropout=0.0)},
    )
    denoiser, schedule = model.build()
    filled(denoiser.conditions, {"each.class.table.weight": theirs.table()})
    filled(denoiser.network, theirs.renamed(config))
    close(denoiser.eval()(x, schedule(sigma), {"class": k}).mean, expected, 1e-5)


@pytest.mark.parametrize(
    ("preset", "settings", "millions"),
    [
        ("edm_ddpmpp_cifar10", {}, 55.7),
        ("edm_ncsnpp_cifar10", {"fourier": True, "residual": True, "taps": (1, 3, 3, 1)}, 56.4),
    ],
)
def test_the_presets_of_edm_have_as_many_parameters(preset, settings, millions):
    network = PRESETS[preset]().network
    with torch.device("meta"):
        ours = sum(p.numel() for p in UNet(network, 3, 3).parameters())
        theirs = EDMUNet(128, (2, 2, 2), 4, (2,), song=True, device="meta", **settings)
        theirs(torch.empty(1, 3, 32, 32), torch.empty(1))
    assert ours == sum(w.numel() for w in theirs.weights.values())
    assert abs(ours / 1e6 - millions) < 0.05


@torch.no_grad()
@pytest.mark.parametrize(("preset", "name"), [("edm_ddpmpp_cifar10", "ddpmpp"), ("edm_ncsnpp_cifar10", "ncsnpp")])
def test_the_presets_of_edm_are_the_networks_compared_here(preset, name):
    sizes = {
        "width",
        "first_width",
        "depth",
        "noise_channels",
        "dropout",
        "conditions_join",
    }  # the last is compared above
    assert PRESETS[preset]().network.model_dump(exclude=sizes) == EDM[name][0].model_dump(exclude=sizes)


@pytest.mark.parametrize("preset", ["edm_ddpmpp_cifar10", "edm_ncsnpp_cifar10"])
def test_edms_models_are_told_nine_numbers_of_their_augmentation(preset):
    """EDM's `augment_dim`, 9, of flips, scale, rotation, stretch and translation (Karras et al. 2022, Table 6)."""
    augment = PRESETS[preset]().augment
    assert augment.numbers(2) == 9
    assert {augment.probability_of(name) for name in augment.chosen if name != "flip"} == {0.12}
    assert augment.probability_of("flip") == 1


def test_edms_adm_has_as_many_parameters():
    config = DHARIWAL.model_copy(update={"width": 192, "multipliers": (1, 2, 3, 4), "depth": 3, "attention": (2, 4, 8)})
    with torch.device("meta"):
        theirs = EDMUNet(192, (1, 2, 3, 4), 3, (2, 4, 8), song=False, device="meta")
        theirs(torch.empty(1, 3, 64, 64), torch.empty(1))
        assert sum(p.numel() for p in UNet(config, 3, 3).parameters()) == sum(
            w.numel() for w in theirs.weights.values()
        )
