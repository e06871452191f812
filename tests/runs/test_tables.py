"""A table in, a table out: kinds, formats, bounds and relations are the table's, whatever the network says."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

import undiffuse
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_data
from undiffuse.errors import UsageError
from undiffuse.models.file import load
from undiffuse.runs.prepare import prepare

RNG = np.random.default_rng(0)
N = 240
SHORT = {"training.steps": 20, "training.batch_size": 32, "network.width": 16, "network.depth": 2}
HEAD = ["name", "age", "income", "town", "member", "since", "until", "days", "country", "net", "tax", "gross"]


def people() -> list[list[str]]:
    rows = []
    for k in range(N):
        start, days = int(RNG.integers(0, 2000)), int(RNG.integers(1, 90))
        net, tax = round(float(np.exp(RNG.normal(7, 1))), 2), round(float(RNG.random() * 900), 2)
        since, until = (np.datetime64("2019-01-01") + d for d in (start, start + days))
        row = [f"p-{k:04d}", int(RNG.integers(18, 80)), f"{net:.2f}", RNG.choice(["Bonn", "Köln", "Ulm, alt"])]
        row += [RNG.choice(["yes", "no"]), str(since), str(until), days, "DE", f"{net:.2f}", f"{tax:.2f}"]
        rows.append([str(cell) for cell in [*row, f"{net + tax:.2f}"]])
        if k % 7 == 0:
            rows[-1][1] = ""
        if k % 11 == 0:
            rows[-1][3] = ""
    return rows


def written(path, rows, head=HEAD):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def options(settings):
    return [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def same(rows, others):
    """Whether they are, empty cells included."""
    return torch.equal(rows.nan_to_num(-1e9), others.nan_to_num(-1e9))


def test_a_table_comes_out_as_it_went_in(run, tmp_path):
    rows = people()
    written(tmp_path / "people.csv", rows)
    relations = ["--relation", "since < until", "--relation", "gross = net + tax"]
    code, out = run("train", "people.csv", *options(SHORT), *relations)
    assert code == 0, out
    assert run("sample", "runs/people", "-n", "300")[0] == 0
    (made,) = (tmp_path / "runs" / "people" / "sampled").glob("*/rows.csv")
    samples, given = read(made), [dict(zip(HEAD, row, strict=True)) for row in rows]
    assert list(samples[0]) == HEAD
    assert len(samples) == 300
    for column in ("town", "member", "country"):
        assert {row[column] for row in samples} <= {row[column] for row in given}
    assert {row["country"] for row in samples} == {"DE"}
    assert {row["name"] for row in samples} == {""}
    ages = [int(row["age"]) for row in samples if row["age"]]
    known = [int(row["age"]) for row in given if row["age"]]
    assert min(known) <= min(ages) <= max(ages) <= max(known)
    for row in samples:
        assert np.datetime64(row["since"]) < np.datetime64(row["until"])
        cents = {name: round(100 * float(row[name])) for name in ("net", "tax", "gross")}
        assert cents["gross"] == cents["net"] + cents["tax"]
        assert all(len(row[name].split(".")[1]) == 2 for name in ("net", "tax", "gross"))


def test_rows_that_break_a_relation_are_named_before_anything_is_trained(run, tmp_path):
    rows = people()
    rows[4][6] = "2001-01-01"
    written(tmp_path / "people.csv", rows)
    code, out = run("train", "people.csv", "--relation", "since < until")
    assert code == 2
    assert "row 5" in out
    assert not (tmp_path / "runs").exists()


def test_a_column_is_what_the_user_says(tmp_path):
    rows = [[f"{k % 3}", f"{7 * k % 53}", "x" if k % 2 else "y"] for k in range(60)]
    path = written(tmp_path / "a.csv", rows, ["code", "count", "word"])
    kinds = {column.name: column.kind for column in open_data(DataConfig(source=str(path))).table.columns}
    assert kinds == {"code": "category", "count": "integer", "word": "category"}
    said = open_data(DataConfig(source=str(path), columns={"code": "integer", "word": "text"}))
    assert {column.name: column.kind for column in said.table.columns} == kinds | {"code": "integer", "word": "text"}
    assert said.shape == (2, 1)
    with pytest.raises(UsageError, match="word"):
        open_data(DataConfig(source=str(path), columns={"word": "number"}))


def test_a_condition_is_no_part_of_the_rows_and_is_written_as_asked(run, tmp_path):
    written(tmp_path / "people.csv", people())
    code, out = run("train", "people.csv", "--class", "town", "--number", "age", *options(SHORT))
    assert code == 0, out
    model = load(tmp_path / "runs" / "people")
    assert not {"town", "age"} & {name for name, _ in model.config.file_format.table.free}
    code, out = run("sample", "runs/people", "--class", "town=Köln", "--number", "age=40", "-n", "5")
    assert code == 0, out
    (made,) = (tmp_path / "runs" / "people" / "sampled").glob("*/rows.csv")
    assert {(row["town"], float(row["age"])) for row in read(made)} == {("Köln", 40.0)}


def test_from_python_with_a_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "size": RNG.normal(170, 10, 90).round(1),
            "shoes": [None if k % 9 == 0 else int(36 + k % 9) for k in range(90)],
            "colour": [["red", "blue", None][k % 3] for k in range(90)],
            "born": pandas.Timestamp("1990-01-01") + pandas.to_timedelta(np.arange(90), "D"),
        }
    )
    model = undiffuse.train(frame, runs=tmp_path, name="a", settings=SHORT)
    made = pandas.DataFrame(model.table(model.sample(50)))
    assert list(made) == list(frame)
    assert made["size"].between(frame["size"].min(), frame["size"].max()).all()
    assert set(made["colour"].dropna()) <= {"red", "blue"}
    assert (made["shoes"].dropna() % 1 == 0).all()
    with pytest.raises(UsageError, match="makes no tables"):
        undiffuse.train("digits", runs=tmp_path, name="b", steps=1).table(torch.zeros(1, 1, 8, 8))


def test_a_thousand_categories_and_four_hundred_columns(tmp_path):
    wide = [[f"{v:.3f}" for v in RNG.normal(size=400)] for _ in range(60)]
    many = [[f"c{int(RNG.integers(1000))}", f"d{k % 1000}"] for k in range(3000)]
    for name, rows in (("wide", wide), ("many", many)):
        head = [f"column {k}" for k in range(len(rows[0]))]
        path = written(tmp_path / f"{name}.csv", rows, head)
        model = undiffuse.train(path, runs=tmp_path, name=name, steps=3, batch_size=16)
        made = model.table(model.sample(20))
        assert list(made) == head
        if name == "many":
            assert set(made["column 1"]) <= {f"d{k}" for k in range(1000)}


def test_a_run_goes_on_and_its_file_is_read(tmp_path):
    path = written(tmp_path / "people.csv", people())
    once = undiffuse.train(path, runs=tmp_path, name="a", settings=SHORT)
    again = undiffuse.train(path, runs=tmp_path, name="a", settings=SHORT, resume=True)
    assert same(once.sample(20), again.sample(20))
    assert same(once.sample(20), load(tmp_path / "a").sample(20))


def test_what_rows_of_a_table_are_not_for_is_said(tmp_path):
    path = written(tmp_path / "people.csv", people())
    for setting, words in (
        ({"training.objective": "bound"}, "simple"),
        ({"variance_type": "learned_range", "training.objective": "hybrid"}, "simple"),
    ):
        with pytest.raises(UsageError, match=words):
            prepare(DataConfig(source=str(path)), tmp_path / "r", settings=SHORT | setting)
    with pytest.raises(UsageError, match="every column of the table is a condition"):
        prepare(
            DataConfig(source=str(written(tmp_path / "one.csv", [[k % 5 / 7] for k in range(40)], ["a"]))),
            tmp_path / "r",
            conditions={"a": Condition(kind="number")},
        )
    model = undiffuse.train(path, runs=tmp_path, name="a", settings=SHORT)
    rows = model.sample(3)
    for use in (
        lambda: undiffuse.likelihood(model, rows),
        lambda: undiffuse.denoise(model, rows, noise=0.1),
        lambda: undiffuse.inpaint(model, rows, torch.arange(rows.shape[1])[:, None] < 2),
    ):
        with pytest.raises(UsageError, match="rows of a table"):
            use()


def test_a_table_of_one_column_and_edits_of_rows(run, tmp_path):
    written(tmp_path / "one.csv", [[f"{v:.2f}"] for v in RNG.normal(size=50)], ["height"])
    written(tmp_path / "people.csv", people())
    for name in ("one", "people"):
        assert run("train", f"{name}.csv", *options(SHORT))[0] == 0
        assert run("sample", f"runs/{name}", "-n", "4")[0] == 0
        for command in (["vary"], ["reconstruct"], ["interpolate", "data:1"]):
            code, out = run(command[0], f"runs/{name}", "data:0", *command[1:])
            assert code == 0, out
    code, out = run("classifier", "runs/people", "--class", "member", "--train-steps", "2")
    assert code == 0, out


def test_an_infinite_number_is_named(tmp_path):
    path = written(tmp_path / "a.csv", [["1.5", "x"], ["inf", "inf"], ["2.5", "y"]] * 5, ["size", "word"])
    with pytest.raises(UsageError, match="'size' holds an infinite number in row 2"):
        open_data(DataConfig(source=str(path)))
    path = written(tmp_path / "b.csv", [[f"{k / 7:.3f}", ["inf", "y"][k % 2]] for k in range(30)], ["size", "word"])
    assert [column.kind for column in open_data(DataConfig(source=str(path))).table.columns] == ["number", "category"]
