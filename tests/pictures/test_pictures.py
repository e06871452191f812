"""Pictures: the codec's range and not the picture's own, formats kept, every kind of example drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.dataset import Dataset
from undiffuse.data.sources import open_digits
from undiffuse.pictures.edits import masked
from undiffuse.pictures.images import save_image, to_rgb
from undiffuse.pictures.sheets import captioned, sheet
from undiffuse.pictures.views import forward_pictures, samples_grid, spread_rows
from undiffuse.process.betas import linear_betas
from undiffuse.process.chains import Chain

RNG = np.random.default_rng(0)


def config(shape, dtype=np.uint8, mode=None):
    top = 65535 if dtype == np.uint16 else 255
    values = (
        RNG.integers(0, top + 1, (4, *shape)).astype(dtype)
        if dtype != np.float32
        else RNG.normal(size=(4, *shape)).astype(dtype)
    )
    return fitted_codec(Dataset("t", values, mode=mode)), torch.from_numpy(values.astype(np.float32))


def test_brightness_never_depends_on_the_picture_itself():
    codec = fitted_codec(open_digits())
    dim, bright = torch.full((1, 1, 8, 8), 4.0), torch.full((1, 1, 8, 8), 16.0)
    assert to_rgb(dim, codec).max() == 64
    assert to_rgb(bright, codec).max() == 255
    assert np.array_equal(to_rgb(torch.cat([dim, bright]), codec)[0], to_rgb(dim, codec)[0])


@pytest.mark.parametrize(
    "shape", [(1, 9, 7), (2, 9, 7), (3, 9, 7), (4, 9, 7), (7, 9, 7), (1, 50), (3, 50), (1, 5, 6, 7)]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_kind_of_example_has_a_picture(shape, dtype):
    codec, values = config(shape, dtype)
    pictures = to_rgb(values, codec)
    assert pictures.shape[0] == 4
    assert pictures.shape[3] == 3
    assert pictures.dtype == np.uint8
    assert samples_grid(values, Codec(codec), ["a", "a", "b", "b"], "title").width > 100


@pytest.mark.parametrize(
    ("channels", "dtype", "mode"),
    [(1, np.uint8, "L"), (2, np.uint8, "LA"), (3, np.uint8, "RGB"), (4, np.uint8, "RGBA"), (1, np.uint16, "I;16")],
)
def test_samples_are_written_in_the_format_of_the_data(tmp_path, channels, dtype, mode):
    codec, values = config((channels, 6, 5), dtype, mode)
    save_image(values[0], codec, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode
        array = np.asarray(image).astype(np.float32)
    assert np.array_equal(array[None] if channels == 1 else np.moveaxis(array, -1, 0), values[0].numpy())


def test_a_sheet_places_every_picture():
    rows = [[np.full((8, 8, 3), 10 * (3 * r + c), dtype=np.uint8) for c in range(3)] for r in range(2)]
    page = np.asarray(sheet(rows, title="σ/α", row_labels=["a", "b"], column_labels=["1", "2", "3"]))
    for r in range(2):
        for c in range(3):
            assert (page == 10 * (3 * r + c)).all(-1).sum() >= 64 * 64


@pytest.mark.parametrize("columns", [1, 2, 4, 8, 20])
def test_pictures_of_a_sheet_are_larger_where_there_are_few_and_its_title_fits(columns):
    for draw in (
        lambda title: sheet([[np.zeros((8, 8, 3), np.uint8)] * columns] * 2, title=title),
        lambda title: captioned([np.zeros((8, 8, 3), np.uint8)] * columns, ["a"] * columns, title, columns),
    ):
        page = draw("")
        assert page.width >= min(512, columns * 192)
        assert columns < 8 or page.width < columns * 120
        assert np.asarray(draw("W" * 60))[:, -12:].min() == np.asarray(page)[:, -1:].min()  # nothing in the margin


def test_every_label_has_rows_and_its_name(monkeypatch):
    """However many there are of each, and where they are not equally many."""
    from undiffuse.pictures import views

    codec, values = config((1, 8, 8))
    drawn = []
    monkeypatch.setattr(
        views, "sheet", lambda rows, title, row_labels=(): drawn.append(([len(row) for row in rows], list(row_labels)))
    )
    samples_grid(values[[0] * 66], Codec(codec), ["a", "b", "c"] * 22, "title")
    samples_grid(values[[0] * 14], Codec(codec), ["a"] * 9 + ["b"] * 5, "title")
    samples_grid(values[[0] * 14], Codec(codec), [""] * 14, "title")
    each = ([10, 10, 2] * 3, ["a", "", "", "b", "", "", "c", "", ""])
    assert drawn == [each, ([9, 5], ["a", "b"]), ([10, 4], [])]


def test_the_forward_strip_walks_from_the_picture_to_noise():
    data = open_digits()
    codec, chain = Codec(fitted_codec(data)), Chain(linear_betas(100))
    pictures, labels = forward_pictures(codec.encode(data.values[:1])[0], chain.levels, codec, seed=0)
    assert np.array_equal(pictures[0], to_rgb(torch.from_numpy(data.values[:1]).float(), codec.config)[0])
    assert labels[0] == "clean"
    distance = [np.abs(p.astype(int) - pictures[0]).mean() for p in pictures]
    assert distance[1] < distance[len(distance) // 2]
    rows = spread_rows(chain.levels, 9)
    assert rows[0] == 0
    assert rows[-1] == 100


@pytest.mark.parametrize("size", [(6, 5), (4, 6, 5), (9,)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("mode", [None, "LA", "RGBA"])
def test_what_is_hidden_is_striped_where_it_is_drawn(size, channels, mode):
    """Whether channels lie beside each other, such as the parts of complex numbers, or upon each other."""
    if mode and (len(size) != 2 or channels != len(mode)):
        pytest.skip("no such picture")
    values = np.random.default_rng(0).normal(size=(3, channels, *size)).astype(np.float32)
    codec = Codec(fitted_codec(Dataset("a", values, mode=mode)))
    hidden = torch.zeros(3, channels, *size, dtype=torch.bool)
    hidden[0, 0] = True  # of all its places, a channel
    masks, observed = masked(torch.from_numpy(values), hidden, codec)
    plain = to_rgb(torch.from_numpy(values), codec.config)
    times = len(masks[0]) // plain.shape[1]
    drawn = [picture[::times, ::times] for picture in observed]
    assert [np.array_equal(a, b) for a, b in zip(drawn, plain, strict=True)] == [False, True, True]
    assert masks[0].shape == observed[0].shape == (plain.shape[1] * times, plain.shape[2] * times, 3)
