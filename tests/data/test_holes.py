"""Holes: what is missing inside examples, where it is said, and that nothing reads it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.holes import missing_shares, with_checked_holes
from undiffuse.data.inspection.duplicates import find_duplicates
from undiffuse.data.inspection.report import inspect_data
from undiffuse.data.items import as_dataset
from undiffuse.data.sources import open_data, with_settings
from undiffuse.data.splitting import keys_of
from undiffuse.data.statistics import channel_statistics
from undiffuse.errors import UsageError

N, SHAPE = 24, (2, 5, 6)


def floats(share: float = 0.3, channels: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """(values float32 (N, 2, 5, 6), which of them are known)."""
    draws = np.random.default_rng(3)
    values = (draws.normal(size=(N, *SHAPE)) * [[[[2.0]], [[30.0]]]] + [[[[5.0]], [[-7.0]]]]).astype(np.float32)
    known = draws.random((N, SHAPE[0] if channels else 1, *SHAPE[1:])) >= share
    return values, np.broadcast_to(known, values.shape).copy()


def opened(tmp_path, values, **settings) -> Dataset:
    np.save(tmp_path / "x.npy", values)
    return open_data(DataConfig(source=str(tmp_path / "x.npy"), **settings))


# Where it is said ---------------------------------------------------------------------------------------------------------


def test_nan_in_floats_is_missing(tmp_path):
    values, known = floats()
    data = opened(tmp_path, np.where(known, values, np.nan).astype(np.float32), layout="NCHW")
    assert np.array_equal(data.known, known)
    assert any("missing" in note for note in data.notes)
    assert opened(tmp_path, values, layout="NCHW").known is None


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_a_value_may_mean_missing(tmp_path, dtype):
    values, known = floats()
    values = np.where(known, np.abs(values).astype(dtype), dtype(250))
    data = opened(tmp_path, values, layout="NCHW", nodata=250.0)
    assert np.array_equal(data.known, values != 250)


@pytest.mark.parametrize("nodata", [-1.0, 300.0, 0.5])
def test_a_value_that_the_type_does_not_have_is_refused(tmp_path, nodata):
    with pytest.raises(UsageError, match="no uint8 is"):
        opened(tmp_path, np.arange(40, dtype=np.uint8).reshape(4, 10), nodata=nodata)


@pytest.mark.parametrize("form", ["each", "channels", "one"])
@pytest.mark.parametrize("white", [True, 1, 255])
def test_masks_in_one_array(tmp_path, form, white):
    values, known = floats(channels=form == "channels")
    hidden = {"each": ~known[:, 0], "channels": ~known, "one": ~known[0, 0]}[form]
    np.save(tmp_path / "m.npy", hidden if white is True else hidden.astype(np.uint8) * white)
    data = opened(tmp_path, values, layout="NCHW", missing=str(tmp_path / "m.npy"))
    expected = {"each": known[:, :1], "channels": known, "one": np.broadcast_to(known[0, :1], (N, 1, *SHAPE[1:]))}
    assert np.array_equal(data.known, expected[form])


def pictures(tmp_path, size=(6, 8)) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 256, (5, *size), dtype=np.uint8)
    for k, value in enumerate(values):
        folder = tmp_path / "photos" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(value).save(folder / f"{k}.png")
    return values


def test_masks_in_a_folder_go_by_the_names_of_the_examples(tmp_path):
    values = pictures(tmp_path)
    for name in ("a/0", "b/3"):
        path = tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((6, 8), np.uint8)
        mask[:3] = 255
        Image.fromarray(mask).save(path)
    data = open_data(DataConfig(source=str(tmp_path / "photos"), missing=str(tmp_path / "masks")))
    holes = {name for name, known in zip(data.columns["file"], data.known, strict=True) if not known.all()}
    assert holes == {"a/0.png", "b/3.png"}
    row = data.columns["file"].tolist().index("a/0.png")
    assert np.array_equal(data.known[row, 0], np.arange(6)[:, None].repeat(8, 1) >= 3)
    assert any("3 of 5 examples have no mask" in note for note in data.notes)
    assert np.array_equal(data.values[row, 0], values[0])


def test_masks_are_resized_as_images_are(tmp_path):
    pictures(tmp_path, (8, 12))
    (tmp_path / "masks" / "a").mkdir(parents=True)
    mask = np.zeros((8, 12), np.uint8)
    mask[:, 4:8] = 255  # in the middle of what cropping to a square keeps, columns 2 to 9
    Image.fromarray(mask).save(tmp_path / "masks" / "a" / "0.png")
    data = open_data(DataConfig(source=str(tmp_path / "photos"), missing=str(tmp_path / "masks"), size=(4, 4)))
    row = data.columns["file"].tolist().index("a/0.png")
    assert np.array_equal(data.known[row, 0], np.array([[True, False, False, True]] * 4))


def test_masks_that_fit_nothing_are_one_sentence(tmp_path):
    pictures(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(UsageError, match="named like an example"):
        open_data(DataConfig(source=str(tmp_path / "photos"), missing=str(tmp_path / "masks")))
    with pytest.raises(UsageError, match="there are no masks at"):
        open_data(DataConfig(source=str(tmp_path / "photos"), missing=str(tmp_path / "none")))
    np.save(tmp_path / "m.npy", np.zeros((3, 3)))
    with pytest.raises(UsageError, match=r"the masks .* have the shape"):
        open_data(DataConfig(source=str(tmp_path / "photos"), missing=str(tmp_path / "m.npy")))
    with pytest.raises(UsageError, match="the data has none"):
        opened(tmp_path, np.zeros((4, 40), np.float32), missing=str(tmp_path / "masks"))


def test_a_value_of_pictures_that_are_resized_is_refused(tmp_path):
    pictures(tmp_path)
    with pytest.raises(UsageError, match="resizing mixes"):
        open_data(DataConfig(source=str(tmp_path / "photos"), nodata=0.0, size=(4, 4)))


def test_all_that_says_it_counts_together(tmp_path):
    values, known = floats()
    other = np.random.default_rng(9).random((N, *SHAPE[1:])) < 0.2
    np.save(tmp_path / "m.npy", other)
    data = opened(
        tmp_path, np.where(known, values, np.nan).astype(np.float32), layout="NCHW", missing=str(tmp_path / "m.npy")
    )
    assert np.array_equal(data.known, known & ~other[:, None])


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("suffix", ["h5", "zarr", "tif"])
def test_what_the_file_says_is_missing_is(tmp_path, suffix, dtype):
    values, known = floats(channels=False)
    values, known = np.where(known[:, 0], values[:, 0].astype(dtype), dtype(-99)), known[:, 0]
    path = tmp_path / f"x.{suffix}"
    if suffix == "h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["data"] = values
            file["data"].attrs["_FillValue"] = np.array([-99], dtype)
    elif suffix == "zarr":
        store = pytest.importorskip("zarr").create_array(str(path), shape=values.shape, dtype=values.dtype)
        store[:] = values
        store.attrs["missing_value"] = -99
    else:
        tags = [(42113, "s", 0, "-99", True)]
        pytest.importorskip("tifffile").imwrite(path, values, photometric="minisblack", extratags=tags)
    data = open_data(DataConfig(source=str(path), layout=None if suffix == "tif" else "NHW"))
    assert np.array_equal(data.known[:, 0], known)
    assert any("the file says that -99 means missing" in note for note in data.notes)
    assert open_data(DataConfig(source=str(path), layout=None, nodata=7777.0)).known is None


def test_what_pictures_of_geographers_say_is_missing_is(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    values, known = floats(channels=False)
    (tmp_path / "maps").mkdir()
    for k, value in enumerate(np.where(known, values, -99)[:, 0].astype(np.float32)):
        tags = [(42113, "s", 0, "-99", True)]
        tifffile.imwrite(tmp_path / "maps" / f"{k:02d}.tif", value, photometric="minisblack", extratags=tags)
    assert np.array_equal(open_data(DataConfig(source=str(tmp_path / "maps"))).known, known[:, :1])


def test_masked_arrays_and_frames_have_holes():
    values, known = floats()
    data = with_settings(as_dataset(np.ma.masked_array(values, ~known), layout="NCHW"), DataConfig(source="python:x"))
    assert np.array_equal(data.known, known)


# What is made of it --------------------------------------------------------------------------------------------------------


def test_one_channel_says_it_where_all_miss_the_same(tmp_path):
    values, known = floats(channels=False)
    data = opened(tmp_path, np.where(known, values, np.nan).astype(np.float32), layout="NCHW")
    assert np.array_equal(data.known, known[:, :1])


def test_examples_of_which_nothing_is_known_are_skipped_and_named():
    values, known = floats()
    known[[4, 9]] = False
    data = with_checked_holes(Dataset("x", values, np.arange(N), known=known, columns={"c": np.arange(N)}))
    kept = [k for k in range(N) if k not in (4, 9)]
    assert data.labels.tolist() == data.columns["c"].tolist() == kept
    assert np.array_equal(data.known, known[kept])
    assert np.array_equal(data.values, values[kept])
    assert any("skipped 2 of 24 examples" in note and "example 4, example 9" in note for note in data.notes)
    known[:14] = False
    with pytest.raises(UsageError, match="nothing is known of 14 of 24"):
        with_checked_holes(Dataset("x", values, known=known))


def test_the_rows_of_a_table_stay_with_their_examples(tmp_path):
    values, known = floats()
    known[[4, 9]] = False
    (tmp_path / "t.csv").write_text("age\n" + "".join(f"{k}\n" for k in range(N)))
    data = opened(
        tmp_path, np.where(known, values, np.nan).astype(np.float32), layout="NCHW", table=str(tmp_path / "t.csv")
    )
    assert data.columns["age"].tolist() == [str(k) for k in range(N) if k not in (4, 9)]


def test_a_channel_that_is_never_known_is_refused():
    values, known = floats()
    known[:, 1] = False
    with pytest.raises(UsageError, match="channel 1 is known in no example"):
        with_checked_holes(Dataset("x", values, known=known))


def test_parts_of_a_data_set_keep_their_holes():
    values, known = floats()
    rows = np.array([3, 1])
    assert np.array_equal(Dataset("x", values, known=known)[rows].known, known[rows])


@pytest.mark.parametrize("rows", [None, np.arange(0, N, 3)])
def test_statistics_are_of_the_known_numbers_alone(rows):
    values, known = floats()
    of = slice(None) if rows is None else rows
    found = channel_statistics(np.where(known, values, np.float32(1e30)), rows, known)
    for channel in range(2):
        numbers = values[of, channel][known[of, channel]].astype(np.float64)
        expected = (numbers.mean(), numbers.std(), numbers.min(), numbers.max())
        for mine, true in zip(found, expected, strict=True):
            assert mine[channel] == pytest.approx(true, rel=1e-12)


@pytest.mark.parametrize("hidden", [np.nan, 1e30, 0.0])
def test_what_stands_at_missing_places_changes_nothing(hidden):
    values, known = floats()
    first = Dataset("x", values, known=known)
    other = replace(first, values=np.where(known, values, np.float32(hidden)))
    codec = fitted_codec(first)
    assert fitted_codec(other) == codec
    x = [Codec(codec).encode_parts(each.values, known=each.known) for each in (first, other)]
    assert np.array_equal(*x)
    assert not x[0].numpy()[~known].any()
    assert np.array_equal(keys_of(first, 5), keys_of(other, 5))
    assert first.fingerprint() == other.fingerprint()
    assert inspect_data(first).numbers() == inspect_data(other).numbers()


def test_holes_are_part_of_what_an_example_is():
    values, known = floats()
    holes = Dataset("x", values, known=known)
    moved = replace(holes, known=np.roll(known, 1, 0))
    assert holes.fingerprint() != replace(holes, known=None).fingerprint()
    nothing = np.zeros_like(values)
    for a, b in ((holes, moved), (replace(holes, values=nothing), replace(moved, values=nothing))):
        assert not (keys_of(a, 0) == keys_of(b, 0)).any()
        assert a.fingerprint() != b.fingerprint()
    copies = Dataset("x", values[[0, 1, 0, 0]], known=known[[0, 1, 0, 2]])
    assert [cluster.tolist() for cluster in find_duplicates(copies).exact] == [[0, 2]]


def test_the_range_of_whole_numbers_is_that_of_the_known_ones():
    values = np.random.default_rng(0).integers(0, 17, (N, 1, 4, 4)).astype(np.uint8)
    values[0, 0, 0, :2] = 0, 16
    known = np.ones(values.shape, bool)
    known[:, :, 2] = False
    values[~known] = 255
    codec = fitted_codec(Dataset("x", values, known=known))
    assert (codec.low, codec.high) == ((0.0,), (16.0,))
    assert not Codec(codec).encode_parts(values, known=known).numpy()[~known].any()


def test_blocks_are_the_means_of_what_is_known_in_them(tmp_path):
    values = np.array([[1.0, 3.0, np.nan, 5.0], [np.nan, np.nan, 2.0, 4.0]], np.float32)
    data = opened(tmp_path, values, layout="NL", shrink=2)
    assert data.values[:, 0][data.known[:, 0]].tolist() == [2.0, 5.0, 3.0]
    assert data.known[:, 0].tolist() == [[True, True], [False, True]]


def test_inspect_says_how_much_is_missing(tmp_path):
    values, known = floats()
    data = opened(tmp_path, np.where(known, values, np.nan).astype(np.float32), layout="NCHW")
    assert inspect_data(data).missing == pytest.approx((~known).mean((0, 2, 3)).tolist())
    assert missing_shares(Dataset("x", values)) == [0.0, 0.0]


def test_infinite_numbers_stay_refused(tmp_path):
    values, known = floats()
    values[2, 0, 1, 1], known[2, 0, 1, 1] = np.inf, True
    data = Dataset("x", np.where(known, values, np.nan).astype(np.float32), known=known)
    with pytest.raises(UsageError, match="1 values that are NaN or infinite"):
        fitted_codec(data)


def test_large_floats_with_holes_keep_their_digits(tmp_path):
    """Where float32 would change the known numbers by much, values stay float64, holes or not."""
    values = 1.7e9 + np.random.default_rng(0).normal(size=(N, 30))
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
    assert opened(tmp_path, values, layout="NL").values.dtype == np.float64
