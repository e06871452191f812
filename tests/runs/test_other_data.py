"""A run folder and data that has changed: what is refused, what goes on, and that held-out examples stay so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.data.config import DataConfig
from undiffuse.errors import UsageError
from undiffuse.runs.data import run_data
from undiffuse.runs.prepare import prepare

RNG = np.random.default_rng(0)
VALUES, LABELS = RNG.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3
NUMBERS = RNG.normal(10, 2, 60)


def run(folder, values=VALUES, labels=LABELS, steps=2, override=False, numbers=None, **config):
    columns = {} if labels is None else {"labels": labels}
    np.savez(folder / "d.npz", images=values, **columns | ({} if numbers is None else {"age": numbers}))
    conditions = None if numbers is None else {"age": undiffuse.Condition(kind="number")}
    plan = prepare(
        DataConfig(source=str(folder / "d.npz"), **config),
        folder / "r",
        override=override,
        conditions=conditions,
        settings=TINY_SETTINGS | {"training.steps": steps, "training.batch_size": 8},
    )
    return plan.run()


def trained(folder, **more):
    work = run(folder, **more)
    for _ in work.updates():
        pass
    return work


def all_of(data):
    return {example.tobytes() for example in data.values}


def everything(folder):
    return {path: path.read_bytes() for path in (folder / "r").rglob("*") if path.is_file()}


def test_changed_data_is_told_with_how_many_examples_there_are(tmp_path):
    trained(tmp_path)
    with pytest.raises(UsageError, match=r"the data has changed: 60 examples then, 59 now.*`change_settings`"):
        run(tmp_path, VALUES[1:], LABELS[1:])
    with pytest.raises(
        UsageError, match=r"the data has changed: the same number of examples, 60, with other values.*`change_settings`"
    ):
        run(tmp_path, VALUES[::-1], LABELS)


@pytest.mark.parametrize("change", ["lost", "gained", "another order", "another seed"])
def test_with_override_nothing_that_was_trained_on_is_held_out(tmp_path, change):
    first = trained(tmp_path)
    lost = int(run_data(tmp_path / "r").held_out[0])
    rows = {"lost": np.delete(np.arange(60), lost), "another order": RNG.permutation(60)}.get(change, np.arange(60))
    values, labels = VALUES[rows], LABELS[rows]
    if change == "gained":
        values, labels = (
            np.concatenate([values, RNG.integers(0, 256, (30, 8, 8), dtype=np.uint8)]),
            np.concatenate([labels, np.arange(30) % 3]),
        )
    settings = {"training.seed": 5} if change == "another seed" else {}
    np.savez(tmp_path / "d.npz", images=values, labels=labels)
    plan = prepare(
        DataConfig(source=str(tmp_path / "d.npz")),
        tmp_path / "r",
        override=True,
        settings=TINY_SETTINGS | {"training.steps": 4, "training.batch_size": 8} | settings,
    )
    second = plan.run()
    assert [update.step for update in second.updates()] == [3, 4]
    assert not all_of(second.held_out) & all_of(first.training_data)
    assert not all_of(second.training_data) & all_of(first.held_out)
    known = run_data(tmp_path / "r")
    assert all_of(known.data[known.held_out]) == all_of(second.held_out)
    assert (
        all_of(second.held_out) == all_of(first.held_out) - ({VALUES[lost].tobytes()} if change == "lost" else set())
        or change == "gained"
    )


def test_a_column_that_is_missing_is_told_before_what_else_differs(tmp_path):
    trained(tmp_path, numbers=NUMBERS)
    with pytest.raises(UsageError, match="number 'height': the data has no column 'height': its columns are age"):
        prepare(
            DataConfig(source=str(tmp_path / "d.npz")),
            tmp_path / "r",
            conditions={"height": undiffuse.Condition(kind="number")},
        )


def test_a_range_stays_the_one_that_the_network_learned(tmp_path):
    work = trained(tmp_path, values=VALUES % 17)
    assert any("are read as 0 to 16; `range`" in note for note in work.prepared.data.notes)
    assert not any(
        "range" in note
        for note in run(tmp_path, values=VALUES[:50] % 17, labels=LABELS[:50], override=True).prepared.data.notes
    )
    for asked in ({}, {"range": (0.0, 255.0)}):
        with pytest.raises(UsageError, match=r"this run keeps 0 to 16: choose another `name` to read 0 to 255\.$"):
            run(tmp_path, override=True, **asked)
    with pytest.raises(UsageError, match=r"this run keeps 0 to 16, .*leave `range` out"):
        run(tmp_path, values=VALUES % 17, override=True, range=(0.0, 255.0))


def test_a_share_to_hold_out_cannot_change_any_more(tmp_path):
    trained(tmp_path)
    with pytest.raises(
        UsageError,
        match=r"data.held_out: 0.1 there, 0.5 now\), and data.held_out cannot change later.*choose another `name`\.$",
    ):
        run(tmp_path, held_out=0.5, override=True)


@pytest.mark.parametrize("names", [[0, 1, 2, 3], [0, 1, 3]])
def test_a_class_that_the_network_does_not_know_is_refused_and_nothing_is_written(tmp_path, names):
    """Also where another is gone, so that the number of classes is the same and no shape tells."""
    trained(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(UsageError, match=r"class '3', which the network in .* does not know.*`start`"):
        trained(tmp_path, labels=np.array(names)[np.arange(60) % len(names)], override=True)
    assert everything(tmp_path) == before
    trained(tmp_path, steps=3)  # the old data is still what the run is of


def test_a_class_that_is_gone_stays_in_the_network(tmp_path):
    trained(tmp_path)
    work = trained(tmp_path, labels=LABELS % 2, steps=3, override=True)
    assert work.model.classes == ("0", "1", "2")
    assert undiffuse.load(tmp_path / "r").sample(1, {"class": "2"}).shape == (1, 1, 8, 8)


def test_scales_stay_those_that_the_network_learned(tmp_path):
    first = trained(tmp_path, values=VALUES / 100.0, labels=None, numbers=NUMBERS).model.config
    now = trained(
        tmp_path, values=VALUES[:50] / 100.0 + 0.5, labels=None, numbers=NUMBERS[:50] + 1, steps=3, override=True
    )
    assert now.model.config.codec == first.codec
    assert now.model.config.conditions == first.conditions
    x = now.loader(0)[0]
    torch.testing.assert_close(
        now.model.codec.decode(x).amax(), torch.tensor(first.codec.high[0])
    )  # the old range clips
    with pytest.raises(UsageError, match="shape"):
        run(tmp_path, values=VALUES[:, :4] / 100.0, labels=None, numbers=NUMBERS, override=True)


def test_a_run_of_before_says_that_its_held_out_examples_are_not_safe(tmp_path):
    trained(tmp_path)
    path = tmp_path / "r/config.json"
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("split", "examples")}
    path.write_text(json.dumps(old))
    same = run(tmp_path, steps=4)
    assert same.config.split is None
    assert all_of(same.held_out) == all_of(replace(same.training_data, values=VALUES[:, None][_old_rows()]))
    assert "by their rows" not in " ".join(same.prepared.data.notes)
    changed = run(tmp_path, VALUES[1:], LABELS[1:], steps=4, override=True)
    assert any("by their rows" in note and "may have learned" in note for note in changed.prepared.data.notes)


def _old_rows():
    return np.sort(np.random.Generator(np.random.Philox(0)).permutation(60)[:6])


def test_copies_are_told_and_stay_on_one_side(tmp_path):
    work = run(tmp_path, np.concatenate([VALUES, VALUES]), np.concatenate([LABELS, LABELS]))
    assert any("120 examples hold 60 copies" in note for note in work.prepared.data.notes)
    assert len(work.held_out) == 12
    assert not all_of(work.training_data) & all_of(work.held_out)


def test_no_class_is_held_out_whole(tmp_path):
    labels = np.concatenate([np.arange(20), np.full(40, 20)])
    work = run(tmp_path, labels=labels, held_out=0.5)
    assert set(work.training_data.labels.tolist()) == set(range(21))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("value", [0, 7])
def test_values_that_are_all_equal_are_refused_whatever_their_type(tmp_path, dtype, value):
    with pytest.raises(UsageError, match=f"every value of the data is {value}"):
        run(tmp_path, np.full((12, 8, 8), value, dtype=dtype), None)


def bursts(folder, n=12, frames=4):
    """Pictures in bursts: each frame of one is cropped a little differently."""
    rng = np.random.default_rng(0)
    for k in range(n):
        scene = (128 + 60 * gaussian_filter(rng.normal(size=(40, 40, 3)), (3, 3, 0)) / 0.09).clip(0, 255)
        for frame in range(frames):
            top, left = rng.integers(0, 2, 2)
            crop = scene[top : top + 39, left : left + 39].astype(np.uint8)
            folder.mkdir(exist_ok=True)
            Image.fromarray(crop).save(folder / f"{k:02d}-{frame}.png")


def test_frames_of_a_burst_are_never_on_both_sides(tmp_path):
    bursts(tmp_path / "frames")
    plan = prepare(
        DataConfig(source=str(tmp_path / "frames"), held_out=0.3, size=(16, 16)),
        tmp_path / "run",
        settings=TINY_SETTINGS | {"training.steps": 1},
    )
    names = plan.data.columns["file"]
    held_out, training = (
        {name[:2] for name in names[rows]} for rows in (plan.prepared.held_out, plan.prepared.training)
    )
    assert held_out
    assert not held_out & training
    assert any("48 examples are near-duplicates" in note for note in plan.data.notes)


def test_a_column_keeps_its_values_together(tmp_path):
    bursts(tmp_path / "frames", frames=2)
    names = sorted(path.name for path in (tmp_path / "frames").iterdir())
    (tmp_path / "t.csv").write_text("file,patient\n" + "\n".join(f"{name},{int(name[:2]) // 3}" for name in names))
    data = DataConfig(source=str(tmp_path / "frames"), table=str(tmp_path / "t.csv"), group="patient", held_out=0.25)
    plan = prepare(data, tmp_path / "run", settings=TINY_SETTINGS | {"training.steps": 1})
    patients = plan.data.columns["patient"]
    assert len(set(patients[plan.prepared.held_out])) == 1
    assert not set(patients[plan.prepared.held_out]) & set(patients[plan.prepared.training])
    with pytest.raises(UsageError, match="no column 'doctor' to group by: the columns of the data are file, patient"):
        prepare(
            data.model_copy(update={"group": "doctor"}),
            tmp_path / "other",
            settings=TINY_SETTINGS | {"training.steps": 1},
        )
