"""undiffuse likelihood: its sentence, its files, its refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.small import TINY_SETTINGS, tiny_model
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_digits
from undiffuse.models.file import save_model
from undiffuse.runs.data import held_out_data, random_subset
from undiffuse.runs.prepare import prepare

TRAINING = {
    **TINY_SETTINGS,
    "training.steps": 2,
    "training.budget": None,
    "training.batch_size": 8,
    "schedule.T": 20,
    "sampling.steps": 2,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on the digits."""
    run = prepare(DataConfig(source="digits"), tmp_path_factory.mktemp("runs") / "d", settings=TRAINING).run()
    for _ in run.updates():
        pass
    return run


@pytest.fixture(scope="module")
def folder(trained):
    return trained.folder


@pytest.fixture
def command(run):
    """Runs `undiffuse likelihood …`; (exit code, what it printed on one line)."""

    def call(*arguments):
        code, out = run("likelihood", *map(str, arguments))
        return code, " ".join(out.split())

    return call


def test_the_sentence_says_unit_method_terms_and_error(folder, command, tmp_path):
    code, out = command(folder, "-n", 8, "--draws", 2, "--out", tmp_path / "a")
    assert code == 0, out
    said = re.search(
        r"([\d.]+) ± ([\d.]+) bits/dim \(chain, 20 steps; prior ([\d.]+), steps ([\d.]+), decoder ([\d.]+); tanh decoder; "
        r"8 held-out examples with their classes\) an upper bound on -log p, in bits/dim of the probability of the values; "
        r"± is one standard error over the examples, [\d.]+ of it from the noise of 2 draws",
        out,
    )
    assert said, out
    total, error, *parts = map(float, said.groups())
    assert total == pytest.approx(sum(parts), abs=2e-3)  # four numbers rounded to three places
    content = json.loads((tmp_path / "a/likelihood.json").read_text())
    assert content["unit"] == "bits/dim"
    assert content["settings"]["conditions"] == ["class"]
    assert content["mean"] == pytest.approx(total, abs=6e-4)
    assert np.mean(content["examples"]) == pytest.approx(content["mean"])
    assert np.std(content["examples"], ddof=1) / 8**0.5 == pytest.approx(error, abs=6e-4)
    steps = [term for term in content["terms"] if term["kind"] == "step"]
    assert [term["label"] for term in steps] == list(range(19, 0, -1))
    assert sum(term["amount"] for term in content["terms"]) == pytest.approx(content["mean"], abs=1e-5)
    with Image.open(tmp_path / "a/likelihood.png") as picture:
        assert picture.width > 1000
    code, out = command(folder, "-n", 8, "--draws", 2, "--unit", "nats", "--out", tmp_path / "b")
    assert code == 0
    assert json.loads((tmp_path / "b/likelihood.json").read_text())["mean"] == pytest.approx(
        content["mean"] * np.log(2)
    )
    assert "nats/dim" in out


@pytest.mark.parametrize(
    ("method", "words"), [("flow", "evaluations; prior"), ("continuous", "continuous time, 5 levels")]
)
def test_the_other_methods_write_into_the_run(folder, command, method, words):
    code, out = command(folder, "-n", 3, "--method", method, *(() if method == "flow" else ("--steps", 5)))
    assert code == 0, out
    assert "bits/dim" in out
    assert words in out
    written = re.search(r"wrote (\S+)/:", out)
    assert written
    assert written[1].startswith(str(folder / "likelihood"))
    assert json.loads((Path(written[1]) / "likelihood.json").read_text())["method"] == method


def test_held_out_examples_are_those_training_never_saw(trained, folder):
    found = held_out_data(folder)
    training = open_digits().values[trained.prepared.training]
    assert not {x.tobytes() for x in found.values} & {x.tobytes() for x in training}
    assert sorted(x.tobytes() for x in (*found.values, *training)) == sorted(x.tobytes() for x in open_digits().values)
    assert len(random_subset(found, 10, 0)) == 10
    assert len(random_subset(found, 10_000, 0)) == len(found)


def test_training_data_is_used_only_with_a_note(folder, command):
    code, out = command(folder, "digits", "-n", 2, "--steps", 2)
    assert code == 0, out
    assert "training and held-out examples together" in out


def test_a_changed_source_is_noticed(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "fingerprint": "0"}))
    with pytest.raises(ValueError, match="has changed since the run"):
        held_out_data(tmp_path)


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """A model of floats, without the run it came from, and data for it."""
    folder = tmp_path_factory.mktemp("floats")
    model = tiny_model(conditions={})
    codec = model.config.codec.model_copy(
        update={
            "kind": "float",
            "dtype": "float32",
            "mode": None,
            "offset": (0.0,),
            "scale": (2.0,),
            "low": (-3.0,),
            "high": (3.0,),
        }
    )
    weights = dict(model.denoiser.named_parameters())
    save_model(
        folder / "model.safetensors",
        model.config.model_copy(update={"codec": codec}),
        weights,
        {k: p.clone() for k, p in weights.items()},
    )
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32))
    np.save(folder / "large.npy", np.zeros((4, 16, 16), np.float32))
    return folder


def test_floats_are_in_nats_of_a_density(floats, command):
    code, out = command(floats, floats / "x.npy", "--steps", 4)
    assert code == 0, out
    assert "nats/dim of the density of the values as they are stored" in out
    assert "units 0.693" in out  # log 2, the codec's scale


def test_refusals(folder, floats, command, tmp_path):
    np.save(tmp_path / "high.npy", np.full((3, 8, 8), 99, np.uint8))
    for arguments, words in (
        ((floats, floats / "x.npy", "--unit", "bits"), "no bits/dim: leave the unit out"),
        ((floats, floats / "large.npy"), "shape (1, 8, 8), but these have (1, 16, 16)"),
        ((floats,), "give the data to use, as in 'undiffuse likelihood RUN DATA'"),
        ((folder, tmp_path / "high.npy"), "lie in [99, 99], but the model was made for [0, 16]"),
        ((folder, "--method", "guess"), "choose chain, flow or continuous"),
        ((folder, "--unit", "bytes", "--steps", 2, "-n", 1), "choose bits or nats"),
        ((folder, "-n", 0), "at least 1"),
        ((folder, "--out", folder), "nothing is written over"),
        ((folder, "--steps", 21), "at most the 20"),
    ):
        code, out = command(*arguments)
        assert code == 2, out
        assert words in out
        assert "Traceback" not in out
