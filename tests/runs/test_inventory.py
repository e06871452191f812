"""A run whose data has changed says what changed, by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.runs.inventory import INVENTORY, Inventory

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 256, (12, 1, 6, 6)).astype(np.uint8)
NAMES = np.array([f"{k}.png" for k in range(12)])
LABELS = np.arange(12) % 3
DATA = Dataset("x", VALUES, LABELS, ("a", "b", "c"), columns={"file": NAMES, "age": np.arange(12) / 2})
ROWS = replace(DATA, columns={"age": np.arange(12) / 2})


def said(before, after):
    return Inventory.of(before, 5).changes(Inventory.of(after, 5))


def with_values(data, row, value):
    values = data.values.copy()
    values[row] = value
    return replace(data, values=values)


CHANGES = {
    "gone": (DATA, DATA[np.delete(np.arange(12), 4)], "4.png is gone"),
    "new": (DATA[np.arange(10)], DATA, "10.png, 11.png are new"),
    "content": (DATA, with_values(DATA, 3, 7), "3.png is of another content"),
    "all": (
        DATA[np.arange(11)],
        with_values(DATA, 3, 7)[np.delete(np.arange(12), 4)],
        "4.png is gone, 11.png is new, 3.png is of another content",
    ),
    "row": (ROWS, with_values(ROWS, 3, 7), "data:3 has other values"),
    "rows gone": (ROWS, ROWS[np.arange(9)], "3 examples are gone"),
    "rows new": (ROWS[np.arange(9)], ROWS, "3 examples are new"),
    "order": (ROWS, ROWS[np.r_[1, 0, 2:12]], "the examples are in another order"),
    "labels": (DATA, replace(DATA, labels=np.roll(LABELS, 1)), "other values of class"),
    "classes": (DATA, replace(DATA, classes=("a", "b", "d")), "other values of class"),
    "column": (DATA, replace(DATA, columns={"file": NAMES, "age": np.arange(12) / 3}), "other values of age"),
    "new column": (ROWS, replace(ROWS, columns={**ROWS.columns, "b": NAMES}), "other values of b"),
    "nothing": (DATA, DATA, ""),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_is_said(name):
    before, after, text = CHANGES[name]
    assert said(before, after) == text


def test_it_is_written_and_read_again(tmp_path):
    written = Inventory.of(DATA, 5)
    written.write(tmp_path)
    found = Inventory.read(tmp_path)
    assert np.array_equal(found.keys, written.keys)
    assert (found.seed, found.names, found.columns) == (written.seed, written.names, written.columns)
    content = (tmp_path / INVENTORY).read_bytes()
    for damaged in (b"", b"x", content[: len(content) // 2]):
        (tmp_path / INVENTORY).write_bytes(damaged)
        assert Inventory.read(tmp_path) is None
    (tmp_path / INVENTORY).unlink()
    assert Inventory.read(tmp_path) is None


@pytest.mark.parametrize("group", [None, "class"])
def test_a_run_on_changed_data_is_refused_with_what_changed(tmp_path, group):
    for k, name in enumerate(NAMES):
        (tmp_path / "data" / "abc"[k % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(VALUES[k, 0]).save(tmp_path / "data" / "abc"[k % 3] / name)

    def train(steps, **options):
        undiffuse.train(
            tmp_path / "data",
            runs=tmp_path,
            name="run",
            steps=steps,
            batch_size=4,
            group=group,
            held_out=2,
            settings=TINY_SETTINGS,
            **options,
        )

    train(2)
    (tmp_path / "data" / "a" / "0.png").unlink()
    Image.fromarray(VALUES[0, 0]).save(tmp_path / "data" / "b" / "again.png")
    with pytest.raises(
        UsageError, match=r"the data has changed: the same number.*: a/0\.png is gone, b/again\.png is new\)"
    ):
        train(3)
    train(3, change_settings=True)
    Image.fromarray(VALUES[0, 0]).save(tmp_path / "data" / "b" / "third.png")
    with pytest.raises(UsageError, match=r"the data has changed: 12 examples then, 13 now: b/third\.png is new\)"):
        train(4)
