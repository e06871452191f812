"""Tables beside the examples: what is read from them, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from undiffuse.conditioning.spec import Condition, fit_condition
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources import open_data
from undiffuse.data.table_files import read_table
from undiffuse.data.tables import as_column, column


def opened(path, **options):
    return open_data(DataConfig(source=str(path), **options))


def save_images(folder, names):
    """An image of its own for each name; returns their values."""
    values = np.random.default_rng(0).integers(0, 256, (len(names), 4, 4), dtype=np.uint8)
    for name, value in zip(names, values, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(value).save(folder / name)
    return values


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'age,caption\r\n3,"a cat, ""red""\r\nand round"\r\n,dog\r\n'),
        ("t.csv", '\ufeffage,caption\n3,"a cat, ""red""\nand round"\n\n,dog'),
        ("t.tsv", 'age\tcaption\n3\t"a cat, ""red""\nand round"\n\tdog\n'),
        ("t.jsonl", '{"age": "3", "caption": "a cat, \\"red\\"\\nand round"}\n\n{"caption": "dog", "age": ""}\n'),
    ],
)
def test_the_three_kinds_of_table_say_the_same(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert read_table(tmp_path / name) == {"age": ["3", ""], "caption": ['a cat, "red"\nand round', "dog"]}


@pytest.mark.parametrize("sign", ["\u2028", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_line_ends_end_a_line(tmp_path, sign):
    """Signs that str.splitlines takes for line ends stand in captions from the web."""
    (tmp_path / "t.csv").write_text(f"caption\na{sign}b\n", encoding="utf-8")
    assert read_table(tmp_path / "t.csv") == {"caption": [f"a{sign}b"]}
    (tmp_path / "t.jsonl").write_text(json.dumps({"caption": f"a{sign}b"}, ensure_ascii=False), encoding="utf-8")
    assert read_table(tmp_path / "t.jsonl") == {"caption": [f"a{sign}b"]}


def test_a_line_of_json_may_leave_out_what_it_does_not_know(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n{"b": "x", "a": null}\n')
    assert read_table(tmp_path / "t.jsonl") == {"a": [1, None], "b": [None, "x"]}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "a,b\n1,2\n3\n", "line 3 has another number of cells"),
        ("t.csv", 'a,b\n"1\n1",2\n3,4,5\n', "line 4 has another number of cells"),
        ("t.csv", "a,a\n1,2\n", "two columns called 'a'"),
        ("t.csv", "a,b\n", "holds no rows"),
        ("t.csv", "", "holds no rows"),
        ("t.csv", 'a\n"1\n', "cannot be read"),
        ("t.jsonl", '{"a": 1}\n{"a": ', "cannot be read"),
        ("t.jsonl", "[1, 2]\n", "holds no rows"),
        ("t.tsv", b"a\n\xff\xfe\n", "cannot be read"),
        ("missing.csv", None, "cannot be read"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=words) as caught:
        read_table(tmp_path / name)
    assert name in str(caught.value)


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5, None], np.array([1, 2.5, NAN])),
        ([[1, 2], [3, 4.5]], np.array([[1, 2], [3, 4.5]])),
        ([[1, 2], None, [3, 4]], np.array([[1, 2], [NAN, NAN], [3, 4]])),
        (["a", None, "1"], np.array(["a", "", "1"])),
        ([["red", "round"], [], None], np.array(["red;round", "", ""])),
        ([[1, 2], [3]], np.array(["1;2", "3"])),
        ([True, False], np.array(["True", "False"])),
    ],
)
def test_values_become_numbers_vectors_or_texts(values, expected):
    found = as_column(values)
    assert found.dtype.kind == expected.dtype.kind
    np.testing.assert_array_equal(found, expected)


def test_images_come_from_the_column_that_names_them(tmp_path):
    values = save_images(tmp_path / "in", ["b.png", "deep/a.png"])
    (tmp_path / "t.csv").write_text("age,file\n3,in/b.png\n4,in/deep/a.png\n")
    data = opened(tmp_path / "t.csv")
    assert np.array_equal(data.values[:, 0], values)  # in the order of the table
    assert data.columns["age"].tolist() == ["3", "4"]
    assert data.root == tmp_path


def test_rows_of_images_that_cannot_be_read_are_left_out_of_every_column(tmp_path):
    names = [f"{k}.png" for k in range(150)]
    values = save_images(tmp_path, names)
    (tmp_path / "7.png").write_bytes(b"no image")
    (tmp_path / "t.csv").write_text("file,k\n" + "".join(f"{name},{k}\n" for k, name in enumerate(names)))
    data = opened(tmp_path / "t.csv")
    kept = [k for k in range(150) if k != 7]
    assert data.columns["k"].tolist() == [str(k) for k in kept]
    assert np.array_equal(data.values[:, 0], values[kept])
    assert "7.png" in data.notes[0]


@pytest.mark.parametrize("where", ["gone.png", "/nowhere/gone.png", "../gone.png"])
def test_a_table_that_names_files_that_are_not_there(tmp_path, where):
    (tmp_path / "t.csv").write_text(f"file\n{where}\n")
    with pytest.raises(ValueError, match=r"1 of 1 images in .* cannot be read: .*gone\.png"):
        opened(tmp_path / "t.csv")


def test_a_table_that_names_no_files(tmp_path):
    (tmp_path / "t.csv").write_text("age,picture\n3,a.png\n")
    with pytest.raises(ValueError, match=r"'picture' of .*t\.csv names images, such as a.png, and they are not there"):
        opened(tmp_path / "t.csv")


def test_a_table_beside_a_folder_is_read_by_file_name(tmp_path):
    save_images(tmp_path / "in", ["cat/1.png", "cat/2.png", "dog/1.png"])
    (tmp_path / "t.csv").write_text("age,file\n30,dog/1.png\n10,cat/1.png\n5,other.png\n20,cat/2.png\n")
    data = opened(tmp_path / "in", table=str(tmp_path / "t.csv"))
    assert data.columns["age"].tolist() == ["10", "20", "30"]
    assert data.classes == ("cat", "dog")
    (tmp_path / "t.csv").write_text("age,file\n30,dog/1.png\n10,cat/1.png\n")
    with pytest.raises(ValueError, match=r"has no row for 1 of 3 images, such as cat/2\.png"):
        opened(tmp_path / "in", table=str(tmp_path / "t.csv"))


def test_a_table_beside_an_array_is_read_by_order(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.zeros((3, 4, 4), np.uint8))
    (tmp_path / "t.tsv").write_text("age\n30\n10\n20\n")
    assert opened(tmp_path / "x.npy", table=str(tmp_path / "t.tsv")).columns["age"].tolist() == ["30", "10", "20"]
    (tmp_path / "t.tsv").write_text("age\n30\n10\n")
    with pytest.raises(ValueError, match="has 2 rows for 3 examples"):
        opened(tmp_path / "x.npy", table=str(tmp_path / "t.tsv"))
    monkeypatch.chdir(tmp_path)  # a folder called digits is not the digits
    (tmp_path / "digits").mkdir()
    (tmp_path / "all.csv").write_text("k\n" + "".join(f"{k}\n" for k in range(1797)))
    assert opened("digits", table="all.csv").columns["k"][-1] == "1796"


def test_other_arrays_of_an_npz_are_columns(tmp_path):
    x, emb, age = np.zeros((3, 4, 4), np.uint8), np.eye(3), np.array([1.0, NAN, 3.0])
    np.savez(tmp_path / "x.npz", x=x, y=np.array([2, 0, 2]), emb=emb, age=age, about=np.array("ours"), two=np.arange(2))
    data = opened(tmp_path / "x.npz")
    assert set(data.columns) == {"emb", "age"}
    assert np.array_equal(column(data, "emb"), emb)
    assert column(data, "class").tolist() == ["2", "0", "2"]


def test_a_column_may_be_an_npy_file_with_a_row_for_each_example(tmp_path, monkeypatch):
    data = Dataset("d", np.zeros((3, 1, 4, 4), np.uint8), columns={"age": np.arange(3.0)})
    np.save(tmp_path / "emb.npy", np.eye(3))
    assert np.array_equal(column(data, str(tmp_path / "emb.npy")), np.eye(3))
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(column(data, "emb.npy"), np.eye(3))
    np.save("short.npy", np.eye(2))
    np.save("one.npy", np.array(5.0))
    np.save("objects.npy", np.array([{}, {}, {}], dtype=object), allow_pickle=True)
    for source, words in (
        ("short.npy", r"shape \(2, 2\), but there are 3 examples"),
        ("one.npy", r"shape \(\), but"),
        ("gone.npy", r"no file gone\.npy"),
        ("objects.npy", "never loaded"),
        ("size", "no column 'size': its columns are age"),
        ("class", "no column 'class'"),
    ):
        with pytest.raises(ValueError, match=words):
            column(data, source)


def test_the_fingerprint_is_of_every_column_and_its_name():
    values = np.zeros((3, 1, 4, 4), np.uint8)

    def fingerprint(**columns):
        return Dataset("d", values, columns=columns).fingerprint()

    age = np.array([1.0, 2.0, NAN])
    found = [
        fingerprint(),
        fingerprint(age=age),
        fingerprint(size=age),
        fingerprint(age=age[::-1]),
        fingerprint(age=age, size=age),
        fingerprint(age=age.astype(np.float32)),
        fingerprint(text=np.array(["a", "b", "c"])),
        fingerprint(text=np.array(["a", "b", "d"])),
    ]
    assert len(set(found)) == len(found)
    assert fingerprint(size=age, age=age[::-1]) == fingerprint(
        age=age[::-1].copy(), size=age
    )  # the order of columns is nothing


@pytest.mark.parametrize("held_out", [0.25, 3])
def test_rows_of_a_split_are_those_of_its_parts(held_out):
    data = Dataset(
        "d", np.arange(12, dtype=np.uint8).reshape(12, 1, 1), columns={"k": np.arange(12)}, notes=("a note",)
    )
    rows = data.split_rows(held_out, 5)
    parts = [data[part] for part in rows]
    assert sorted(np.concatenate(rows)) == list(range(12))
    assert len(rows[1]) == 3
    for part, which in zip(parts, rows, strict=True):
        assert part.values.ravel().tolist() == part.columns["k"].tolist() == which.tolist() == sorted(which)


def test_whole_numbers_that_float64_does_not_tell_apart_are_refused():
    big = 2**53
    for values in ([str(big), str(big + 1), "5"], [big, big + 1, 5]):
        with pytest.raises(ValueError, match=r"beyond 2\^53 would be read as the same: subtract the smallest"):
            fit_condition(Condition(kind="number"), values)
    assert fit_condition(Condition(kind="number"), [str(big), str(big + 2)]).high == big + 2
