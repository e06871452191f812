"""Every kind of data, and every way it can be wrong."""

from __future__ import annotations

import gzip
import pickle
import struct

import numpy as np
import pytest
from PIL import Image

from undiffuse.data.arrays import arranged
from undiffuse.data.config import DataConfig
from undiffuse.data.pixels import read_image
from undiffuse.data.sources import open_data, open_digits


def opened(path, **options):
    return open_data(DataConfig(source=str(path), **options))


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def picture(seed=0, size=(6, 5), channels=3, dtype=np.uint8):
    shape = size if channels == 1 else (*size, channels)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def test_digits_are_the_uci_digits():
    data = open_digits()
    assert data.values.shape == (1797, 1, 8, 8)
    assert (data.values.min(), data.values.max()) == (0, 16)
    assert (data.low, data.high) == (0, 16)
    # class counts as published with the data set
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert data.values[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_sub_folders_are_classes_and_order_is_sorted(tmp_path):
    for name, seed in (("dog", 1), ("cat", 2), ("cat", 3)):
        save(tmp_path / name / f"{seed}.png", picture(seed))
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = opened(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1]
    assert data.values.shape == (3, 3, 6, 5)
    assert np.array_equal(data.values[2], np.moveaxis(picture(1), -1, 0))


@pytest.mark.parametrize(
    ("channels", "dtype", "mode"),
    [(1, np.uint8, "L"), (2, np.uint8, "LA"), (3, np.uint8, "RGB"), (4, np.uint8, "RGBA"), (1, np.uint16, "I;16")],
)
def test_grey_stays_grey_and_alpha_and_16_bits_are_kept(tmp_path, channels, dtype, mode):
    array = picture(0, channels=channels, dtype=dtype)
    save(tmp_path / "a.png", array)
    data = opened(tmp_path)
    assert (data.mode, data.values.dtype, data.shape) == (mode, dtype, (channels, 6, 5))
    assert np.array_equal(data.values[0], array[None] if channels == 1 else np.moveaxis(array, -1, 0))


def test_odd_files_are_read_as_people_see_them(tmp_path):
    upright = picture(0, (4, 6))
    exif = Image.Exif()
    exif[274] = 6  # rotated by 90°
    Image.fromarray(upright).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "turned.png").values, np.moveaxis(np.rot90(upright, -1), -1, 0))
    frames = [Image.fromarray(picture(k, channels=1)) for k in range(3)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "moving.gif").mode in ("L", "RGB")
    Image.fromarray(picture(0, channels=1) > 99).save(tmp_path / "bits.png")
    assert read_image(tmp_path / "bits.png").mode == "L"


def test_unreadable_files_are_listed_and_skipped_up_to_one_percent(tmp_path):
    for k in range(120):
        save(tmp_path / f"{k:03d}.png", picture(k))
    (tmp_path / "050.png").write_bytes(b"")
    data = opened(tmp_path)
    assert len(data) == 119
    assert "050.png" in data.notes[0]
    (tmp_path / "051.png").write_bytes((tmp_path / "052.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"2 of 120 images .* cannot be read: 050.png .*051.png"):
        opened(tmp_path)


def test_a_decompression_bomb_is_not_opened(tmp_path, monkeypatch):
    save(tmp_path / "big.png", picture(0, (60, 60)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"big.png"):
        opened(tmp_path)


def test_mixed_sizes_and_channels_are_refused_with_the_fix(tmp_path):
    save(tmp_path / "a.png", picture(0, (6, 5)))
    save(tmp_path / "b.png", picture(1, (6, 6)))
    with pytest.raises(ValueError, match=r"1 are 6×5 \(height×width\) .*b\.png.*`size` 6x5 \(resizes"):
        opened(tmp_path)
    assert opened(tmp_path, size=(6, 5)).shape == (3, 6, 5)
    assert opened(tmp_path, size=(8, 8)).shape == (3, 8, 8)
    save(tmp_path / "b.png", picture(1, (6, 5), channels=1))
    with pytest.raises(ValueError, match=r"grey.*`channels`"):
        opened(tmp_path)
    assert opened(tmp_path, channels="grey").shape == (1, 6, 5)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_resizing_keeps_16_bits_and_the_asked_size(tmp_path, fit):
    ramp = np.linspace(0, 65535, 40 * 20).reshape(40, 20).astype(np.uint16)
    save(tmp_path / "ramp.png", ramp)
    data = opened(tmp_path, size=(10, 10), fit=fit)
    assert data.shape == (1, 10, 10)
    assert data.values.dtype == np.uint16
    assert len(np.unique(data.values)) > 20


def test_folders_without_images(tmp_path):
    with pytest.raises(ValueError, match="nothing"):
        opened(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"\.txt"):
        opened(tmp_path)
    save(tmp_path / "a.png", picture())
    save(tmp_path / "sub" / "b.png", picture())
    with pytest.raises(ValueError, match="both"):
        opened(tmp_path)
    with pytest.raises(ValueError, match="there is no data"):
        opened(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("shape", "layout", "result", "read"),
    [
        ((9, 20), None, (9, 1, 20), "NL"),
        ((9, 5), None, (9, 5, 1), "NC"),
        ((9, 5), "NL", (9, 1, 5), "NL"),
        ((9, 20), "NC", (9, 20, 1), "NC"),
        ((9, 8, 7), None, (9, 1, 8, 7), "NHW"),
        ((9, 8, 7, 3), None, (9, 3, 8, 7), "NHWC"),
        ((9, 3, 8, 7), None, (9, 3, 8, 7), "NCHW"),
        ((9, 4, 5, 6, 2), None, (9, 2, 4, 5, 6), "NDHWC"),
        ((9, 2, 20), "NCL", (9, 2, 20), "NCL"),
        ((8, 7, 3, 9), "HWCN", (9, 3, 8, 7), "HWCN"),
        ((9, 7, 8, 33), "NCHW", (9, 7, 8, 33), "NCHW"),
    ],
)
def test_layouts(shape, layout, result, read):
    values, how = arranged(np.zeros(shape), layout)
    assert (values.shape, how) == (result, read)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((9,), None),
        ((9, 8, 7), "NHWC"),
        ((9, 8, 7), "NHH"),
        ((9, 8), "HW"),
        ((9, 8), "CN1"),
        ((2, 2, 2, 2, 2, 2), None),
    ],
)
def test_layouts_that_do_not_fit(shape, layout):
    with pytest.raises(ValueError, match=r"axes|layout"):
        arranged(np.zeros(shape), layout)


def test_npz_with_and_without_labels(tmp_path):
    values = picture(0, (10, 8), channels=1)[:, :, None].repeat(8, 2)
    np.savez(tmp_path / "a.npz", x=values, y=np.array(list("abcab" * 2)))
    data = opened(tmp_path / "a.npz")
    assert data.classes == ("a", "b", "c")
    assert data.labels.tolist() == [0, 1, 2, 0, 1] * 2
    np.savez(tmp_path / "b.npz", anything=values.astype(np.float64))
    assert opened(tmp_path / "b.npz").values.dtype == np.float32
    np.savez(tmp_path / "c.npz", first=values, second=values)
    with pytest.raises(ValueError, match="first, second"):
        opened(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=values, y=np.zeros(3))
    with pytest.raises(ValueError, match="one each"):
        opened(tmp_path / "d.npz")


def test_pickles_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "objects.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    (tmp_path / "renamed.npy").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "renamed.npz").write_bytes(pickle.dumps(Trap()))
    for name in ("objects.npy", "renamed.npy", "renamed.npz"):
        with pytest.raises(ValueError, match=name):
            opened(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def write_idx(path, array):
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    with gzip.open(path, "wb") as file:
        file.write(head + array.tobytes())


def test_idx_with_the_labels_beside_it(tmp_path):
    values = picture(0, (5, 4), channels=6).transpose(2, 0, 1)
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", values)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([7, 2, 7, 7, 2, 0], dtype=np.uint8))
    data = opened(tmp_path / "train-images-idx3-ubyte.gz")
    assert np.array_equal(data.values[:, 0], values)
    assert data.classes == ("0", "2", "7")
    assert data.mode == "L"
    whole = (tmp_path / "train-images-idx3-ubyte.gz").read_bytes()
    (tmp_path / "cut-images-idx3-ubyte.gz").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match="idx"):
        opened(tmp_path / "cut-images-idx3-ubyte.gz")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "table.xlsx").write_bytes(b"x")
    with pytest.raises(ValueError, match="no kind of data"):
        opened(tmp_path / "table.xlsx")


def test_a_split_keeps_every_example_once_and_is_the_same_every_time():
    data = open_digits()
    a, b = data.split_rows(297, seed=3)
    assert (len(a), len(b)) == (1500, 297)
    assert np.array_equal(a, data.split_rows(297, seed=3)[0])
    assert not np.array_equal(a, data.split_rows(297, seed=4)[0])
    assert len(data.split_rows(0.1, 0)[1]) == 180
    assert len(data.split_rows(0.0, 0)[1]) == 0
    assert sorted([*a, *b]) == list(range(1797))
    with pytest.raises(ValueError, match="held out"):
        data.split_rows(1797, 0)
