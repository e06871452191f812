"""Conditions on the command line: declared by columns, asked for by name, compared in pictures, guided, evaluated, refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.small import TINY_SETTINGS

TINY = [f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()]
SMALL = ("--train-steps", "2", "--batch-size", "8", *TINY)
DECLARED = (
    "--class",
    "species",
    "--number",
    "age",
    "--tags",
    "marks",
    "--text",
    "caption",
    "--vector",
    "emb.npy",
    "--image",
    "mask",
)


def table_of(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def table(tmp_path):
    """Twenty-four pictures with everything known of them, in a .csv beside them."""
    rng = np.random.default_rng(0)
    (tmp_path / "pets" / "m").mkdir(parents=True)
    with open(tmp_path / "pets" / "table.csv", "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "species", "age", "marks", "caption", "mask"])
        for k in range(24):
            species = ("cat", "dog", "hare")[k % 3]
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "pets" / f"{k}.png")
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "pets" / "m" / f"{k}.png")
            age = "" if k == 5 else k + 0.5
            rows.writerow(
                [
                    f"{k}.png",
                    species,
                    age,
                    ("striped;small", "small", "-")[k % 3],
                    f"a {species}, {k} years",
                    f"m/{k}.png",
                ]
            )
    np.save(tmp_path / "emb.npy", rng.normal(size=(24, 5)))
    np.save(tmp_path / "one.npy", rng.normal(size=5))
    return "pets/table.csv"


@pytest.fixture
def pets(run, table):
    code, out = run("train", table, "--name", "pets", *DECLARED, "--inject", "age=concat", *SMALL)
    assert code == 0, out
    assert "conditioned on class species, tags marks, number age, text caption, vector emb, image mask" in " ".join(
        out.split()
    )
    return "runs/pets"


def test_everything_is_declared_by_columns_and_asked_for_by_name(run, pets, tmp_path):
    code, out = run(
        "sample",
        pets,
        "-n",
        "4",
        "--class",
        "dog",
        "--number",
        "age=7",
        "--tags",
        "striped;small",
        "--text",
        "a dog, 7 years",
        "--vector",
        "one.npy",
        "--image",
        "pets/m/3.png",
        "--guidance",
        "species=2,caption=3",
    )
    assert code == 0, out
    rows = table_of(tmp_path / pets / "sampled/001/samples.csv")
    assert rows[3] == {
        "file": "images/00003.png",
        "seed": "0",
        "index": "3",
        "species": "dog",
        "age": "7",
        "marks": "striped;small",
        "caption": "a dog, 7 years",
        "emb": "one",
        "mask": "3",
    }
    for asked in (
        ("--number", "3"),
        ("--text", "cat"),
        ("--tags", "-"),
        ("--unconditional",),
        ("--class", "species=cat,dog"),
    ):
        code, out = run("sample", pets, "-n", "2", *asked)
        assert code == 0, out
    assert (tmp_path / pets / "condition_sensitivity.png").exists()
    assert len(list((tmp_path / pets / "samples").iterdir())) == 1


def test_values_that_are_listed_are_compared_on_the_same_noise(run, pets, tmp_path):
    code, out = run(
        "sample", pets, "--number", "age=2:20:4", "--guidance", "0,8", "--compare", "-n", "3"
    )  # 8: 3 steps of training are hardly heard
    assert code == 0, out
    values = np.load(tmp_path / pets / "sampled/001/samples.npy").reshape(2, 4, 3, 8, 8)
    assert (values[0] == values[0][:1]).all()  # guidance 0 hears nothing of the age, and the noise is the same
    assert not (values[1] == values[1][:1]).all()
    rows = table_of(tmp_path / pets / "sampled/001/samples.csv")
    assert [row["index"] for row in rows[:4]] == ["0", "1", "2", "0"]
    assert [row["age"] for row in rows[::3]] == ["2", "8", "14", "20"] * 2
    with Image.open(tmp_path / pets / "sampled/001/grid.png") as picture:
        assert picture.height > 8 * 64


def test_a_number_outside_the_data_is_sampled_with_a_note(run, pets):
    code, out = run("sample", pets, "-n", "1", "--number", "age=99")
    assert code == 0, out
    assert "note: age: 99 lies outside 0.5 to 23.5" in " ".join(out.split())


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (
            ("--number", "age=5", "--guidance", "caption=3"),
            "the condition 'caption' is absent, so guiding by it changes nothing",
        ),
        (("--unconditional", "--guidance", "3"), "so guidance changes nothing"),
        (("--number", "age=5", "--guidance", "age=3"), None),
        (("--number", "age=5", "--guidance", "3"), None),
        (("--unconditional", "--guidance", "0"), None),
    ],
)
def test_guidance_that_changes_nothing_is_noted_once(run, pets, asked, words):
    code, out = run("sample", pets, "-n", "2", *asked)
    assert code == 0, out
    assert " ".join(out.split()).count("changes nothing") == (words is not None)
    assert words is None or words in " ".join(out.split())


@pytest.mark.parametrize("inject", ["embedding", "concat", "cross_attention"])
def test_a_text_can_enter_in_every_way(run, table, inject):
    code, out = run("train", table, "--name", "t", "--text", "caption", "--inject", f"caption={inject}", *SMALL)
    assert code == 0, out
    assert run("sample", "runs/t", "-n", "2", "--text", "an old hare")[0] == 0


def test_how_often_each_is_left_unsaid_can_be_chosen(run, table):
    from undiffuse.models.file import load

    code, out = run(
        "train",
        table,
        "--name",
        "t",
        "--class",
        "species",
        "--text",
        "caption",
        "--condition-dropout",
        "0.2",
        "--condition-dropout",
        "species=0",
        *SMALL,
    )
    assert code == 0, out
    assert {name: c.dropout for name, c in load("runs/t").config.conditions.items()} == {"species": 0.0, "caption": 0.2}
    code, out = run("sample", "runs/t", "-n", "1", "--text", "a hare")
    assert code == 2
    assert "species: this model was trained without ever dropping it" in " ".join(out.split())


def test_columns_that_are_no_conditions_are_pointed_at(run, table):
    code, out = run("train", table, "--name", "t", *SMALL)
    assert code == 0, out
    assert "the model is not conditioned on species, age, marks, caption, mask" in " ".join(out.split())
    assert "(unconditional)" in out


def test_likelihood_and_sweep_tell_the_model_what_the_data_says(run, pets):
    code, out = run("likelihood", pets, "-n", "2", "--steps", "5")
    assert code == 0, out
    assert "with their species and marks and age" in " ".join(out.split())
    assert run("sweep", pets, "-n", "2", "--step-counts", "2", "--solvers", "ddim", "--grids", "trailing")[0] == 0


def test_a_classifier_guides_an_unconditional_model(run, tmp_path):
    assert run("train", "digits", "--name", "u", "--unconditional", *SMALL)[0] == 0
    code, out = run("classifier", "runs/u", "--train-steps", "3", "--batch-size", "16")
    assert code == 0, out
    assert "chance" in out
    assert {path.name for path in (tmp_path / "runs/u/classifier-class").iterdir()} >= {
        "classifier.safetensors",
        "levels.json",
        "levels.png",
    }
    for form in (("score", "--classifier-interval", "0,inf"), ("mean", "--solver", "ddpm")):
        code, out = run(
            "sample",
            "runs/u",
            "--classifier",
            "runs/u/classifier-class",
            "--classifier-form",
            *form,
            "--classifier-scale",
            "2",
            "--class",
            "3,5",
            "-n",
            "4",
            "--steps",
            "3",
        )
        assert code == 0, out
    rows = table_of(tmp_path / "runs/u/sampled/001/samples.csv")
    assert [row["class"] for row in rows] == ["3", "3", "5", "5"]
    code, out = run(
        "sample", "runs/u", "--classifier", "runs/u/classifier-class", "--trajectory", "--steps", "3"
    )  # every class in turn
    assert code == 0, out


def test_a_weaker_model_and_a_negative_condition(run):
    assert run("train", "digits", "--name", "a", *SMALL)[0] == 0
    assert run("train", "digits", "--name", "b", "--set", "training.seed=1", *SMALL)[0] == 0
    assert (
        run(
            "sample", "runs/a", "--class", "3", "--autoguidance", "runs/b", "--guidance", "2", "-n", "2", "--steps", "2"
        )[0]
        == 0
    )
    assert (
        run("sample", "runs/a", "--class", "3", "--negative", "class=8", "--guidance", "2", "-n", "2", "--steps", "2")[
            0
        ]
        == 0
    )


def test_evaluate_says_whether_samples_show_what_was_asked(run, tmp_path):
    assert run("train", "digits", "--name", "c", *SMALL)[0] == 0
    code, out = run("evaluate", "runs/c", "-n", "20", "--predictor-steps", "5")
    assert code == 0, out
    found = json.loads((tmp_path / "runs/c/evaluated/001/adherence.json").read_text())
    assert [a["name"] for a in found["adherence"]] == ["class"]
    with Image.open(tmp_path / "runs/c/evaluated/001/adherence.png") as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--class", "dgo"), "did you mean dog"),
        (("--number", "age=old"), "'old' is no number"),
        (("--number", "old"), "no number"),
        (("--tags", "spotted"), "there is no tag 'spotted'"),
        (("--vector", "emb.npz"), "no .npy file"),
        (("--vector", "long.npy"), "model takes (5,)"),
        (("--image", "no.png"), "no.png"),
        (("--task", "paint"), "no condition of the kind task: its conditions are species (--class)"),
        (("--text", "old " * 50), "shorten it"),
        (("--number", "height=3"), "its --number is age"),
        (("--number", "1:2"), "no number"),
        (("--guidance", "2,3"), "--compare"),
        (("--guidance", "2", "--guidance-interval", "0.1,inf"), "above any level"),
        (("--guidance", "species=x"), "takes a guidance scale"),
        (("--guidance", "height=2"), "cannot be guided by 'height'"),
        (("--negative", "dog", "--guidance", "2"), "NAME=VALUE"),
        (("--negative", "species=dog"), "keeps away from nothing"),
        (("--classifier", "runs/pets"), "undiffuse classifier"),
        (("--classifier-scale", "2"), "need a classifier"),
        (("--autoguidance", "nowhere", "--guidance", "2"), "undiffuse train"),
        (("--class", "cat", "--unconditional"), "contradicts"),
        (("--classifier", "runs/pets/model.safetensors"), "is a model, where a classifier is needed"),
    ],
)
def test_wrong_questions_are_one_sentence(run, pets, tmp_path, arguments, words):
    np.save(tmp_path / "long.npy", np.zeros(6))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    code, out = run("sample", pets, "-n", "1", *arguments)
    assert code == 2, out
    assert words in " ".join(out.split()), out
    assert "Traceback" not in out
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--class", "race"), 2, "no column 'race': its columns are file, species, age, marks, caption, mask"),
        (("--number", "species"), 2, ".png, 'cat' is no number"),
        (("--vector", "no.npy"), 2, "no file no.npy"),
        (("--class", "species", "--class", "species"), 2, "declared twice"),
        (("--class", "species", "--unconditional"), 2, "contradicts"),
        (("--class", "species", "--inject", "age=concat"), 2, "no condition that is declared"),
        (("--class", "species", "--condition-dropout", "age=0.5"), 2, "no condition that is declared"),
        (("--class", "species", "--condition-dropout", "1"), 2, "no share"),
        (("--class", "species", "--condition-dropout", "species=often"), 2, "no share"),
        (("--inject", "age"), 2, "NAME=VALUE"),
        (("--class", "species", "--inject", "species=everywhere"), 2, "inject"),
        (("--encoder", "words"), 2, "no --text is declared"),
        (("--text", "caption", "--pooling", "mean"), 2, "pooling belongs to a transformer"),
        (("--vector", "species"), 2, "vector 'species'"),
        (("--text", "caption", "--encoder", "./nowhere"), 1, "nowhere is not in"),
        (("--table", "no.csv", "--class", "species"), 2, "no.csv cannot be read"),
    ],
)
def test_wrong_declarations_are_one_sentence(run, table, tmp_path, arguments, code, words):
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    got, out = run("train", table, "--name", "wrong", *arguments, *SMALL)
    assert got == code, out
    assert words in " ".join(out.split()), out
    assert "Traceback" not in out
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_classifier_and_evaluate_refuse_in_a_sentence(run, pets, tmp_path):
    for arguments, words in (
        (("classifier", "nowhere"), "undiffuse train"),
        (("classifier", pets, "--class", "race"), "no column 'race'"),
        (("classifier", pets, "--class", "species", "--number", "age"), "one thing"),
        (("evaluate", "nowhere"), "undiffuse train"),
        (("evaluate", pets, "-n", "1"), "at least 2"),
        (("evaluate", pets, "--guidance", "1,2"), "one at a time"),
        (("evaluate", pets), "hold out at least"),
    ):
        code, out = run(*arguments)
        assert code == 2, out
        assert words in " ".join(out.split()), out
