"""Whose rows of a table are whose: by name where the examples are files, whatever the column is called, and never by chance."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from PIL import Image

from undiffuse.conditioning.columns import condition_notes, encode_columns, fit_conditions
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources import open_data
from undiffuse.data.tables import column, fingerprints, offers, text_column
from undiffuse.errors import UsageError
from undiffuse.runs.prepare import prepare

N = 24


def opened(path, **options):
    return open_data(DataConfig(source=str(path), **options))


@pytest.fixture
def folder(tmp_path):
    """Images 0.png … 23.png, all of image k of the value 10 k: a row that is found rightly says what is in the picture."""
    (tmp_path / "in").mkdir()
    for k in range(N):
        Image.fromarray(np.full((4, 4), 10 * k, np.uint8)).save(tmp_path / "in" / f"{k}.png")
    return tmp_path / "in"


def table(folder, head, cell, name="t.csv"):
    """A table in numeric order; `cell` makes the other cells of image k."""
    path = folder.parent / name
    path.write_text(f"{head},bright\n" + "".join(f"{cell(k)},{10 * k}\n" for k in range(N)), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["file", "img", "Image", "id", "whatever"])
@pytest.mark.parametrize(
    "written",
    [
        "{k}.png",
        "./{k}.png",
        "in/{k}.png",
        "in\\{k}.png",
        "{k}",
        "{folder}/{k}.png",
        " {k}.png ",
    ],
)
def test_rows_are_found_by_the_column_whose_cells_are_the_files(folder, name, written):
    path = table(folder, name, lambda k: written.format(k=k, folder=folder))
    if (name, written) == ("whatever", "{k}"):
        with pytest.raises(
            UsageError, match="the numbers in 'whatever' may be anything: if they name the images, call it 'file'"
        ):
            opened(folder, table=str(path))
        return
    data = opened(folder, table=str(path))
    assert [float(value) for value in data.columns["bright"]] == data.values[:, 0, 0, 0].tolist()
    assert (f"by its column '{name}'" in " ".join(data.notes)) == (name != "file")


def test_a_table_that_names_no_image_is_refused_and_never_taken_in_the_order_of_names(folder):
    """Sorted as text the files are 0, 1, 10, 11, …, 2: no order of a table is this one by chance."""
    path = table(folder, "note", lambda k: f"a note on {k}")
    with pytest.raises(
        UsageError,
        match=r"no column of the table .* names the images .*0\.png, 1\.png, 10\.png, …\): add a column 'file'",
    ):
        opened(folder, table=str(path))


def test_bare_numbers_name_images_only_where_each_is_named_once(folder):
    path = table(folder, "age", lambda k: k // 2)
    with pytest.raises(UsageError, match="no column of the table"):
        opened(folder, table=str(path))


def test_two_columns_that_name_the_images_differently_are_refused(folder):
    path = table(folder, "img,next", lambda k: f"{k}.png,{(k + 1) % N}.png")
    with pytest.raises(
        UsageError,
        match=r"columns img and next of the table .* both name the images, and differently: call the right one 'file'",
    ):
        opened(folder, table=str(path))
    data = opened(folder, table=str(table(folder, "img,mask", lambda k: f"{k}.png,{k}.png")))
    assert [float(value) for value in data.columns["bright"]] == data.values[:, 0, 0, 0].tolist()


def turned(k):
    """Another image than k, another for each, but not in the order of anything."""
    return (5 * k + 3) % N


RIGHT = [  # columns, their cells in the row of image k, words of a note
    (
        ",img",
        lambda k: f"{turned(k)},{k}.jpg",
        r"read without their suffixes: 0\.jpg is 0\.png",
    ),  # as pandas' to_csv() writes it
    (",img", lambda k: f"{turned(k)},{k}.png", "by its column 'img'"),
    ("img,rank", lambda k: f"{k}.jpg,{turned(k)}", "by its column 'img'"),
    ("img,id", lambda k: f"{k}.jpg,{turned(k)}", "by its column 'img'"),
    ("photo,id", lambda k: f"{k}.png,{turned(k)}", "by its column 'photo'"),
    ("file,neighbour", lambda k: f"{k}.jpg,{turned(k)}.png", "read without their suffixes"),
    ("img,neighbour", lambda k: f"{k}.JPG,{turned(k) // 2}.png", "by its column 'img'"),
    (
        "img,near",
        lambda k: f"{k}.{'jpg' if k % 2 else 'png'},{turned(k) // 2}.png",
        "by its column 'img'",
    ),  # half of them converted
    ("which,near", lambda k: f"{k}.png,{turned(k) // 3 * 3}.png", "by its column 'which'"),
    ("file,rank", lambda k: f"{k},{turned(k)}", ""),
]
REFUSED = [
    ("rank", turned, "the numbers in 'rank' may be anything: if they name the images, call it 'file'"),
    ("id,rank", lambda k: f"{k:03},{turned(k)}", "no column of the table .* names the images"),
    ("rank", lambda k: f"{turned(k)}.0", "no column of the table"),
    (
        "photo,nearest",
        lambda k: f"{k if k != 7 else '7x'}.png,{turned(k)}.png",
        r"photo names 23 of 24; row 8 says '7x\.png', which is no image",
    ),
    (
        "photo,nearest",
        lambda k: f"{k if k != 7 else '7x'}.png,{turned(k) // 2}.png",
        r"for 1 of 24 images, such as 7\.png.*row 8 says '7x\.png'",
    ),
    ("which,nearest", lambda k: f"{k if k != 7 else '7x'}.png,{turned(k)}.png", r"row 8 says '7x\.png'"),
    ("image,nearest", lambda k: f"{k if k != 7 else '7x'}.png,{turned(k)}.png", r"row 8 says '7x\.png'"),
    ("img,id", lambda k: f"{k if k != 7 else '7x'}.jpg,{turned(k)}", r"row 8 says '7x\.jpg'"),
    (
        "img,rank",
        lambda k: f"{k if k != 7 else '7x'}.jpg,{turned(k)}",
        r"'img' names 23 of 24 images; row 8 says '7x\.jpg'",
    ),
    (
        "file,neighbour",
        lambda k: f"scan{k}.png,{turned(k)}.png",
        r"the column 'file' of .* names no image \(it says 'scan0\.png'",
    ),
    ("file,neighbour", lambda k: f"{k if k != 7 else '7x'}.jpg,{turned(k)}.png", "has no row for 1 of 24 images"),
    ("File,neighbour", lambda k: f"{k}.jpg,{turned(k)}.png", "both name the images, and differently"),
    ("which,neighbour", lambda k: f"{k}.jpg,{turned(k)}.png", "both name the images, and differently"),
    ("id,neighbour", lambda k: f"{k},{turned(k)}.png", "both name the images, and differently"),
]


@pytest.mark.parametrize(("head", "cells", "words"), RIGHT)
def test_the_column_that_names_the_images_is_found_beside_one_that_may_only_seem_to(folder, head, cells, words):
    data = opened(folder, table=str(table(folder, head, cells)))
    assert [float(value) for value in data.columns["bright"]] == data.values[:, 0, 0, 0].tolist()
    assert re.search(words, " ".join(data.notes))


@pytest.mark.parametrize(("head", "cells", "words"), REFUSED)
def test_where_the_names_miss_no_other_column_takes_their_place(folder, head, cells, words):
    with pytest.raises(UsageError, match=words):
        opened(folder, table=str(table(folder, head, cells)))


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_rows_that_say_the_same_number_in_two_ways_are_the_same(folder, name):
    rows = [(f"{k}.png", str(10 * k)) for k in range(N)] + [("./7.png", "70.0"), ("7.png", "7e1")]
    path = folder.parent / name
    lines = (
        ["file,bright", *map(",".join, rows)]
        if name == "t.csv"
        else [f'{{"file": "{file}", "bright": {value}}}' for file, value in rows]
    )
    path.write_text("\n".join(lines) + "\n")
    data = opened(folder, table=str(path))
    assert any("2 rows of t" in note for note in data.notes)
    path.write_text(path.read_text().replace("7e1", "7.01e1"))
    with pytest.raises(UsageError, match="several rows with different values"):
        opened(folder, table=str(path))


def test_a_name_in_two_rows_is_refused_unless_they_say_the_same(folder):
    path = table(folder, "file", lambda k: f"{k}.png")
    content = path.read_text()
    path.write_text(content + "7.png,999\n")
    with pytest.raises(
        UsageError,
        match=r"names 1 of 24 images in several rows with different values, such as 7\.png in rows 8 and 25",
    ):
        opened(folder, table=str(path))
    path.write_text(content + "7.png,70\n")
    data = opened(folder, table=str(path))
    assert [float(value) for value in data.columns["bright"]] == data.values[:, 0, 0, 0].tolist()
    assert any("1 rows of t.csv repeat another" in note for note in data.notes)


def test_rows_of_other_images_are_counted(folder):
    path = table(folder, "file", lambda k: f"{k}.png")
    path.write_text(path.read_text() + "gone.png,5\nlost.png,6\n")
    assert any("2 of the 26 rows of t.csv name no image" in note for note in opened(folder, table=str(path)).notes)


def test_rows_beside_arrays_are_taken_in_order_and_that_is_said(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 4, 4), np.uint8))
    (tmp_path / "t.csv").write_text("age\n30\n10\n20\n")
    notes = opened(tmp_path / "x.npy", table=str(tmp_path / "t.csv")).notes
    assert any("3 rows of t.csv are taken for the examples in their order" in note for note in notes)


def test_a_table_that_is_the_data_names_its_images_in_any_column(folder):
    path = table(folder, "photo", lambda k: f"in/{k}.png")
    data = opened(path)
    assert [float(value) for value in data.columns["bright"]] == data.values[:, 0, 0, 0].tolist()
    assert any("that the column 'photo' names" in note for note in data.notes)
    path.write_text(path.read_text() + "in/3.png,5\n")
    assert any("1 images are named by several rows each, such as in/3.png" in note for note in opened(path).notes)
    with pytest.raises(
        UsageError, match=r"each of the columns photo, mask names files: call the one with the examples 'file'"
    ):
        opened(table(folder, "photo,mask", lambda k: f"in/{k}.png,in/{k}.png"))


def test_a_table_that_names_no_images_is_itself_the_data(tmp_path):
    (tmp_path / "iris.csv").write_text("length,width,species\n" + "5.1,3.5,setosa\n4.9,3.0,virginica\n" * 6)
    data = opened(tmp_path / "iris.csv")
    assert data.values[:2, :, 0].tolist() == [[5.1, 3.5, 0], [4.9, 3.0, 1]]
    assert [column.kind for column in data.table.columns] == ["number", "number", "category"]
    with pytest.raises(UsageError, match="none of them names image files"):
        opened(tmp_path / "iris.csv", size=(8, 8))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"file;age\na.png;3\nb.png;4\n", "separated by semicolons: save it with commas"),
        ("t.csv", b"file\tage\na.png\t3,5\n", r"separated by tabs: name it t\.tsv"),
        ("t.tsv", b"file,age\na.png,3\n", r"separated by commas: name it t\.csv"),
        (
            "t.csv",
            "file,ort\na.png,M\u00fcnchen\n".encode("cp1252"),
            r"line 2 holds the byte 0xfc.*cp1252: save it as UTF-8 \(iconv -f CP1252",
        ),
        ("t.csv", "file,age\na.png,3\n".encode("utf-16"), "it is in UTF-16"),
        ("t.csv", "file,age\na.png,3\n".encode("utf-16-le"), "it is in UTF-16"),
    ],
)
def test_the_cause_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=words):
        opened(tmp_path / name)


# Captions and tables that lie in a folder -------------------------------------------------------------------------------------------------


def test_captions_beside_pictures_are_read_when_asked_by_name_and_offered_else(folder):
    shuffled = random.Random(0).sample(range(N), N)
    for k in shuffled[1:]:
        (folder / f"{k}.txt").write_text(f" picture {k} \n", encoding="utf-8")
    data = opened(folder)
    assert [int(value) // 10 for value in data.values[:, 0, 0, 0]] == [
        int(name.split(".")[0]) for name in data.columns["file"]
    ]
    said = column(data, "caption").tolist()
    assert said == [
        "" if k == shuffled[0] else f"picture {k}" for k in (int(name.split(".")[0]) for name in data.columns["file"])
    ]
    assert (
        "23 of the 24 images have a caption in a .txt file beside them: declare the text caption"
        in dict(offers(data))["caption"]
    )
    with pytest.raises(
        UsageError, match=r"no column 'text': its columns are file, caption; .*declare the text caption"
    ):
        column(data, "text")
    before = fingerprints(data, {"caption": False})
    assert before
    (folder / f"{shuffled[1]}.txt").write_text("another", encoding="utf-8")
    assert fingerprints(data, {"caption": False}) != before  # a run whose captions changed is not resumed as the same
    assert column(opened(folder, table=str(table(folder, "img", lambda k: f"{k}.png"))), "caption").tolist()[0] != ""
    configs = fit_conditions(data, {"caption": Condition(kind="text")}, 0.1)
    encoded = encode_columns(data, {"caption": Condition(kind="text")}, Conditions(configs, 8))["caption"]
    assert int((encoded[np.arange(N)] != 0).flatten(1).any(1).sum()) == N - 1
    note = f"23 captions read from .txt files beside the pictures; 1 picture has none ({shuffled[0]}.png)"
    assert condition_notes(data, {"caption": Condition(kind="text")}, np.arange(N)) == [note]
    assert not any(".txt" in note for note in data.notes)  # of files left out
    (folder / "readme.txt").write_text("of no picture", encoding="utf-8")
    assert any("left out 1 file, readme.txt" in note for note in opened(folder).notes)


def test_a_table_inside_the_folder_is_offered(folder):
    path = folder / "metadata.csv"
    table(folder, "file_name", lambda k: f"{k}.png").rename(path)
    note = f"the folder holds metadata.csv: `table` {path} reads its columns"
    assert offers(opened(folder)) == [("metadata.csv", note)]
    with pytest.raises(UsageError, match=r"no column 'bright'.*`table`"):
        column(opened(folder), "bright")
    assert offers(opened(folder, table=str(path))) == []


# Long texts -------------------------------------------------------------------------------------------------------------------------------


def test_one_long_cell_costs_what_it_holds_and_changes_no_fingerprint():
    """100,000 characters among 1,000 rows took 400 MB as an array of fixed width."""
    texts = [f"text {k}" for k in range(999)] + ["\U0001f600" * 100_000]
    found = text_column(texts)
    assert found.tolist() == texts
    assert found.nbytes < 10**5
    values = np.zeros((1000, 1), np.uint8)
    few = np.array(["a", "", "\u00fc\U0001f600 c", "\ud800", "a\0"], dtype=object)
    fixed = Dataset("d", values[:5], columns={"t": few.astype(str)})
    assert Dataset("d", values[:5], columns={"t": few}).fingerprint() == fixed.fingerprint()
    empty, same = few[1:2].repeat(2), np.array(["", ""])
    assert (
        Dataset("d", values[:2], columns={"t": empty}).fingerprint()
        == Dataset("d", values[:2], columns={"t": same}).fingerprint()
    )


def test_whole_numbers_beside_others_are_pointed_out(tmp_path):
    rng = np.random.default_rng(0)
    floats, ages = rng.normal(size=(40, 1)), rng.integers(0, 90, (40, 1))
    for name, columns, noted in (
        ("mixed", (floats, ages, ages > 40), True),
        ("floats", (floats, floats), False),
        ("ages", (ages, ages), False),
    ):
        np.save(tmp_path / f"{name}.npy", np.concatenate(columns, 1).astype(np.float64))
        notes = " ".join(opened(tmp_path / f"{name}.npy").notes)
        assert ("columns 1, 2 (counted from 0) hold whole numbers alone" in notes) == noted


# Names and the split ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["class", "tags"])
@pytest.mark.parametrize("seed", range(4))
def test_no_name_in_a_table_is_held_out_altogether(tmp_path, kind, seed):
    """24 names of one example each: with a seed of 1 two were never trained on, and sampled all the same."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for k in range(60):
        Image.fromarray(rng.integers(0, 256, (4, 4), dtype=np.uint8)).save(tmp_path / "in" / f"{k}.png")
    lines = [f"{k}.png,{f'rare{k}' if k < 24 else 'common'}{';common' if kind == 'tags' else ''}" for k in range(60)]
    (tmp_path / "t.csv").write_text("img,it\n" + "\n".join(lines) + "\n")
    source = DataConfig(source=str(tmp_path / "in"), table=str(tmp_path / "t.csv"), held_out=0.3)
    plan = prepare(
        source,
        tmp_path / "run",
        conditions={"it": Condition(kind=kind)},
        settings={"training.steps": 1, "training.seed": seed},
    )
    training, held_out = plan.config.split.rows(plan.data)
    said = plan.data.columns["it"]
    assert set(said[training]) == set(said)
    assert len(held_out)
    assert not any("samples of" in note for note in plan.data.notes)


def test_a_run_of_before_says_which_names_it_never_trains_on(tmp_path):
    """Its examples were held out by their rows, and that does not change: so it says what the split leaves out."""
    x, it = (
        np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8),
        np.array([f"n{k // 2}" for k in range(40)]),
    )
    np.savez(tmp_path / "x.npz", x=x, it=it)
    data = opened(tmp_path / "x.npz")
    training, _ = data.split_rows(0.5, 1)
    unseen = set(data.columns["it"]) - set(data.columns["it"][training])
    assert unseen
    (note,) = condition_notes(data, {"it": Condition(kind="class")}, training)
    assert "no example that is trained on says the class" in note
    assert sorted(unseen)[0] in note
