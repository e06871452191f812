"""Laws of every network: any shape, every input heard, nothing at the start, everything learnable, and examples on their own."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tests.networks.instances import NETWORKS, built
from tests.small import randomised, tiny_config, tiny_model
from undiffuse.conditioning.classes import ClassConfig
from undiffuse.config import changed, parsed
from undiffuse.models.config import ModelConfig
from undiffuse.models.file import load, save_model
from undiffuse.networks.autoencoder import AutoencoderConfig
from undiffuse.networks.building import build_network, suggested
from undiffuse.networks.encoder import UNetEncoder
from undiffuse.networks.mlp import MLPConfig
from undiffuse.networks.transformer import TransformerConfig
from undiffuse.networks.unet_config import UNetConfig
from undiffuse.runs.classifier import classifying_network
from undiffuse.runs.design import Design
from undiffuse.runs.presets import design_for

CLOCK = torch.tensor([3.0, 700.0])
names = pytest.mark.parametrize("name", NETWORKS)


@names
@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (7, 10)), (2, (50,)), (5, (3,)), (2, (5, 6, 3))])
def test_any_shape(name, channels, size):
    network = randomised(built(name, channels, 2 * channels, size)).eval()
    out = network(torch.randn(2, channels, *size), CLOCK, torch.zeros(2, network.embedding_width))
    assert out.shape == (2, 2 * channels, *size)
    assert torch.isfinite(out).all()


@names
def test_it_starts_as_nothing_and_every_parameter_can_learn(name):
    network = built(name, tokens=True)
    x, told = torch.randn(2, 1, 8, 8), torch.randn(2, network.embedding_width)
    tokens, absent = torch.randn(2, 3, network.embedding_width), torch.zeros(2, 3, dtype=torch.bool)
    assert (network(x, CLOCK, told, tokens, absent) == 0).all()
    randomised(network)
    network(x, CLOCK, told, tokens, absent).square().sum().backward()
    assert not [
        name for name, p in network.named_parameters() if p.requires_grad and (p.grad is None or (p.grad == 0).all())
    ]


@names
def test_it_hears_the_clock_its_conditions_and_every_token_that_is_there(name):
    network = randomised(built(name, tokens=True)).eval()
    width, generator = network.embedding_width, torch.Generator().manual_seed(0)
    x, told, tokens = (
        torch.randn(1, 1, 8, 8),
        torch.randn(1, width, generator=generator),
        torch.randn(1, 3, width, generator=generator),
    )
    absent = torch.tensor([[False, False, True]])

    def answer(clock=5.0, told=told, tokens=tokens, absent=absent):
        return network(x, torch.tensor([clock]), told, tokens, absent).detach()

    def change(other):
        return ((other - answer()).abs().max() / answer().abs().max()).item()

    moved = tokens.clone()
    moved[:, 1] += torch.randn(width, generator=generator)
    hidden = tokens.clone()
    hidden[:, 2] += torch.randn(width, generator=generator)
    assert change(answer(clock=300.0)) > 1e-3
    assert change(answer(told=told + 1)) > 1e-3
    assert change(answer(tokens=moved)) > 1e-4
    assert change(answer(tokens=hidden)) == 0
    assert change(answer(absent=torch.tensor([[False, True, True]]))) > 1e-4


@names
def test_an_example_is_answered_alone_as_in_a_batch(name):
    network = randomised(built(name)).eval()
    x, told = torch.randn(2, 1, 8, 8), torch.randn(2, network.embedding_width)
    together = network(x, CLOCK, told)
    torch.testing.assert_close(network(x[1:], CLOCK[1:], told[1:]), together[1:], rtol=1e-4, atol=1e-5)


@names
@pytest.mark.filterwarnings("error")
def test_half_precision_is_near(name):
    """bf16 has 8 bits: a rounding is 0.2 %, and a network is a dozen of them deep."""
    network = randomised(built(name, tokens=True)).eval()
    x, tokens = torch.randn(2, 1, 8, 8), torch.randn(2, 3, network.embedding_width)
    arguments = (x, CLOCK, None, tokens, torch.zeros(2, 3, dtype=torch.bool))
    whole = network(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(*arguments)
    assert half.dtype == torch.bfloat16
    assert (half - whole).norm() < 0.03 * whole.norm()


@names
def test_the_conditions_enter_every_layer(name):
    """With all others deaf, each way of the embedding into the network alone still changes the output."""
    network = randomised(built(name)).eval()
    ways = [m.embed for m in network.modules() if hasattr(m, "embed")] + [
        m.linear for m in network.modules() if type(m).__name__ == "Modulation"
    ]
    assert len(ways) >= 2
    x, a = torch.randn(1, 1, 8, 8), torch.zeros(1, network.embedding_width)
    kept = [way.weight.detach().clone() for way in ways]
    for chosen in range(len(ways)):
        with torch.no_grad():
            for k, way in enumerate(ways):
                way.weight.copy_(kept[k] if k == chosen else torch.zeros_like(kept[k]))
        assert not torch.equal(network(x, CLOCK[:1], a), network(x, CLOCK[:1], a + 1))


@names
def test_a_model_file_describes_its_network(name, tmp_path):
    model = tiny_model(network=NETWORKS[name])
    raw, averaged = ({n: p.detach().clone() for n, p in model.denoiser.named_parameters()} for _ in range(2))
    save_model(tmp_path / "m.safetensors", model.config, raw, averaged)
    again = load(tmp_path / "m.safetensors", "cpu")
    assert again.config.network == NETWORKS[name]
    torch.testing.assert_close(
        again.sample(2, {"class": "dog"}), model.sample(2, {"class": "dog"}), rtol=0, atol=1.0
    )  # of 256 grey levels


def test_a_file_without_new_settings_is_read_as_it_was_meant():
    content = tiny_config().model_dump(mode="json")
    content["network"] = {"kind": "unet", "width": 8, "multipliers": [1, 2], "depth": 1, "groups": 4}
    assert parsed(ModelConfig, content, "old").network == tiny_config().network


@names
def test_a_network_is_a_copy_of_itself_after_a_step(name):
    """What a pass in training leaves behind can be copied, and is forgotten once taken."""
    network = randomised(built(name)).train()
    network(torch.randn(2, 1, 8, 8), CLOCK)
    network.pop_auxiliary_loss()
    assert network.pop_auxiliary_loss() is None
    copy.deepcopy(network)


IMPOSSIBLE = {
    "patch larger than the size": (TransformerConfig(patch=9, width=16, heads=2), (1, 8, 8), "do not fit"),
    "a patch for other axes": (TransformerConfig(patch=(2, 2, 2), width=16, heads=2), (1, 8, 8), "3 axes"),
    "heads that do not divide": (TransformerConfig(width=16, heads=3), (1, 8, 8), "equal heads"),
    "heads too narrow to rotate": (TransformerConfig(width=16, heads=8), (1, 8, 8), "cannot be rotated"),
    "an image for an mlp": (MLPConfig(), (3, 64, 64), "unet or transformer"),
    "more levels than halvings": (
        AutoencoderConfig(multipliers=(1, 1, 1, 1, 1)),
        (1, 8, 8),
        "halves its input 4 times",
    ),
    "a U-Net for other axes": (UNetConfig(dims=1), (1, 8, 8), "network.dims"),
}


@pytest.mark.parametrize(("config", "shape", "why"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_does_not_fit_is_refused(config, shape, why):
    with pytest.raises(ValueError, match=why) as error:
        build_network(config, shape[0], shape[0], shape[1:], False)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_settings_belong_to_a_kind_of_network():
    design = Design(network=MLPConfig())
    assert changed(design, {"network.width": 32}).network == MLPConfig(width=32)
    with pytest.raises(ValueError, match=r"there is no setting 'network.multipliers'"):
        changed(design, {"network.multipliers": [1, 2]})


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("kind", ["unet", "transformer", "mlp", "autoencoder"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 33, 50), (5, 1), (1, 2), (2, 1000), (1, 12, 12, 12)])
def test_what_is_suggested_suits_the_data(kind, shape, cpu):
    config = suggested(kind, shape, cpu)
    if kind == "mlp" and np.prod(shape) > 4096:
        return  # refused above
    with torch.device("meta"):
        network = build_network(config, shape[0], shape[0], shape[1:], True)
        tokens, absent = torch.zeros(1, 2, network.embedding_width), torch.zeros(1, 2, dtype=torch.bool)
        assert network(torch.zeros(1, *shape), torch.zeros(1), None, tokens, absent).shape[1:] == shape


@names
@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 1), (2, 33), (1, 4, 5, 6)])
def test_every_model_can_have_a_classifier(name, shape):
    """An encoder made of the levels of its network where it has any, and of those that suit the data where not."""
    config = NETWORKS[name]
    config = config.model_copy(update={"dims": len(shape) - 1}) if hasattr(config, "dims") else config
    encoder = UNetEncoder(classifying_network(config, shape), shape, 3)
    assert encoder(torch.randn(2, *shape), CLOCK).shape == (2, 3)


def test_an_autoencoder_predicts_what_is_left_beyond_each_number_on_its_own():
    """Of noise as of velocity, part is the noise itself, which cannot pass; whatever is said explicitly is kept."""
    for source, preset in (("photos", None), ("digits", None), ("photos", "ddpm_cifar10")):
        assert design_for(source, (1, 8, 8), preset, network="autoencoder").prediction == "edm"
        assert (
            design_for(source, (1, 8, 8), preset, network="transformer").prediction
            == design_for(source, (1, 8, 8), preset).prediction
        )


def test_points_and_tables_are_for_an_mlp_and_all_else_for_a_unet():
    kinds = {shape: suggested(None, shape, True).kind for shape in [(2, 1), (5, 1), (1, 64), (1, 8, 8), (1, 4, 4, 4)]}
    assert kinds == {(2, 1): "mlp", (5, 1): "mlp", (1, 64): "unet", (1, 8, 8): "unet", (1, 4, 4, 4): "unet"}


@pytest.mark.parametrize("name", ["transformer", "mlp", "autoencoder"])
def test_an_unknown_condition_never_passes_in_silence(name):
    """Every network is a denoiser's: told classes, it believes different things of each once it is trained at all."""
    model = tiny_model(network=NETWORKS[name], conditions={"class": ClassConfig(names=("a", "b"))})
    level = model.schedule(torch.tensor([0.5]))
    x, values = torch.randn(1, 1, 8, 8), model.denoiser.conditions.encode
    a, b = (model.denoiser(x, level, values({"class": which}, 1)).mean for which in "ab")
    assert not torch.equal(a, b)


RESIDUAL = [name for name in NETWORKS if name.startswith(("transformer", "mlp"))]


@pytest.mark.parametrize("name", RESIDUAL)
@pytest.mark.parametrize("tokens", [False, True])
def test_the_residual_of_a_sequence_is_float32_under_autocast(name, tokens):
    """bf16 has 8 bits, so a sum of 1 and updates of 1/1024 would stay 1, however many blocks there are."""
    network = randomised(built(name, tokens=tokens)).eval()
    seen = []
    for block in network.blocks:
        block.register_forward_hook(lambda module, given, out: seen.extend([given[0].dtype, out.dtype]))
    told = (torch.randn(2, 3, network.embedding_width), torch.zeros(2, 3, dtype=torch.bool)) if tokens else ()
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 1, 8, 8), CLOCK, None, *told)
    assert seen == [torch.float32] * 2 * len(network.blocks)
