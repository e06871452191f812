"""Ranges of integers: found from the values by the rule of ranges.py, said, replaced by a setting, and kept by what was trained."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from undiffuse.conditioning.base import Note
from undiffuse.conditioning.columns import encode_columns, fit_conditions
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.spec import Condition
from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.examples import read_examples
from undiffuse.data.pixels import ImageOptions, read_image
from undiffuse.data.resizing import resized
from undiffuse.data.sources import open_data, open_digits
from undiffuse.errors import UsageError
from undiffuse.pictures.images import save_image
from undiffuse.process.likelihood.bound import Bins
from undiffuse.process.posteriors import Transition
from undiffuse.runs.codecs import refuse_outside
from undiffuse.runs.prepare import prepare

RNG = np.random.default_rng(0)
SMALL = {
    "network.width": 8,
    "network.multipliers": [1, 2],
    "network.groups": 4,
    "training.steps": 2,
    "training.batch_size": 4,
}


def integers(highest, dtype=np.uint8, n=20, **options):
    values = RNG.integers(0, highest + 1, (n, 8, 8), **options).astype(dtype)
    values.flat[0] = highest
    return values


KINDS = {
    "boolean masks": (integers(1, bool), (0, 1)),
    "masks of 0 and 1": (integers(1), (0, 1)),
    "label maps": (integers(20), (0, 20)),
    "digits": (integers(16), (0, 16)),
    "digits as uint16": (integers(16, np.uint16), (0, 16)),
    "scans of 12 bits": (integers(4095, np.uint16), (0, 4095)),
    "dim scans of 12 bits": (integers(2500, np.uint16), (0, 4095)),
    "scans of 10 bits": (integers(1000, np.uint16), (0, 1023)),
    "satellite": (integers(5700, np.uint16), (0, 16383)),
    "16 bits": (integers(50000, np.uint16), (0, 65535)),
    "photos": (integers(255), (0, 255)),
    "photos, nothing white": (integers(250), (0, 255)),
    "dark photos": (np.minimum(RNG.exponential(9, (20, 8, 8)), 70).astype(np.uint8), (0, 255)),
    "very dark photos": (integers(32), (0, 255)),
    "label maps of many": (integers(150), (0, 255)),
    "other integers": (
        np.append(integers(3000, np.int16) - 1024, np.full((1, 8, 8), -1024, np.int16), 0),
        (-1024, 1976),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_rule(kind, tmp_path):
    values, (low, high) = KINDS[kind]
    np.save(tmp_path / "a.npy", values)
    data = open_data(DataConfig(source=str(tmp_path / "a.npy")))
    config = fitted_codec(data)
    assert (config.low, config.high, config.bins) == ((low,), (high,), high - low + 1)
    codec = Codec(config)
    x = codec.encode(data.values)
    assert np.array_equal(codec.decode(x).numpy(), data.values)
    # the network sees numbers of order one, not of 1/255: but for what may be photographs
    assert "photos" in kind or x.std() > 0.05


@pytest.mark.parametrize(
    "kind", ["masks of 0 and 1", "scans of 12 bits", "very dark photos", "other integers", "photos"]
)
def test_what_was_decided_is_said_and_a_setting_replaces_it(kind, tmp_path):
    values, (low, high) = KINDS[kind]
    np.save(tmp_path / "a.npy", values)

    def planned(**options):
        config = DataConfig(source=str(tmp_path / "a.npy"), **options)
        return prepare(config, tmp_path / "run", settings=SMALL)

    said = [note for note in planned().data.notes if "`range`" in note]
    assert len(said) == (kind != "photos")
    if said:
        assert f"{low} to {high}" in said[0]
    chosen = planned(range=(-2000.0, 60000.0))
    assert (chosen.codec.low, chosen.codec.high) == ((-2000.0,), (60000.0,))
    assert not [note for note in chosen.data.notes if "`range`" in note]
    with pytest.raises(UsageError, match=r"beyond the range 0,0\.5"):
        planned(range=(0.0, 0.5))


def test_the_range_of_images_in_files_is_found_too(tmp_path):
    for k in range(3):
        Image.fromarray(integers(1)[0]).save(tmp_path / f"{k}.png")
    assert fitted_codec(open_data(DataConfig(source=str(tmp_path)))).high == (1.0,)
    for k in range(3):
        Image.fromarray(integers(4095, np.uint16)[0]).save(tmp_path / f"{k}.png")
    assert fitted_codec(open_data(DataConfig(source=str(tmp_path)))).high == (4095.0,)
    assert fitted_codec(open_digits()).high == (16.0,)


def test_a_range_has_no_place_with_floats(tmp_path):
    np.save(tmp_path / "a.npy", RNG.normal(size=(9, 4, 4)))
    with pytest.raises(UsageError, match="floats"):
        fitted_codec(open_data(DataConfig(source=str(tmp_path / "a.npy"), range=(0.0, 1.0))))


@pytest.mark.parametrize(
    ("values", "exact"),
    [
        (np.arange(100_000_001, 100_000_005, dtype=np.int32), True),
        (np.array([-(2**40), 3 - 2**40], dtype=np.int64), True),
        (np.array([0, 2**24], dtype=np.int64), True),
        (np.array([0, 2**24 + 1], dtype=np.int64), False),
        (np.array([2**60, 2**60 + 2], dtype=np.int64), False),
        (np.array([0, 2**64 - 1], dtype=np.uint64), False),
    ],
)
def test_integers_come_back_as_they_were_or_are_refused(values, exact):
    data = Dataset("test", values.reshape(-1, 1, 1))
    if exact:
        codec = Codec(fitted_codec(data))
        assert codec.decode(codec.encode(data.values)).numpy().astype(values.dtype).ravel().tolist() == values.tolist()
    else:
        with pytest.raises(UsageError, match="floats"):
            fitted_codec(data)


@pytest.mark.parametrize(
    ("offset", "scale", "dtype"),
    [
        (1.7e9, 1.0, "float64"),
        (2.4e6, 30.0, "float64"),
        (0.0, 1e300, "float64"),
        (0.0, 1e-300, "float64"),
        (300.0, 10.0, "float32"),
        (0.0, 1e-30, "float32"),
    ],
)
def test_floats_are_kept_as_finely_as_they_vary(offset, scale, dtype, tmp_path):
    """Timestamps, coordinates, Julian days: what is learned is how they vary, not how large they are."""
    values = offset + scale * RNG.normal(size=(50, 1, 30))
    np.save(tmp_path / "a.npy", values)
    data = open_data(DataConfig(source=str(tmp_path / "a.npy"), layout="NCL"))
    codec = Codec(fitted_codec(data))
    assert codec.config.dtype == dtype
    x = codec.encode(data.values)
    np.testing.assert_allclose(x.mean(), 0, atol=1e-4)
    np.testing.assert_allclose(x.std(), 0.5, rtol=1e-3)
    assert np.abs(codec.decode(x).numpy() - values).max() < 2**-12 * scale
    assert any("float64" in note for note in data.notes) == (dtype == "float64")


def test_mean_and_deviation_are_those_of_the_training_rows():
    values = RNG.normal(size=(40, 2, 9)).astype(np.float32)
    rows, held_out = np.arange(0, 40, 2), np.arange(1, 40, 2)
    values[held_out] += 100
    config = fitted_codec(Dataset("test", values), rows)
    np.testing.assert_allclose(config.offset, values[rows].mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(config.scale, 2 * values[rows].std((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(config.high, values[rows].max((0, 2)))
    Codec(config).encode(values)  # held-out examples may lie outside


def test_a_run_of_older_code_goes_on_with_what_it_measured(tmp_path):
    """Older code took a type's whole range and measured all examples; its config.json does not say so."""
    values = RNG.normal(size=(40, 2)).astype(np.float32)
    for name, array in (("floats", values), ("masks", integers(1))):
        np.save(tmp_path / f"{name}.npy", array)
        source, folder = DataConfig(source=str(tmp_path / f"{name}.npy")), tmp_path / name
        settings = SMALL if name == "masks" else {"training.steps": 2, "training.batch_size": 4}
        new = prepare(source, folder, settings=settings)
        folder.mkdir()
        content = json.loads(new.config.model_dump_json())
        assert content.pop("measured_on") == "training"
        content["data"] = {key: value for key, value in content["data"].items() if key not in ("range", "max_pixels")}
        (folder / "config.json").write_text(json.dumps(content))
        again = prepare(source, folder, settings=settings)
        assert again.config.measured_on == "all"
        assert again.run().model_config.codec == again.codec != new.codec
        if name == "masks":
            assert (again.codec.low, again.codec.high) == ((0.0,), (255.0,))
        else:
            assert again.codec.offset == tuple(values.mean(0, dtype=np.float64).tolist())
            assert again.codec.scale == tuple((2 * values.std(0, dtype=np.float64)).tolist())


def alpha_files(folder, kind):
    """Images of 8×8 and what read_image and --channels make of them: 12 bits, masks and a photograph, with alpha that is full."""
    folder.mkdir()
    for k in range(3):
        if kind == "native masks":
            pixels = np.stack([integers(1)[k], np.full((8, 8), 255, np.uint8)], -1)
        elif kind == "photographs":
            pixels = np.dstack([RNG.integers(0, 256, (8, 8, 3)), np.full((8, 8), 255)]).astype(np.uint8)
            pixels[0, 0] = 255
        elif kind == "drawings in black":
            pixels = np.stack([np.zeros((8, 8), np.uint8), integers(255)[k]], -1)
        else:
            pixels = integers(4095, np.uint16)[0] if kind == "scans of 12 bits" else integers(1)[0]
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return DataConfig(source=str(folder), channels="rgba" if kind in ("scans of 12 bits", "masks of 0 and 1") else None)


@pytest.mark.parametrize(
    ("kind", "high", "alpha", "noted"),
    [
        ("scans of 12 bits", 4095, 65535, 1),
        ("masks of 0 and 1", 1, 255, 1),
        ("native masks", 1, 255, 1),
        ("photographs", 255, 255, 0),
        ("drawings in black", 255, 255, 0),
    ],
)
def test_alpha_leaves_the_range_of_colours_as_it_is(kind, high, alpha, noted, tmp_path):
    source = alpha_files(tmp_path / "a", kind)
    plan = prepare(source, tmp_path / "run", settings=SMALL)
    colour = plan.data.shape[0] - 1
    assert plan.codec.high == (float(high),) * colour + (float(alpha),)
    assert plan.codec.low == (0.0,) * (colour + 1)
    assert len([note for note in plan.data.notes if "`range`" in note]) == noted
    codec = Codec(plan.codec)
    x = codec.encode(plan.data.values)
    assert (x[:, -1].max(), x[:, :-1].min() < -0.9) == (1, True)
    assert np.array_equal(codec.decode(x).numpy(), plan.data.values)
    save_image(codec.decode(x)[0], plan.codec, tmp_path / "sample.png")
    assert np.array_equal(read_image(tmp_path / "sample.png").values, plan.data.values[0])
    values, _ = read_examples(tmp_path / "a" / "0.png", plan.codec)  # and files given to the model later
    codec.encode(values)
    refuse_outside(SimpleNamespace(codec=plan.codec), plan.data, None)  # a run goes on
    set_ = prepare(source.model_copy(update={"range": (0.0, 65535.0)}), tmp_path / "run", settings=SMALL).codec
    assert set_.high == (65535.0,) * colour + (float(alpha),)


def test_each_channel_has_bins_of_its_own(tmp_path):
    """Values that are known exactly lie in their own bin, of the colours' width and of alpha's: no nats are lost."""
    codec = Codec(fitted_codec(open_data(alpha_files(tmp_path / "a", "native masks"))))
    x = codec.encode(open_data(alpha_files(tmp_path / "b", "native masks")).values)
    assert codec.bins.flatten().tolist() == [2, 256]
    wide = Transition(
        x + 0.2, torch.tensor(2 * math.log(0.05))
    )  # 0.2 is within half a bin of masks, 1, and not of alpha, 1/255
    found = Bins(codec.bins, form="exact")(x.clamp(-0.5, 0.5), Transition(x.clamp(-0.5, 0.5) + 0.2, wide.log_variance))
    assert found[:, 0].max() < 1e-6
    assert found[:, 1].min() > 3


def test_resizing_beside_alpha_makes_nothing_brighter_than_the_depth():
    values = np.zeros((2, 16, 16), np.uint16)
    values[0, :, 5:9], values[1] = 4095, 65535
    assert resized(values, (7, 7), "stretch")[0].max() <= 4095


def test_pictures_that_are_conditions_have_alpha_beside_their_range(tmp_path):
    for k in range(3):
        Image.fromarray(integers(1)[k]).save(tmp_path / f"{k}.png")
    data = Dataset(
        "t", integers(255, n=3)[:, None], columns={"mask": np.array(["0.png", "1.png", "2.png"])}, root=tmp_path
    )
    declared = {"mask": Condition(kind="image", channels="rgba")}
    with pytest.warns(Note, match="reach 1 and are read as 0 to 1"):
        found = fit_conditions(data, declared, 0.0)
    conditions = Conditions(found, 8)
    encoded = encode_columns(data, declared, conditions)["mask"][[0, 1, 2]]
    assert encoded[:, :3].unique().tolist() == [-1, 1]
    assert (encoded[:, 3:] == 1).all()
    one = read_image(tmp_path / "1.png", ImageOptions("rgba")).values.copy()
    assert torch.equal(conditions["mask"].encode([one])[0], encoded[1])


LONE = {
    "void labels": (np.where(RNG.random((20, 8, 8)) < 0.1, 255, integers(20)).astype(np.uint8), "`range` to 0,21"),
    "void labels of many": (
        np.where(RNG.random((20, 8, 8)) < 0.1, 255, integers(33)).astype(np.uint8),
        "`range` to 0,34",
    ),
    "masks of two kinds": (
        np.concatenate([integers(1), integers(1) * 255]),
        "masks of 0 and 1 and others of 0 and 255",
    ),
    "masks of 0 and 255": (integers(1) * 255, None),
    "four greys": (integers(3) * 85, None),
    "photos": (KINDS["photos"][0], None),
    "dark photos": (KINDS["dark photos"][0], None),
}


@pytest.mark.parametrize("kind", LONE)
def test_a_value_far_beyond_all_others_is_said_and_changes_nothing(kind, tmp_path):
    values, expected = LONE[kind]
    np.save(tmp_path / "a.npy", values)
    plan = prepare(DataConfig(source=str(tmp_path / "a.npy")), tmp_path / "run", settings=SMALL)
    assert plan.codec.high == (255.0,)
    said = [note for note in plan.data.notes if "nothing in between" in note]
    assert len(said) == (expected is not None)
    assert expected is None or expected in said[0]


@pytest.mark.parametrize(
    ("values", "high"),
    [(integers(60), 255), (integers(3000, np.uint16), 4095), (integers(1), 1), (integers(1, bool), 1)],
)
def test_pictures_in_arrays_have_the_range_of_the_same_in_files(values, high):
    data = Dataset("t", integers(255)[:, None], columns={"it": values})
    declared = {"it": Condition(kind="image")}
    with pytest.warns(Note, match=f"read as 0 to {high}") if high != 255 else nullcontext():
        found = fit_conditions(data, declared, 0.0)
    assert (found["it"].low, found["it"].high) == (0, high)
    Conditions(found, 8)["it"].encode(
        [np.full((1, 8, 8), high, np.int64)]
    )  # what training did not reach may be said all the same
    before = fit_conditions(data, declared, 0.0, legacy=True)["it"]  # as older runs have it
    assert (before.low, before.high) == (values.min(), values.max())
