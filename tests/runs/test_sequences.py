"""Sequences of unequal length: padded, told where they end, and sampled with ends of their own."""

from __future__ import annotations

import contextlib
import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import torch

import undiffuse
from tests.commands import exit_code
from undiffuse.conditioning.known import KNOWN
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import DataConfig
from undiffuse.data.items import as_dataset
from undiffuse.data.sources import open_data, with_settings
from undiffuse.errors import UsageError

TINY = {"network.width": 8, "network.multipliers": [1, 2], "network.depth": 1, "network.groups": 4}
LENGTHS = [5, 9, 12, 9, 7, 12, 20, 6, 8, 10] * 3


def waves(channels: int = 0, dtype=np.float32, last: bool = True) -> list[np.ndarray]:
    """One for each of LENGTHS, of one axis, or of `channels` channels before or after it."""
    draws = np.random.default_rng(0)
    made = [draws.normal(size=(channels or 1, n)) * 50 for n in LENGTHS]
    return [(each[0] if not channels else each if last else each.T).astype(dtype) for each in made]


def opened(items) -> undiffuse.data.dataset.Dataset:
    return with_settings(as_dataset(items), DataConfig(source="python:list"))


def trained(folder, items, **how):
    how = {"steps": 2, "batch_size": 8, "network": "unet", "settings": TINY} | how
    return undiffuse.train(items, name="r", runs=folder, preview_every=1e6, checkpoint_every=1e6, **how)


@pytest.mark.parametrize("channels", [0, 2])
@pytest.mark.parametrize("last", [True, False])
def test_lists_of_unequal_length_are_padded_and_known_to_their_ends(channels, last):
    items = waves(channels, last=last)
    data = opened(items)
    assert data.shape == (channels or 1, 20)
    assert data.padded
    assert data.columns["length"].tolist() == LENGTHS
    for row, (item, n) in enumerate(zip(items, LENGTHS, strict=True)):
        first = item if last or not channels else item.T
        assert np.array_equal(data.values[row, :, :n], first.reshape(channels or 1, n))
        assert data.known[row, 0].tolist() == [True] * n + [False] * (20 - n)
    assert any("27 of 30 examples are shorter than the longest" in note for note in data.notes)


def test_lists_of_one_length_are_complete():
    assert opened(waves(2)[:1] * 3).known is None


def test_holes_inside_sequences_are_holes_too():
    items = waves()
    items[0][2] = np.nan
    data = opened(items)
    assert data.known[0, 0, :6].tolist() == [True, True, False, True, True, False]


def test_a_folder_of_arrays_of_unequal_length(tmp_path):
    for k, item in enumerate(waves(2)):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        np.save(tmp_path / "ab"[k % 2] / f"{k:02d}.npy", item)
    data = open_data(DataConfig(source=str(tmp_path)))
    order = [int(name[2:4]) for name in data.columns["file"]]
    assert data.columns["length"].tolist() == [LENGTHS[k] for k in order]
    assert data.classes == ("a", "b")
    assert (data.file_format.kind, data.shape) == ("npy", (2, 20))
    np.save(tmp_path / "a" / "odd.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(UsageError, match="bring all of"):
        open_data(DataConfig(source=str(tmp_path)))


def test_pictures_of_unequal_width_are_no_sequences():
    with pytest.raises(UsageError, match="make all items alike"):
        as_dataset([torch.rand(1, 4, 4), torch.rand(1, 4, 5)])
    with pytest.raises(UsageError, match="make all items alike"):
        as_dataset([np.zeros((2, 4)), np.zeros((3, 5))])
    with pytest.raises(UsageError, match="is L, their length"):
        as_dataset(waves(2), layout="NLC")


def test_recordings_that_differ_much_are_padded(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    for k, n in enumerate((100, 400, 300, 50)):
        soundfile.write(tmp_path / f"{k}.wav", np.full((n, 2), 0.25 * k), 8000, subtype="PCM_16")
    data = open_data(DataConfig(source=str(tmp_path)))
    assert data.columns["length"].tolist() == [100, 400, 300, 50]
    assert data.known.sum((1, 2)).tolist() == [100, 400, 300, 50]
    assert data.values[2, :, :300].min() == data.values[2, :, :300].max() == 16384


def test_what_is_beyond_the_end_reaches_nothing(tmp_path):
    data = opened(waves())
    weights = []
    for k, hidden in enumerate((0.0, 1e6)):
        values = np.where(data.known, data.values, np.float32(hidden))
        trained(tmp_path / str(k), replace(data, values=values))
        weights.append(undiffuse.load(tmp_path / str(k) / "r").denoiser.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(each.values() for each in weights), strict=True))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"), waves())


def test_length_is_a_condition_and_samples_end_there(model):
    assert model.config.conditions["length"].kind == "number"
    samples = model.sample(4, {"length": [3, 20, 1, 11]}, steps=2)
    assert (~samples.isnan()).sum((1, 2)).tolist() == [3, 20, 1, 11]
    for length in (0, 21, 2.5):
        with pytest.raises(UsageError, match="sequences have 1 to 20 positions"):
            model.sample(1, {"length": length})


def test_lengths_are_drawn_as_the_data_has_them(model):
    known = model.denoiser.conditions.known
    drawn = np.array(model.with_lengths({}, 0, torch.arange(4000))["length"])
    assert set(drawn.tolist()) <= set(range(5, 21))
    trained_on = np.array(known.config.lengths)
    assert (drawn.min(), drawn.max()) == (trained_on.min(), trained_on.max())
    for share in (0.25, 0.5, 0.75):  # a quantile of n draws is off by 1/(2 sqrt(n)) of the share: here 3 of 4000, 0.024
        low, high = np.quantile(trained_on, [share - 0.034, share + 0.034])
        assert low <= np.quantile(drawn, share) <= high
    alone = model.sample(1, first=3, steps=2)
    assert torch.equal(model.sample(4, steps=2)[3:].nan_to_num(7), alone.nan_to_num(7))


def test_beyond_the_end_the_network_sees_in_sampling_what_it_saw_in_training(model):
    """x̂ is 0 there, so x_t is noise alone."""
    steps = list(model.trajectory(2, {"length": [6, 20]}, steps=3))
    assert all(not step.x0[0, :, 6:].any() for step in steps)
    assert all(step.x0[1].all() for step in steps)


def test_whole_numbers_end_in_zeros(tmp_path):
    model = trained(tmp_path, [np.abs(item).astype(np.uint8) + 1 for item in waves()])
    samples = model.sample(2, {"length": 4}, steps=2)
    assert not samples[:, :, 4:].any()


def test_without_the_condition_samples_are_of_the_longest_length(tmp_path):
    model = trained(tmp_path, waves(), conditions={})
    assert model.config.conditions[KNOWN].length is None
    assert not model.sample(2, steps=2).isnan().any()
    with pytest.raises(UsageError, match="no condition 'length'"):
        model.sample(1, {"length": 3})


def test_another_name_for_the_length_is_the_length(tmp_path):
    model = trained(tmp_path, waves(), conditions={"frames": Condition(kind="number", column="length")})
    assert (~model.sample(2, {"frames": 7}, steps=2).isnan()).sum((1, 2)).tolist() == [7, 7]


def test_files_of_samples_end_where_they_end(tmp_path):
    (tmp_path / "walks").mkdir()
    for k, item in enumerate(waves(2)):
        np.save(tmp_path / "walks" / f"{k:02d}.npy", item)
    out = io.StringIO()
    settings = [f"--set={name}={value}" for name, value in TINY.items()]
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        train = ("train", "walks", "--network", "unet", "--train-steps", "2", "--batch-size", "8", *settings)
        assert exit_code(*train) == 0, out.getvalue()
        assert exit_code("sample", "runs/walks", "-n", "5", "--steps", "2", "--out", "drawn") == 0, out.getvalue()
        asked = ("sample", "runs/walks", "-n", "2", "--number", "length=4", "--steps", "2", "--out", "asked")
        assert exit_code(*asked) == 0, out.getvalue()
    rows = list(csv.DictReader((tmp_path / "drawn/samples.csv").open()))
    whole = np.load(tmp_path / "drawn/samples.npy")
    for row, values in zip(rows, whole, strict=True):
        content = np.load(tmp_path / "drawn" / row["file"])
        assert content.shape == (2, int(row["length"]))
        assert np.array_equal(content, values[:, : int(row["length"])])
    assert np.load(tmp_path / "asked/files/00001.npy").shape == (2, 4)
