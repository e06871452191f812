"""What a data set holds is said as it is, and what is odd is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tests.data.test_duplicates import scenes
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.inspection import duplicates
from undiffuse.data.inspection.files import image_files, scan, sizes_of_some, suggested_side
from undiffuse.data.inspection.report import found_column, inspect_data
from undiffuse.data.ranges import found_range
from undiffuse.data.watching import watched_by


def test_dark_bright_blurred_and_plain_pictures_are_found():
    pictures = scenes(30)
    pictures[3] = pictures[3] // 8
    pictures[7] = 240 + pictures[7] // 17
    pictures[11] = 90
    pictures[15] = gaussian_filter(pictures[15].astype(float), (0, 5, 5)).astype(np.uint8)
    found = inspect_data(Dataset("x", pictures, mode="RGB"))
    assert {name: rows.tolist() for name, rows in found.quality.items()} == {
        "constant": [11],
        "dark": [3],
        "bright": [7],
        "blurred": [15],
    }


def test_constant_arrays_are_found_and_numbers_are_those_of_the_values():
    values = np.random.default_rng(0).normal(size=(50, 2, 30)).astype(np.float32)
    values[9] = 4
    found = inspect_data(Dataset("x", values))
    assert found.quality["constant"].tolist() == [9]
    assert np.allclose(found.means, values.mean((0, 2)))
    assert np.allclose(found.deviations, values.std((0, 2)), rtol=1e-5)
    assert found.quantiles[3] == pytest.approx(np.median(values), abs=1e-6)


def test_classes_are_counted_and_rare_ones_named():
    labels = np.array([0] * 40 + [1] * 3 + [-1] * 2)
    found = inspect_data(Dataset("x", scenes(45, 1, 16), labels, ("many", "few")))
    assert found.classes == {"many": 40, "few": 3, "": 2}
    assert found.rare == ["few"]


@pytest.mark.parametrize(
    ("values", "kind", "why"),
    [
        (["a.png", "b.png"] * 30, "class", "2 different"),
        ([f"{k}" for k in range(60)], "", "counts the rows"),
        ([f"{k % 4}" for k in range(60)], "class", "whole numbers"),
        ([f"{k * 0.37:.2f}" for k in range(60)], "number", "0 to"),
        (["red;round", "blue;small", "red"] * 20, "tags", "separated by ;"),
        ([f"a picture of number {k} in the snow" for k in range(60)], "text", "words"),
        ([f"id{k:03d}" for k in range(60)], "", "name of the example"),
        (["same"] * 60, "", "1 different"),
        ([""] * 60, "", "no values"),
        (np.random.default_rng(0).normal(size=(60, 5)), "vector", "array"),
        (np.zeros((60, 1, 4, 4)), "image", "array"),
        (np.where(np.arange(60) % 2, np.nan, np.arange(60.0) / 7), "number", "to"),
    ],
)
def test_what_a_column_would_be_and_why(values, kind, why):
    found = found_column("c", np.asarray(values))
    assert found.kind == kind
    assert why in found.why


def test_missing_values_are_counted():
    assert found_column("c", np.array(["a", "b", "", "nan"] * 20)).missing == 40
    assert found_column("c", np.array([1.0, np.nan, 2.5])).missing == 1


def test_every_file_is_decoded_and_what_is_wrong_with_it_is_said(tmp_path):
    for k, size in enumerate([(40, 50)] * 18 + [(200, 20)]):
        Image.fromarray(np.full((*size, 3), 9 * k, np.uint8)).save(tmp_path / f"{k:02d}.png")
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(tmp_path / "grey.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    files, names = image_files(tmp_path)
    seen = []
    with watched_by(lambda what, total: lambda done: seen.append((what, done, total))):
        found = scan(files, names, DataConfig(source="x"))
    assert {name for name, _ in found.unreadable} == {"broken.jpg", "empty.png"}
    assert all(reason for _, reason in found.unreadable)
    assert found.odd == ["18.png"]
    assert not found.uniform
    assert (suggested_side(sizes_of_some(files)), found.suggested_channels()) == (32, "rgb")
    assert seen == [("decoding", len(files), len(files))]  # a task of a thread has more files
    assert json.dumps(found.numbers())


def test_pictures_of_one_size_and_kind_stay_as_they_are(tmp_path):
    for k in range(3):
        Image.fromarray(np.full((40, 50), 9 * k, np.uint8)).save(tmp_path / f"{k}.png")
    files, names = image_files(tmp_path)
    found = scan(files, names, DataConfig(source="x"))
    assert found.uniform
    assert (suggested_side(sizes_of_some(files)), found.suggested_channels()) == (None, None)


def test_the_numbers_are_plain_data():
    found = inspect_data(Dataset("x", scenes(6)[[0, 1, 1, 2, 3, 4]], mode="RGB", columns={"age": np.arange(6) / 3}))
    content = json.loads(json.dumps(found.numbers()))
    assert content["near_duplicates"] == [["data:1", "data:2"]]
    assert content["examples"] == 6
    assert content["columns"][0]["kind"] == "number"


def test_the_range_of_the_data_is_found_once_however_many_pictures_there_are(monkeypatch):
    calls = []
    monkeypatch.setattr(duplicates, "found_range", lambda *given: calls.append(0) or found_range(*given))
    for n in (10, 600):
        calls.clear()
        inspect_data(Dataset("x", scenes(n, 1, 16), mode="L"))
        assert len(calls) == 2  # of what is judged, and of what is compared


def test_numbers_that_are_not_finite_are_found_and_join_nothing():
    values = np.random.default_rng(0).normal(size=(30, 2, 20)).astype(np.float32)
    values[4, 0, 3], values[9] = np.nan, np.inf
    values[20] = values[11]
    found = inspect_data(Dataset("x", values))
    assert {name: rows.tolist() for name, rows in found.quality.items()} == {"not finite": [4, 9]}
    assert [c.tolist() for c in found.duplicates.exact] == [[11, 20]]
    assert found.duplicates.near == ()
