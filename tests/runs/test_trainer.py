"""Trainer: networks and data sets from outside the package, trained as a run is, stored, loaded, resumed, sampled by the commands."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import undiffuse
from tests.small import TINY
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_digits
from undiffuse.errors import UsageError
from undiffuse.networks.unet import UNet
from undiffuse.runs.prepare import prepare

BRIEF = {"steps": 6, "batch_size": 16, "held_out": 0.9}
DIGITS = open_digits()
PAIRS = [(torch.from_numpy(x), int(y)) for x, y in zip(DIGITS.values, DIGITS.labels, strict=True)]


class Wrapped(nn.Module):
    """The package's own U-Net, as somebody else's."""

    def __init__(self):
        super().__init__()
        self.inner = UNet(TINY, 1, 1)
        self.embedding_width = self.inner.embedding_width

    def forward(self, x, t, embedding=None):
        return self.inner(x, t, embedding)


class Plain(nn.Module):
    """A small network with a buffer that is drawn, running statistics, a frozen parameter and dropout."""

    embedding_width = 8

    def __init__(self, width=8):
        super().__init__()
        self.first, self.norm, self.last = (
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.Conv2d(width, 1, 1),
        )
        self.told = nn.Linear(self.embedding_width, width)
        self.frozen = nn.Parameter(torch.randn(1), requires_grad=False)
        self.dropout = nn.Dropout(0.1)
        self.register_buffer("waves", torch.randn(width))

    def forward(self, x, t, embedding):
        h = self.norm(self.first(x)) + (t[:, None] * self.waves).cos()[:, :, None, None] * self.frozen
        return self.last(self.dropout(h + self.told(embedding)[:, :, None, None]))


def weights(model):
    return {name: p.detach().clone() for name, p in model.denoiser.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def trained(network, tmp_path, name="own", data=PAIRS, **more):
    return undiffuse.Trainer(network, data, name=name, runs=tmp_path, **(BRIEF | more))


@pytest.mark.parametrize("conditions", [None, {}])
def test_a_network_of_the_package_trained_from_outside_is_trained_to_the_same_bits(tmp_path, conditions):
    """Held against a run of the same network on the same data, whose names, values and order are those of the package's digits."""
    own = trained(Wrapped, tmp_path, conditions=conditions).fit()
    settings = {f"training.{name}": value for name, value in (("steps", 6), ("batch_size", 16), ("budget", None))}
    run = prepare(
        DataConfig(source="python:list", held_out=0.9),
        tmp_path / "run",
        settings=settings | {"network": TINY.model_dump()},
        conditions=conditions,
        dataset=replace(DIGITS, low=None, high=None, mode="L"),
    ).run()
    for _ in run.updates():
        pass
    theirs = undiffuse.load(tmp_path / "run")
    assert own.config.weights == theirs.config.weights
    ours = {name.replace("network.module.inner.", "network."): value for name, value in weights(own).items()}
    told = {} if conditions == {} else {"class": "3"}
    assert own.config.codec == theirs.config.codec
    assert same(ours, weights(theirs))
    assert torch.equal(own.sample(2, told, steps=3), theirs.sample(2, told, steps=3))


@pytest.mark.parametrize("make", [lambda: Plain, Plain], ids=["class", "instance"])
def test_what_is_stopped_and_taken_up_again_ends_in_the_same_bits(tmp_path, make):
    torch.manual_seed(3)
    whole = trained(make(), tmp_path, "whole")
    whole.fit()
    torch.manual_seed(3)
    for update in (part := trained(make(), tmp_path, "part")):
        if update.step == 3:
            break
    torch.manual_seed(99)  # an instance made anew has other weights, buffers and frozen parameters
    again = trained(make(), tmp_path, "part")
    assert part.step == 3
    assert [update.step for update in again] == [4, 5, 6]
    assert same(weights(again.model), weights(whole.model))
    assert not same(weights(again.model), weights(part.model))


def test_a_saved_model_samples_the_same_bits(tmp_path):
    model = trained(Plain(), tmp_path).fit()
    path = model.save(tmp_path / "m.safetensors")
    told = {"class": ["3", "7"]}
    expected = model.sample(2, told, steps=3, guidance=2.0)
    for network in (Plain, Plain(), lambda: Plain(8)):
        assert torch.equal(undiffuse.load(path, network=network).sample(2, told, steps=3, guidance=2.0), expected)
    assert torch.equal(undiffuse.load(tmp_path / "own", network=Plain).sample(2, told, steps=3, guidance=2.0), expected)


def test_a_file_never_imports_by_itself(tmp_path):
    """A module that leaves a mark when it is imported, on the path, named by the file."""
    (tmp_path / "marking.py").write_text(
        "import pathlib, torch\n"
        "pathlib.Path(__file__).with_name('mark').touch()\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.last = torch.nn.Conv2d(1, 1, 3, padding=1)\n"
        "    def forward(self, x):\n        return self.last(x)\n"
    )
    script = f"""
import sys, pathlib
sys.path[:0] = [{str(tmp_path)!r}, {str(Path(undiffuse.__file__).parents[1])!r}]
import undiffuse, numpy
from marking import Net
x = numpy.random.default_rng(0).integers(0, 255, (40, 1, 8, 8), dtype=numpy.uint8)
undiffuse.Trainer(Net, x, runs={str(tmp_path)!r}, steps=2, batch_size=8, layout="NCHW").fit().save({str(tmp_path / "m.safetensors")!r})
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)
    (tmp_path / "mark").unlink()
    asking = f"""
import sys
sys.path[:0] = [{str(tmp_path)!r}, {str(Path(undiffuse.__file__).parents[1])!r}]
import undiffuse
try:
    undiffuse.load({str(tmp_path / "m.safetensors")!r})
except ValueError as error:
    print(error)
assert "marking" not in sys.modules
"""
    said = subprocess.run([sys.executable, "-c", asking], check=True, capture_output=True, text=True).stdout
    assert "marking:Net" in said
    assert "network=" in said
    assert "`network_class`" in said
    assert not (tmp_path / "mark").exists()


def test_the_commands_sample_it_when_the_class_is_named(run, tmp_path):
    trained(Plain(), tmp_path).fit().save(tmp_path / "m.safetensors")
    code, out = run("sample", "m.safetensors", "-n", "1", "--steps", "2")
    assert code == 2, out
    assert "--network-class" in out
    for option in (["--network-class", f"{__name__}:Plain"], [f"--network-class={__name__}:Plain"]):
        code, out = run("sample", "m.safetensors", "-n", "1", "--class", "3", "--steps", "2", *option)
        assert code == 0, out
    for name, words in (
        (f"{__name__}:Gone", "cannot be imported"),
        ("no_such_module:Net", "cannot be imported"),
        ("Net", "module:class"),
    ):
        code, out = run("sample", "m.safetensors", "--network-class", name)
        assert code == 2, out
        assert words in out


def test_a_registered_network_is_found_by_its_name(tmp_path):
    undiffuse.register_network("plain", Plain)
    model = undiffuse.train("digits", network="plain", runs=tmp_path, **BRIEF)
    assert model.config.network.name == "plain"
    assert torch.equal(undiffuse.load(tmp_path / "digits").sample(1, steps=2), model.sample(1, steps=2))


class Answering(nn.Module):
    """What it returns is a function of x."""

    embedding_width = 4

    def __init__(self, answer, takes=3):
        super().__init__()
        self.weight, self.answer = nn.Parameter(torch.ones(1)), answer
        if takes == 1:
            self.forward = lambda x: self.answer(x * self.weight)
        if takes == 2:
            self.forward = lambda x, t: self.answer(x * self.weight)
        if takes == 4:
            self.forward = lambda x, t, embedding, mask: x

    def forward(self, x, t, embedding):
        return self.answer(x * self.weight)


def needing(width):
    return Plain(width)


@pytest.mark.parametrize(
    ("network", "settings", "words"),
    [
        (Answering(lambda x: x[:, :, 1:]), {}, r"returns the shape \(2, 1, 7, 8\).*\(2, 1, 8, 8\)"),
        (Answering(lambda x: (x,)), {}, "returns a tuple"),
        (Answering(lambda x: x.reshape(3, 5)), {}, "fails with RuntimeError"),
        (Answering(lambda x: x, 4), {}, r"forward takes \(x, t, embedding, mask\)"),
        (Answering(lambda x: x, 2), {}, "takes 2 of the arguments"),
        (needing, {}, "without arguments"),
        (lambda: 3, {}, "makes a int"),
        ("unet", {}, "a class or function"),
        (nn.Identity(), {"conditions": {}}, "no parameters"),
        (Plain().double(), {}, "float64"),
        (Plain, {"prediction": "velocity"}, "prediction"),
        (Plain, {"schedule": "cosin"}, "did you mean 'cosine'"),
        (Plain, {"stesp": 3}, "stesp"),
        (Plain, {"conditions": {"class": ["a", "b"]}}, "label 2, and there are names for 0 to 1"),
        (Plain, {"conditions": {"class": "cat"}}, "names of its classes"),
        (
            Plain,
            {"conditions": {"class": undiffuse.Condition(kind="class", inject="cross_attention")}},
            "cannot attend",
        ),
    ],
)
def test_what_cannot_be_trained_is_one_sentence_before_anything_is_written(tmp_path, network, settings, words):
    with pytest.raises(UsageError, match=words) as refused:
        trained(network, tmp_path, **settings)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "own" / "config.json").exists()


@pytest.mark.parametrize("takes", [1, 2, 3])
def test_networks_with_fewer_arguments_are_trained(tmp_path, takes):
    trainer = trained(Answering(lambda x: x, takes), tmp_path, conditions={})
    assert [update.step for update in trainer] == [1, 2, 3, 4, 5, 6]
    assert trainer.model.sample(2, steps=2).shape == (2, 1, 8, 8)


def test_names_of_classes_are_what_the_model_is_asked_for(tmp_path):
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    model = trained(Plain, tmp_path, conditions={"class": names}).fit()
    assert sorted(model.classes) == sorted(names)
    assert model.sample(1, {"class": "seven"}, steps=2).shape == (1, 1, 8, 8)


def test_hooks_are_called_and_change_no_weights(tmp_path):
    seen = []
    watched = trained(Plain, tmp_path, "watched").fit(hooks=[lambda loop, update: seen.append(update.step)])
    assert seen == [1, 2, 3, 4, 5, 6]
    assert same(weights(watched), weights(trained(Plain, tmp_path, "alone").fit()))


def test_the_model_in_between_is_a_copy(tmp_path):
    trainer = trained(Plain(), tmp_path)
    for update in trainer:
        if update.step == 2:
            early = trainer.model
            before = weights(early)
    assert same(weights(early), before)
    assert not same(weights(trainer.model), before)


def test_another_data_set_in_the_same_folder_is_refused(tmp_path):
    trained(Plain, tmp_path).fit()
    with pytest.raises(UsageError, match="the data has changed"):
        trained(Plain, tmp_path, data=PAIRS[:-1])


def test_arrays_train_too(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)

    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 3))

        def forward(self, x, t):
            return self.layers(torch.cat([x.flatten(1), t[:, None] / 1000], 1))[:, :, None]

    model = undiffuse.Trainer(Dense, x, runs=tmp_path, steps=3, batch_size=8).fit()
    assert model.sample(5, steps=2).shape == (5, 3, 1)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda net: torch.compile(net, backend="eager"),
        lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
    ],
)
def test_what_wraps_a_module_is_called_and_what_is_inside_is_stored(tmp_path, wrap):
    """torch.compile and DataParallel change the names of parameters and hide the arguments; files and errors are those of the module."""
    torch.manual_seed(0)
    plain, wrapped = Plain(), Plain()
    wrapped.load_state_dict(plain.state_dict())
    calls = []
    wrapped.register_forward_hook(lambda *_: calls.append(1))
    expected, model = trained(plain, tmp_path, "plain").fit(), trained(wrap(wrapped), tmp_path, "wrapped").fit()
    assert calls
    assert same(weights(model), weights(expected))
    assert model.config.network.name == "tests.runs.test_trainer:Plain"
    again = undiffuse.load(tmp_path / "wrapped", network=Plain)
    assert torch.equal(again.sample(2, {"class": "3"}, steps=2), expected.sample(2, {"class": "3"}, steps=2))


def test_a_duration_is_written_in_python_as_on_the_command_line(tmp_path):
    trainer = trained(Plain, tmp_path, steps=None, budget="1.5m", checkpoint_every="2h", preview_every=30)
    assert trainer._run.config.design.training.budget == 90.0
    assert (trainer._run.watch.checkpoint, trainer._run.watch.preview) == (7200.0, 30.0)
    for wrong in ("soon", "-5s", "", 0, -1.0, float("nan"), float("inf"), "1e3"):
        with pytest.raises(UsageError, match="no duration: write one like 90s"):
            trained(Plain, tmp_path, "other", budget=wrong)
    assert not (tmp_path / "other").exists()


def test_the_embedding_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match="its embedding is None, for the model has no conditions"):
        trained(Plain, tmp_path, conditions={})


def test_parameters_without_values_are_refused(tmp_path):
    with pytest.raises(UsageError, match="on the device meta, which have no values"):
        trained(lambda: Plain().to("meta"), tmp_path)


def test_one_class_for_all_is_no_condition_and_a_note_says_so(tmp_path):
    with pytest.warns(undiffuse.Note, match="have the same, cat, so that is no condition"):
        trainer = trained(Wrapped, tmp_path, data=[(x, "cat") for x, _ in PAIRS[:40]], held_out=0.1)
    assert trainer._run.config.conditions == {}


def test_of_misspelt_choices_the_nearest_is_named(tmp_path):
    with pytest.raises(UsageError, match="did you mean 'epsilon'"):
        trained(Plain, tmp_path, prediction="eps")


def test_whoever_only_looks_at_a_run_gets_what_was_trained_and_writes_nothing(tmp_path):
    """A new process that makes the same Trainer again: its model is the trained one, its step too, and saving changes no weight."""
    expected = trained(Plain, tmp_path).fit()
    file, before = tmp_path / "own" / "model.safetensors", (tmp_path / "own" / "model.safetensors").read_bytes()
    again = trained(Plain, tmp_path)
    assert again.step == 6
    assert same(weights(again.model), weights(expected))
    assert file.read_bytes() == before
    trained(Plain, tmp_path).save()
    assert same(weights(trained(Plain, tmp_path).model), weights(expected))
    assert sorted(path.name for path in (tmp_path / "own" / "state").glob("step-*")) == ["step-00000006.safetensors"]


def test_a_run_that_was_left_early_is_looked_at_as_it_was_left(tmp_path):
    for update in trained(Plain, tmp_path):
        if update.step == 3:
            break
    again = trained(Plain, tmp_path)
    assert (again.step, again.model.config.provenance["training"]["steps"]) == (3, 3)
    assert [update.step for update in again] == [4, 5, 6]


def test_what_a_training_came_to_is_said_by_whoever_makes_it_again(tmp_path):
    trainer = trained(Plain, tmp_path)
    trainer.fit()
    assert "of the best linear denoiser's" in trainer.verdict()
    assert "sensitivity to conditions: class" in trainer.verdict()
    assert trained(Plain, tmp_path).verdict().split(" ±")[0] == trainer.verdict().split(" ±")[0]


def test_pixels_are_no_data_for_a_model_of_small_numbers(tmp_path, run):
    """Its likelihood would be a number, and mean nothing."""
    trained(Plain, tmp_path, data=[(x / 8 - 1, y) for x, y in PAIRS]).fit()
    np.save(tmp_path / "pixels.npy", np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8))
    np.save(tmp_path / "right.npy", DIGITS.values[:20].astype(np.float32) / 8 - 1)
    command = (
        "likelihood",
        "own",
        "--method",
        "continuous",
        "-n",
        "4",
        "--network-class",
        f"{__name__}:Plain",
    )
    code, out = run(*command[:2], "pixels.npy", *command[2:])
    assert (code, "in [-1, 1]: bring them to that range" in " ".join(out.split())) == (2, True), out
    assert run(*command[:2], "right.npy", *command[2:])[0] == 0


def test_an_interrupt_saves_and_says_so_before_it_acts(tmp_path):
    trainer = trained(Plain, tmp_path)

    def interrupt(loop, update):
        if update.step == 2:
            signal.raise_signal(signal.SIGINT)

    with (
        pytest.warns(undiffuse.Note, match=r"stopped and saved at step \d in .*own; the same lines go on"),
        pytest.raises(KeyboardInterrupt),
    ):
        trainer.fit(hooks=[interrupt])
    assert 2 <= trained(Plain, tmp_path).step < 6


def test_an_interrupt_in_a_loop_saves_and_says_so(tmp_path, monkeypatch):
    """A Ctrl-C arrives in the middle of an update: the network raises what Python would."""

    class Interrupted(Plain):
        calls = 0

        def forward(self, x, t, embedding):
            if self.training and (calls := type(self).calls + 1):
                type(self).calls = calls
                if calls == 4:
                    raise KeyboardInterrupt
            return super().forward(x, t, embedding)

    with (
        pytest.warns(undiffuse.Note, match=r"stopped and saved at step \d in .*own; the same lines go on"),
        pytest.raises(KeyboardInterrupt),
    ):
        for _ in trained(Interrupted, tmp_path):
            pass
    assert [update.step for update in trained(Interrupted, tmp_path)][-1] == 6


@pytest.mark.parametrize("other", [lambda: Plain(16), Wrapped])
def test_a_file_names_the_network_it_was_trained_with_where_another_is_handed_over(tmp_path, other):
    trained(Plain, tmp_path).fit()
    with pytest.raises(
        UsageError, match=r"the model was trained with .*:Plain: hand over that, with the layers it had"
    ):
        undiffuse.load(tmp_path / "own", network=other)
