"""Names that lead nowhere else, values of several examples that are told apart by their kind, and conditions that may be asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.conditioning.instances import DROPPABLE, KIND_OF
from tests.small import TINY_SETTINGS, images, tiny_model
from undiffuse.api import train
from undiffuse.cli.conditions import read_conditions, read_negative
from undiffuse.conditioning.classes import ClassConfig, TaskConfig
from undiffuse.conditioning.columns import fit_conditions
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.degradations import parse_tasks
from undiffuse.conditioning.observation import ObservationConfig
from undiffuse.conditioning.spec import Condition
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.models import denoising, editing, restoration
from undiffuse.models.classifier import ClassifierConfig, load_classifier, save_classifier
from undiffuse.models.file import load, save_model
from undiffuse.networks.unet_config import UNetConfig

NO_NAMES = ["a/../../../x", "..", ".", "", " ", "a\\b", "/x", "a\0b", "a\nb", "x" * 101]


# Names --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_leads_out_of_a_folder_is_refused_where_it_is_declared(tmp_path, name):
    data = Dataset("d", np.zeros((4, 1, 2, 2), np.uint8), columns={"c": np.array(["a", "b"] * 2)})
    with pytest.raises(UsageError, match="cannot be the name of a condition"):
        fit_conditions(data, {name: Condition(kind="class", column="c")}, 0.1)
    with pytest.raises(UsageError, match="cannot be the name of a condition"):
        train("digits", runs=tmp_path, conditions={name: Condition(kind="class", column="class")}, steps=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_leads_out_of_a_folder_is_refused_where_it_is_read(tmp_path, name):
    """Files that someone sent: a model, a run's config.json, a classifier."""
    model = tiny_model(conditions={"kind": ClassConfig(names=("a", "b"))})
    weights = dict(model.denoiser.named_parameters())
    bad = model.config.model_copy(update={"conditions": {name: model.config.conditions["kind"]}})
    save_model(tmp_path / "model.safetensors", bad, weights, {name: p.clone() for name, p in weights.items()})
    with pytest.raises(UsageError, match="cannot be the name of a condition"):
        load(tmp_path)
    bad = model.config.model_copy(update={"degradations": {name: parse_tasks("inpaint")["inpaint"]}})
    save_model(tmp_path / "model.safetensors", bad, weights, {name: p.clone() for name, p in weights.items()})
    with pytest.raises(UsageError, match="cannot be the name of a condition"):
        load(tmp_path)
    config = ClassifierConfig(
        codec=model.config.codec,
        network=UNetConfig(width=8, multipliers=(1, 2), groups=4, depth=1),
        schedule=model.config.schedule,
        name="kind",
        target=ClassConfig(names=("a", "b")),
    )
    own = dict(config.build().named_parameters())
    save_classifier(
        tmp_path / "classifier.safetensors",
        config.model_copy(update={"name": name}),
        own,
        {n: p.clone() for n, p in own.items()},
    )
    with pytest.raises(UsageError, match="cannot be the name of a condition"):
        load_classifier(tmp_path)


def test_a_run_folder_that_someone_sent_makes_the_command_write_nowhere_else(run, tmp_path):
    tiny = [f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()]
    code, out = run("train", "digits", "--name", "sent", "--train-steps", "1", *tiny)
    assert code == 0, out
    path = tmp_path / "runs/sent/config.json"
    content = json.loads(path.read_text())
    content["conditions"] = {"a/../../../escaped": content["conditions"]["class"] | {"column": "class"}}
    path.write_text(json.dumps(content))
    code, out = run("classifier", "runs/sent", "--train-steps", "1")
    assert (code, "cannot be the name of a condition" in " ".join(out.split())) == (2, True)
    assert not list(tmp_path.glob("**/*escaped*"))


@pytest.mark.parametrize("name", ["a=b", "α β", "age (years)", "50%", "a.b", "..x", "type"])
def test_other_names_will_do(name):
    model = tiny_model(conditions={name: ClassConfig(names=("a", "b"))})
    assert model.sample(1, {name: "a"}, steps=1).shape == (1, 1, 8, 8)


# Values of several examples -------------------------------------------------------------------------------------------------------


def test_a_tuple_of_tags_is_of_every_example():
    """For two images the first was told "red" and the second "round"."""
    model = tiny_model(conditions={"tags": DROPPABLE["tags"].config(), "age": DROPPABLE["number"].config()})
    values = torch.from_numpy(images(2)[:, None]).float()
    both, each = ("red", "round"), [("red", "round"), ("red", "round")]
    for conditions in (
        {"tags": both, "age": np.array([3.0, 40.0])},
        {"tags": each, "age": [3.0, 40.0]},
        {"tags": ["red;round"] * 2, "age": (3, 40)},
    ):
        one = editing.vary(model, values, 0.5, 2, conditions=conditions, steps=3).values
        restored = denoising.denoise(model, values, level=0.5, conditions=conditions, steps=3).mean
        if conditions["tags"] is both:
            expected = one, restored
        assert torch.equal(one, expected[0])
        assert torch.equal(restored, expected[1])
    other = editing.vary(
        model, values, 0.5, 2, conditions={"tags": ["red", "round"], "age": [3.0, 40.0]}, steps=3
    ).values
    assert not torch.equal(other, expected[0])


def test_a_tuple_of_tags_is_of_all_that_a_task_makes():
    conditions = {"tags": DROPPABLE["tags"].config(), "observation": ObservationConfig(shape=(3, 8, 8))}
    model = tiny_model(conditions=conditions, degradations=parse_tasks("inpaint"))
    seen = restoration.degrade(model, images(2)[:, None])
    made = [
        restoration.restore(model, seen, 2, conditions={"tags": value}, steps=2).values
        for value in (("red", "round"), ["red;round", "red;round"])
    ]
    assert torch.equal(*made)


@pytest.mark.parametrize(
    ("kind", "value", "same"),
    [
        ("class", np.str_("dog"), "dog"),
        ("class", np.array("dog"), "dog"),
        ("number", np.float32(30), 30.0),
        ("number", np.int64(30), 30),
        ("number", np.array(30), 30),
        ("number", torch.tensor(30), 30),
        ("number", np.array([30, 40], np.int16), [30, 40]),
        ("tags", [np.array(["red", "round"]), np.array([], str)], ["red;round", "-"]),
        ("tags", np.array(["red;round", "big"]), ["red;round", "big"]),
        ("text", np.str_("a red cat"), "a red cat"),
        ("vector", np.array([3, 1]), [3.0, 1.0]),
        ("vector", np.ones((2, 2), np.float16), [[1.0, 1.0]] * 2),
    ],
)
def test_numpys_and_torchs_values_are_as_good_as_pythons(kind, value, same):
    conditions = Conditions({"it": KIND_OF[kind].config()}, 8)
    assert torch.equal(conditions.encode({"it": value}, 2)["it"], conditions.encode({"it": same}, 2)["it"])


@pytest.mark.parametrize("value", [7, np.int64(7), np.array(7), torch.tensor(7), np.uint8(7)])
def test_a_class_that_is_a_number_may_be_a_scalar_of_any_library(value):
    conditions = Conditions({"class": ClassConfig(names=("cat", "7"))}, 8)
    assert conditions.encode({"class": value}, 2)["class"].tolist() == [1, 1]
    assert conditions.encode({"class": [value, "cat"]}, 2)["class"].tolist() == [1, 0]


# What may be asked for --------------------------------------------------------------------------------------------------------------


def test_neither_what_is_retired_nor_what_is_seen_is_offered():
    retired = ClassConfig(names=("old", "older")).retire()
    model = tiny_model(conditions={"kind": retired, "class": ClassConfig(names=("cat", "dog"))})
    assert read_conditions(model, {"class": ["cat"]}).values == {"class": ["cat"]}  # "several conditions of that kind"
    with pytest.raises(UsageError, match=r"a condition of the model \(class\)"):
        read_negative(model, ["kind=old"])
    seen = {"observation": ObservationConfig(shape=(3, 8, 8)), "task": TaskConfig(names=("inpaint", "denoise"))}
    model = tiny_model(conditions=seen, degradations=parse_tasks("inpaint,denoise"))
    with pytest.raises(UsageError) as caught:
        read_conditions(model, {"class": ["cat"]})
    assert "observation" not in str(caught.value)
