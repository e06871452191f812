"""A network of a user's own with a configuration: stored by its settings, built by its name."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from pydantic import Field, TypeAdapter
from torch import nn

import undiffuse
from undiffuse.errors import UsageError
from undiffuse.networks.base import NetworkSettings
from undiffuse.networks.building import NETWORKS, NetworkConfig, build_network, suggested
from undiffuse.networks.foreign import ForeignNetwork


class StackConfig(NetworkSettings):
    kind: Literal["stack"] = "stack"
    layers: int = Field(2, gt=0)
    embedding_width: int = 6


class Stack(nn.Module):
    def __init__(self, config, channels_in, channels_out, size, tokens):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(channels_in, channels_in, 3, padding=1) for _ in range(config.layers)])
        self.told = nn.Linear(config.embedding_width, channels_in)
        self.last = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x, t, embedding=None):
        for conv in self.convs:
            x = torch.tanh(conv(x)) + (0 if embedding is None else self.told(embedding)[:, :, None, None])
        return self.last(x)


@pytest.fixture(autouse=True)
def registered():
    undiffuse.register_network("stack", Stack, StackConfig)


def test_its_settings_are_stored_and_make_it_again(tmp_path):
    model = undiffuse.train(
        "digits", network="stack", settings={"network.layers": 3}, runs=tmp_path, steps=3, batch_size=8, held_out=0.9
    )
    assert model.config.network == StackConfig(layers=3)
    again = undiffuse.load(model.save(tmp_path / "m.safetensors"))
    assert len(again.denoiser.network.module.convs) == 3
    told = {"class": "3"}
    assert torch.equal(again.sample(2, told, steps=2), model.sample(2, told, steps=2))
    with pytest.raises(UsageError, match="leave network out"):
        undiffuse.load(tmp_path / "m.safetensors", network=Stack)


def test_a_network_that_is_not_registered_any_more_is_named(tmp_path, monkeypatch):
    undiffuse.train("digits", network="stack", runs=tmp_path, steps=2, batch_size=8, held_out=0.9)
    monkeypatch.setattr(NETWORKS, "_known", {name: entry for name, entry in NETWORKS.items() if name != "stack"})
    with pytest.raises(UsageError, match="there is no network 'stack'"):
        undiffuse.load(tmp_path / "digits")


def test_names_and_kinds_agree():
    with pytest.raises(UsageError, match=r"kind: Literal\['pile'\]"):
        undiffuse.register_network("pile", Stack, StackConfig)
    with pytest.raises(UsageError, match="taken"):
        undiffuse.register_network("unet", Stack)
    with pytest.raises(UsageError, match="did you mean 'stack'"):
        suggested("stak", (1, 8, 8), True)


def test_configurations_of_every_kind_are_read_and_written_by_one_type():
    adapter = TypeAdapter(NetworkConfig)
    for kind in ("unet", "transformer", "mlp", "autoencoder", "stack"):
        config = suggested(kind, (1, 8, 8), True)
        assert adapter.validate_json(adapter.dump_json(config)) == config
        assert adapter.validate_python(config) is config
        assert adapter.dump_python(config, mode="json")["kind"] == kind
    assert len(adapter.json_schema()["anyOf"]) == len(NETWORKS)
    for content, words in (
        ('{"kind": "stack", "layers": 0}', "layers"),
        ('{"layers": 2}', "kind"),
        ('{"kind": "stack", "x": 1}', "x"),
    ):
        with pytest.raises(ValueError, match=words):
            adapter.validate_json(content)


def test_build_network_wraps_what_is_no_network_of_the_package():
    network = build_network(StackConfig(), 2, 1, (8, 8), False, embeds=True)
    assert network.embedding_width == 6
    assert network(torch.zeros(3, 2, 8, 8), torch.zeros(3), torch.zeros(3, 6)).shape == (3, 1, 8, 8)


class Wrong(nn.Module):
    """What it predicts is turned into something that cannot be trained."""

    def __init__(self, turned):
        super().__init__()
        self.layer, self.turned = nn.Conv2d(1, 1, 1), turned

    def forward(self, x, t):
        return self.turned(self.layer(x))


def inference(y):
    with torch.inference_mode():
        return y + 0


@pytest.mark.parametrize(
    ("turned", "words"),
    [
        (torch.Tensor.detach, "nothing could be learned"),
        (inference, "nothing could be learned"),
        (lambda y: y.to(torch.complex64), "complex64, and floats"),
        (torch.Tensor.long, "int64, and floats"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_training(turned, words):
    with pytest.raises(UsageError, match=words):
        ForeignNetwork(Wrong(turned), 1, 1, (8, 8))


def test_a_module_that_does_not_say_what_it_takes_is_refused(monkeypatch):
    def unknown(module):
        raise ValueError("no signature found")

    monkeypatch.setattr("undiffuse.networks.foreign.inspect.signature", unknown)
    with pytest.raises(UsageError, match=r"wrap it in a torch\.nn\.Module"):
        ForeignNetwork(Wrong(torch.tanh), 1, 1, (8, 8))


def test_a_network_is_wrapped_for_sampling_inside_inference_mode():
    with torch.inference_mode():
        ForeignNetwork(Wrong(torch.tanh), 1, 1, (8, 8))
