"""Low-rank adapters: a change of the weights themselves, in peft's format, read by either."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import undiffuse
from tests.small import TINY_SETTINGS, randomised, tiny_model
from undiffuse.networks.adapters import AdapterConfig, adapt, adaptable, adapters_of, merged

LAYERS = {
    "linear": (nn.Linear(5, 7), (3, 5)),
    "1-D": (nn.Conv1d(3, 4, 3, padding=1), (2, 3, 9)),
    "2-D": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 8, 8)),
    "3-D": (nn.Conv3d(2, 4, 3, padding=1), (2, 2, 4, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_an_adapter_is_a_path_of_low_rank_beside_the_layer(name):
    """Against the other way to write it: B after A, of x, added to what the layer says."""
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(type(layer)(**_arguments(layer)))
    network[0].load_state_dict(layer.state_dict())
    before = network(x)
    adapt(network, AdapterConfig(rank=2, alpha=6.0), ["0"])
    assert torch.equal(network(x), before)
    adapter = adapters_of(network)["0"]
    nn.init.normal_(adapter.B)
    if isinstance(layer, nn.Linear):
        path = x @ adapter.A.T @ adapter.B.T
    else:
        function = {3: nn.functional.conv1d, 4: nn.functional.conv2d, 5: nn.functional.conv3d}[x.ndim]
        path = function(x, adapter.A, stride=layer.stride, padding=layer.padding)
        path = torch.einsum("or,br...->bo...", adapter.B, path)
    torch.testing.assert_close(network(x), before + 3.0 * path, rtol=1e-4, atol=1e-5)
    plain = nn.Sequential(type(layer)(**_arguments(layer)))
    plain.load_state_dict(merged(network))
    torch.testing.assert_close(plain(x), network(x))


def _arguments(layer):
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features}
    return {name: getattr(layer, name) for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A base, and a run tuned from it by adapters, told something new."""
    folder = tmp_path_factory.mktemp("runs")
    undiffuse.train("digits", runs=folder, name="base", steps=12, batch_size=8, settings=TINY_SETTINGS)
    undiffuse.train("digits", runs=folder, name="tuned", steps=12, batch_size=8, start=folder / "base", adapter_rank=3)
    return folder


def test_only_adapters_are_trained_and_the_model_file_needs_none(runs):
    tuned = dict(undiffuse.load(runs / "tuned", weights="online").denoiser.named_parameters())
    start = dict(undiffuse.load(runs / "base").denoiser.named_parameters())
    layers = {f"network.{path}.weight" for path in adaptable(undiffuse.load(runs / "base").denoiser.network)}
    changed = {name for name in tuned if not torch.equal(start[name], tuned[name])}
    assert changed == layers
    assert start.keys() - tuned.keys() == {
        "conditions.each.augmentation.linear.weight"
    }  # the digits' preset shifts; this run does not
    state = load_file(next((runs / "tuned/state").iterdir()))
    assert all(".parametrizations.weight.0." in name for name in state if name.startswith(("online.", "ema.")))
    for name in layers:  # a change of rank 3
        assert torch.linalg.matrix_rank((tuned[name] - start[name]).flatten(1).double(), rtol=1e-4) <= 3


def test_the_folder_is_what_peft_writes(runs):
    """Keys and shapes as peft 0.21 saves them for a LoraConfig of these layers, written down here."""
    tensors = load_file(runs / "tuned/adapters/adapter_model.safetensors")
    config = json.loads((runs / "tuned/adapters/adapter_config.json").read_text())
    network = undiffuse.load(runs / "base").denoiser.network
    expected = {}
    for path, layer in adaptable(network).items():
        out, into, *kernel = layer.weight.shape
        expected[f"base_model.model.{path}.lora_A.weight"] = (3, into, *kernel)
        expected[f"base_model.model.{path}.lora_B.weight"] = (out, 3, *[1] * len(kernel))
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == expected
    assert config["peft_type"] == "LORA"
    assert config["r"] == config["lora_alpha"] == 3
    assert sorted(config["target_modules"]) == sorted(adaptable(network))


def test_a_base_and_adapters_are_the_tuned_model(runs):
    tuned, joined = undiffuse.load(runs / "tuned"), undiffuse.load(runs / "base", adapters=runs / "tuned/adapters")
    assert joined.config == tuned.config
    for (name, a), (_, b) in zip(tuned.denoiser.named_parameters(), joined.denoiser.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def test_adapters_hold_what_is_new_as_well(tmp_path, runs):
    undiffuse.train(
        "digits",
        runs=tmp_path,
        name="told",
        steps=8,
        batch_size=8,
        start=runs / "base",
        adapter_rank=2,
        conditions={"label": undiffuse.Condition(kind="class", column="class", inject="concat")},
    )
    tuned, joined = (
        undiffuse.load(tmp_path / "told"),
        undiffuse.load(runs / "base", adapters=tmp_path / "told/adapters"),
    )
    assert tuned.denoiser.conditions.settable == ["label"]
    for (name, a), (_, b) in zip(tuned.denoiser.named_parameters(), joined.denoiser.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


def _as_of_peft(model, folder, **changes):
    """A folder as peft writes one, of rank 2, for two layers."""
    generator = torch.Generator().manual_seed(0)
    tensors, paths = {}, list(adaptable(model.denoiser.network))[:2]
    for path in paths:
        out, into, *kernel = adaptable(model.denoiser.network)[path].weight.shape
        tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(2, into, *kernel, generator=generator)
        tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(out, 2, *[1] * len(kernel), generator=generator)
    folder.mkdir()
    save_file(changes.pop("tensors", tensors), folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": paths} | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"peft_type": "IA3"}, "no low-rank"),
        ({"r": None}, "cannot be read"),
        ({"bias": "all"}, "no low-rank"),
        ({"tensors": {f"base_model.model.nowhere.lora_{part}.weight": torch.zeros(2, 2) for part in "AB"}}, "nowhere"),
        ({"tensors": {"base_model.model.clock_mlp.0.lora_A.weight": torch.zeros(2, 5)}}, "belong to another model"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(tmp_path, runs, changes, words):
    folder = _as_of_peft(undiffuse.load(runs / "base"), tmp_path / "a", **changes)
    with pytest.raises(ValueError, match=words):
        undiffuse.load(runs / "base", adapters=folder)


def test_adapters_of_other_weights_are_refused(tmp_path, runs):
    with pytest.raises(ValueError, match="no adapters at"):
        undiffuse.load(runs / "base", adapters=runs / "base")
    with pytest.raises(ValueError, match="which are not these"):
        undiffuse.load(runs / "tuned", adapters=runs / "tuned/adapters")


@pytest.mark.parametrize("seed", [0, 1])
def test_peft_reads_ours_and_we_read_pefts(tmp_path, runs, seed):
    """The library itself, where it is installed: the same output of the same network, either way round."""
    peft = pytest.importorskip("peft")
    x, clock = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(seed)), torch.tensor([1.0, 50.0, 700.0])
    wrapped = peft.PeftModel.from_pretrained(undiffuse.load(runs / "base").denoiser.network, runs / "tuned/adapters")
    ours = undiffuse.load(runs / "base", adapters=runs / "tuned/adapters").denoiser.network
    plain = undiffuse.load(runs / "base").denoiser.network
    with torch.no_grad():
        assert not torch.allclose(plain(x, clock), ours(x, clock), atol=1e-4)
        torch.testing.assert_close(wrapped(x, clock), ours(x, clock), rtol=1e-4, atol=1e-5)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["conv1", "conv2", "embed", "clock_mlp.0"])
    theirs = peft.get_peft_model(undiffuse.load(runs / "base").denoiser.network, config)
    randomised(nn.ParameterList([p for p in theirs.parameters() if p.requires_grad]), seed)
    theirs.save_pretrained(tmp_path / "peft")
    read = undiffuse.load(runs / "base", adapters=tmp_path / "peft").denoiser.network
    with torch.no_grad():
        torch.testing.assert_close(theirs(x, clock), read(x, clock), rtol=1e-3, atol=1e-3)


def test_layers_and_models_without_adapters_are_what_they_were():
    model = tiny_model()
    assert merged(model.denoiser).keys() == dict(model.denoiser.named_parameters()).keys()
