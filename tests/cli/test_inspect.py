"""The command that looks at data before training."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.data.test_duplicates import scenes


def folder(path, n=12):
    for k, values in enumerate(scenes(n)):
        place = path / "ab"[k % 2] / f"{k:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.moveaxis(values, 0, -1)).save(place)
    return path


def contents(path):
    return {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}


def test_a_folder_is_looked_at_and_nothing_of_it_is_changed(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = folder(tmp_path / "photos")
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(data / "a" / "other.png")
    (data / "b" / "broken.png").write_bytes(b"no")
    Image.open(data / "a" / "00.png").save(data / "a" / "again.jpg", quality=80)
    before = contents(data)
    code, out = run("inspect", str(data))
    assert code == 0, out
    assert contents(data) == before
    assert "broken.png" in out
    assert "a/00.png = a/again.jpg" in out
    assert "classes      2: a 8, b 6" in out
    assert f"next: undiffuse train {data} --size 32 --channels rgb" in out.replace("\n", " ")
    content = json.loads((tmp_path / "inspected/photos/inspection.json").read_text())
    assert content["files"]["sizes"] == {"48x48": 13, "20x30": 1}
    with Image.open(tmp_path / "inspected/photos/inspection.png") as page:
        assert page.width > 1000


def test_arrays_and_digits_are_looked_at_too(run, tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32))
    for source in ("digits", str(tmp_path / "a.npy")):
        code, out = run("inspect", source, "--out", str(tmp_path / "found"), "--json")
        assert code == 0, out
        assert json.loads(out)["examples"] in (30, 1797)


def test_what_is_no_data_is_one_sentence(run, tmp_path):
    assert "there is no data" in run("inspect", str(tmp_path / "none"))[1]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"")
    code, err = run("inspect", str(tmp_path / "bad"))
    assert code == 2
    assert "none of the 1 images" in err


def test_the_command_reads_the_data_as_it_was_looked_at(run, tmp_path):
    data = folder(tmp_path / "photos")
    names = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.png"))
    (tmp_path / "t.csv").write_text("file,age\n" + "\n".join(f"{name},{k}" for k, name in enumerate(names)))
    options = ("--size", "24x16", "--fit", "pad", "--channels", "grey", "--table", str(tmp_path / "t.csv"))
    code, out = run("inspect", str(data), "--out", str(tmp_path / "found"), *options)
    assert code == 0, out
    assert out.splitlines()[-1] == f"next: undiffuse train {data} {' '.join(options)}"
    assert "column       age: " in out


def test_data_that_training_refuses_is_looked_at_all_the_same(run, tmp_path):
    values = np.zeros((20, 30), np.float32)
    for name, bad, words in (("infinite", np.inf, "NaN or infinite"), ("same", 0, "same value everywhere")):
        values[3] = bad
        np.save(tmp_path / f"{name}.npy", values)
        code, out = run("inspect", str(tmp_path / f"{name}.npy"), "--out", str(tmp_path / name))
        assert code == 0, out
        assert words in out
        assert not (tmp_path / name / "inspection.png").exists()
        assert json.loads((tmp_path / name / "inspection.json").read_text())["examples"] == 20


def test_a_size_is_suggested_although_the_headers_looked_into_are_alike(run, tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.data.inspection.files.LOOKED_INTO", 5)
    (tmp_path / "data").mkdir()
    for k in range(40):
        side = 40 if k == 3 else 32  # the fourth lies between those that are looked into
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (side, side), np.uint8)).save(
            tmp_path / "data" / f"{k:02d}.png"
        )
    code, out = run("inspect", "data")
    assert code == 0, out
    assert "--size 32" in out
    assert "refuses" not in out


def test_what_reading_changes_is_shown_before_and_after(run, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("undiffuse.pictures.inspection.draw_inspection", lambda page, path: shown.append(page))
    folder(tmp_path / "same")
    assert run("inspect", "same")[0] == 0
    assert not [heading for heading, _ in shown[0].rows if "in the file" in heading]
    for k in range(8):  # black on the left, white on the right, and a quarter of each side is cut away
        wide = np.repeat((np.arange(80) >= 40).astype(np.uint8) * 255, 40).reshape(80, 40).T
        (tmp_path / "wide").mkdir(exist_ok=True)
        Image.fromarray(np.roll(wide, 2 * k, 1)).save(tmp_path / "wide" / f"{k}.png")
    assert run("inspect", "wide", "--size", "32")[0] == 0
    ((_, pairs),) = [row for row in shown[1].rows if "in the file" in row[0]]
    assert len(pairs) == 8
    before, after = ((picture < 128).all(2).any(1).nonzero()[0] for picture in pairs[0])
    assert len(after) == pytest.approx(2 * len(before), abs=2)  # twice as high, for its width
