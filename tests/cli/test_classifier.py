"""What commands say of reading data, and that they read other data as the run's was read."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from undiffuse.runs import examples

RNG = np.random.default_rng(0)
SIGNALS = (
    "--train-steps",
    "2",
    "--batch-size",
    "4",
    "--set",
    "network.width=8",
    "--set",
    "network.groups=4",
    "--set",
    "network.multipliers=[1,2]",
)


def trained(run, *arguments):
    code, text = run("train", *arguments, *SIGNALS)
    assert code == 0, text
    return text


def test_likelihood_reads_other_arrays_with_the_layout_of_the_run(run, tmp_path):
    np.save(tmp_path / "a.npy", RNG.normal(size=(12, 1, 24)))
    np.save(tmp_path / "b.npy", RNG.normal(size=(5, 1, 24)))
    trained(run, "a.npy", "--layout", "NCL")
    for data, words in (("b.npy", "5 examples of b"), ("a.npy", "12 examples of a")):
        code, text = run("likelihood", "runs/a", data, "--method", "continuous", "--steps", "2")
        assert code == 0, text
        assert words in text
    assert "was trained on a.npy" in text


def test_a_run_of_a_table_judges_another_table(run, tmp_path):
    for name, n in (("one", 12), ("two", 5)):
        lines = ["file,class"]
        for k in range(n):
            Image.fromarray(RNG.integers(0, 256, (9 + k, 10, 3), dtype=np.uint8)).save(tmp_path / f"{name}-{k}.png")
            lines.append(f"{name}-{k}.png,{'ab'[k % 2]}")
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
    frames = [Image.fromarray(RNG.integers(0, 256, (9, 10, 3), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "two-0.png", save_all=True, append_images=frames[1:])
    trained(run, "one.csv", "--size", "8", "--channels", "grey", "--class", "class")
    code, text = run("likelihood", "runs/one", "two.csv", "--method", "continuous", "--steps", "2")
    assert code == 0, text
    assert "5 examples of two with their classes" in text
    assert "the first is used (two-0.png (3))" in " ".join(text.split())


def test_data_is_opened_once_for_all_that_is_named_of_it(run, tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", RNG.integers(0, 256, (12, 8, 8), dtype=np.uint8))
    trained(run, "a.npy")
    opened, open_data = [], examples.open_data
    monkeypatch.setattr(examples, "open_data", lambda config: opened.append(config) or open_data(config))
    code, text = run("reconstruct", "runs/a", "data:0", "data:11", "data:3", "--steps", "2")
    assert code == 0, text
    assert len(opened) == 1
    code, text = run("reconstruct", "runs/a", "data:0", "data:12", "--steps", "2")
    assert (code, "data:0 to data:11" in text) == (2, True)


def test_the_range_is_said_asked_for_and_kept_when_the_run_goes_on(run, tmp_path):
    np.save(tmp_path / "masks.npy", RNG.random((12, 8, 8)) > 0.5)
    text = trained(run, "masks.npy")
    said = " ".join(text.split())
    assert "note: true and false are read as 1 and 0, and samples are uint8" in said
    assert "values reach" not in said
    assert "already trained" in trained(run, "masks.npy")
    code, text = run("train", "masks.npy", *SIGNALS, "--train-steps", "3")
    assert (code, "resumed; trained 3 steps" in " ".join(text.split())) == (0, True)
    text = trained(run, "masks.npy", "--range", "0,255", "--name", "wide")
    assert "--range" not in text
    stored = {
        name: json.loads((tmp_path / "runs" / name / "config.json").read_text())["data"]["range"]
        for name in ("masks", "wide")
    }
    assert stored == {"masks": None, "wide": [0.0, 255.0]}
    code, text = run("sample", "runs/masks", "-n", "4", "--steps", "2", "--out", "s")
    assert code == 0, text
    assert set(np.unique(np.load(tmp_path / "s" / "samples.npy"))) <= {0, 1}
    for wrong in ("255", "9,3", "a,b", "0,inf"):
        code, text = run("train", "masks.npy", "--range", wrong)
        assert (code, "takes the lowest and the highest value" in text) == (2, True)


def test_large_images_are_opened_where_the_option_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    (tmp_path / "D").mkdir()
    for k in range(8):
        Image.fromarray(RNG.integers(0, 256, (60, 60), dtype=np.uint8)).save(tmp_path / "D" / f"{k}.png")
    code, text = run("train", "D", "--size", "8", *SIGNALS)
    assert code == 2
    assert "--max-pixels" in text
    trained(run, "D", "--size", "8", "--max-pixels", "10000")
    assert "already trained" in trained(
        run, "D", "--size", "8", "--max-pixels", "20000"
    )  # what may be opened is no part of a run


@pytest.mark.parametrize("offset", [0.0, 1.7e9])
def test_values_far_from_zero_are_edited_as_those_near_it(run, tmp_path, offset):
    """A model in units of the deviation knows nothing of the offset, so neither do its answers."""
    values = np.random.default_rng(1).normal(size=(12, 1, 24))
    np.save(tmp_path / "a.npy", values + offset)
    trained(run, "a.npy", "--layout", "NCL")
    np.save(tmp_path / "one.npy", values[3] + offset)
    for name, arguments in (
        ("r", ("reconstruct", "runs/a", "one.npy", "--strength", "0.01")),
        ("s", ("sample", "runs/a", "-n", "2")),
    ):
        code, text = run(*arguments, "--steps", "8", "--out", name)
        assert code == 0, text
    (path,) = (tmp_path / "r").glob("*.npy")
    back = np.load(path)
    assert back.dtype == (np.float64 if offset else np.float32)
    assert np.abs(back[0] - offset - values[3]).max() < 0.5
    assert np.load(tmp_path / "s" / "samples.npy").std() > 0.1
