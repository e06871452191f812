"""Arrays in files: content says what they are, whatever their names, and what is decided of labels is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_sources import write_idx
from tests.small import tiny_config, tiny_model
from undiffuse.conditioning.base import Note
from undiffuse.conditioning.columns import column_values, encode_columns, fit_conditions
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.spec import Condition
from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import Loader
from undiffuse.data.sources import open_data, open_digits
from undiffuse.errors import UsageError
from undiffuse.models.file import save_model
from undiffuse.runs.codecs import fine_tuned_codec
from undiffuse.runs.fine_tuning import load_pretrained

RNG = np.random.default_rng(0)
FLOATS = RNG.normal(size=(12, 8, 8)).astype(np.float32)


def opened(path, **options):
    return open_data(DataConfig(source=str(path), **options))


def said(data, *words):
    found = [note for note in data.notes if all(word in note for word in words)]
    assert len(found) == 1, data.notes


def test_suffixes_have_no_case(tmp_path):
    with open(tmp_path / "A.NPY", "wb") as file:
        np.save(file, FLOATS)
    with open(tmp_path / "B.Npz", "wb") as file:
        np.savez(file, x=FLOATS)
    write_idx(tmp_path / "T10K-IMAGES-IDX3-UBYTE.GZ", RNG.integers(0, 256, (5, 6, 6), dtype=np.uint8))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "0.PNG")
    (tmp_path / "T.CSV").write_text("file\n0.PNG\n")
    (tmp_path / "T.TSV").write_text("file\tage\n0.PNG\t3\n")
    assert opened(tmp_path / "A.NPY").shape == opened(tmp_path / "B.Npz").shape == (1, 8, 8)
    assert len(opened(tmp_path / "T10K-IMAGES-IDX3-UBYTE.GZ")) == 5
    assert len(opened(tmp_path / "T.CSV")) == 1
    assert opened(tmp_path / "T.TSV").columns["age"].tolist() == ["3"]
    condition = {"v": Condition(kind="number", column=str(tmp_path / "N.NPY"))}
    with open(tmp_path / "N.NPY", "wb") as file:
        np.save(file, np.arange(12.0))
    assert fit_conditions(Dataset("test", FLOATS[:, None]), condition, 0.1)["v"].high == 11


def test_the_content_of_a_file_says_what_it_is(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.savez(file, x=FLOATS, y=np.arange(12) % 3)
    with open(tmp_path / "b.npz", "wb") as file:
        np.save(file, FLOATS)
    assert opened(tmp_path / "a.npy").classes == ("0", "1", "2")
    assert np.array_equal(opened(tmp_path / "a.npy").values, opened(tmp_path / "b.npz").values)
    data = Dataset("test", FLOATS[:, None])
    with pytest.raises(UsageError, match=r"a\.npy.*x, y"):
        fit_conditions(data, {"v": Condition(kind="number", column=str(tmp_path / "a.npy"))}, 0.1)
    with open(tmp_path / "c.npy", "wb") as file:
        np.savez(file, anything=np.arange(12.0))
    assert fit_conditions(data, {"v": Condition(kind="number", column=str(tmp_path / "c.npy"))}, 0.1)["v"].high == 11


@pytest.mark.parametrize("shape", [(0, 8, 8), (9, 0, 8), (9, 8, 0), (9, 0)])
def test_arrays_without_values_are_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(UsageError, match="holds no"):
        opened(tmp_path / "a.npy")


def test_labels_as_floats_are_whole_numbers_and_nan_is_not_said(tmp_path):
    labels = np.array([7, np.nan, 2, 7, 2, np.nan, 7, 2, 2, 7, 7, 2])
    np.savez(tmp_path / "a.npz", x=FLOATS, y=labels)
    data = opened(tmp_path / "a.npz")
    assert data.classes == ("2", "7")
    said(data, "2 of 12 labels", "NaN")
    declared = {"class": Condition(kind="class")}
    config = fit_conditions(data, declared, 0.0)
    assert (config["class"].names, config["class"].missing) == (("2", "7"), True)
    assert column_values(data, "class", declared["class"], np.arange(12)) == [
        "7",
        None,
        "2",
        "7",
        "2",
        None,
        "7",
        "2",
        "2",
        "7",
        "7",
        "2",
    ]
    encoded = encode_columns(data, declared, Conditions(config, 8))["class"][np.arange(12)].flatten().tolist()
    assert [index == 2 for index in encoded] == np.isnan(labels).tolist()


@pytest.mark.parametrize(
    ("labels", "noted"),
    [
        (RNG.normal(size=600), True),
        (np.arange(600) // 4, True),
        (np.arange(600) // 60, False),
        (np.arange(600) // 10, False),
        (np.array([f"id{k}" for k in range(600)]), False),
    ],
)
def test_labels_of_many_values_point_to_numbers(tmp_path, labels, noted):
    np.savez(tmp_path / "a.npz", x=np.zeros((600, 4, 4), np.float32), y=labels)
    data = opened(tmp_path / "a.npz")
    assert any("declare the number class" in note for note in data.notes) == noted
    if noted:  # the command that is named works
        number = fit_conditions(data, {"label": Condition(kind="number", column="class")}, 0.1)["label"]
        assert (number.low, number.high) == pytest.approx((float(labels.min()), float(labels.max())))


def test_images_without_their_labels_say_so(tmp_path):
    values = RNG.integers(0, 256, (5, 6, 6), dtype=np.uint8)
    write_idx(tmp_path / "emnist-train-images-idx3-ubyte.gz", values)
    said(opened(tmp_path / "emnist-train-images-idx3-ubyte.gz"), "no labels", "emnist-train-labels-idx1-ubyte.gz")
    write_idx(tmp_path / "emnist-train-labels-idx1-ubyte.gz", np.arange(5, dtype=np.uint8))
    assert not any("no labels" in note for note in opened(tmp_path / "emnist-train-images-idx3-ubyte.gz").notes)


# Conditions ---------------------------------------------------------------------------------------------------------------


def test_conditions_are_measured_on_the_rows_of_training():
    columns = {"age": np.array([1.0, 3.0, 5.0, 1000.0]), "code": np.array([[0.0, 0], [1, 2], [2, 4], [1000, 9]])}
    data = Dataset("test", np.zeros((4, 1, 4), np.float32), columns=columns)
    declared = {"age": Condition(kind="number"), "code": Condition(kind="vector")}
    found = fit_conditions(data, declared, 0.1, rows=np.arange(3))
    assert (found["age"].mean, found["age"].std) == pytest.approx((3.0, 2.0))
    assert (found["age"].low, found["age"].high) == (1.0, 1000.0)  # held-out values have a place
    assert found["code"].mean == pytest.approx((1.0, 2.0))
    everything = fit_conditions(data, declared, 0.1, rows=np.arange(3), legacy=True)
    assert everything["age"].mean == columns["age"].mean()
    assert everything == fit_conditions(data, declared, 0.1)


def test_masks_as_conditions_have_their_own_range(tmp_path):
    masks = RNG.integers(0, 2, (6, 4, 4), dtype=np.uint8)
    for k, mask in enumerate(masks):
        Image.fromarray(mask).save(tmp_path / f"{k}.png")
    data = Dataset("test", FLOATS[:6, None], columns={"mask": np.array([f"{k}.png" for k in range(6)])}, root=tmp_path)
    declared = {"mask": Condition(kind="image")}
    with pytest.warns(Note, match="'mask' reach 1 and are read as 0 to 1"):
        config = fit_conditions(data, declared, 0.1)
    assert (config["mask"].low, config["mask"].high) == (0.0, 1.0)
    encoded = encode_columns(data, declared, Conditions(config, 8))["mask"][np.arange(6)]
    assert np.array_equal(encoded[:, 0].numpy(), masks * 2.0 - 1)
    assert fit_conditions(data, declared, 0.1, legacy=True)["mask"].high == 255.0  # as older runs have it


def test_what_is_done_to_pictures_that_are_conditions_is_said(tmp_path):
    pages = [Image.fromarray(RNG.integers(0, 256, (4, 4), dtype=np.uint8)) for _ in range(4)]
    for k in range(3):
        pages[0].save(tmp_path / f"{k}.tif", save_all=True, append_images=pages[: k + 1])
    data = Dataset("test", FLOATS[:3, None], columns={"scan": np.array([f"{k}.tif" for k in range(3)])}, root=tmp_path)
    with pytest.warns(Note, match=r"'scan', 3 of 3 images .*the first is used \(0\.tif \(2\)"):
        fit_conditions(data, {"scan": Condition(kind="image")}, 0.1)


# Codec and loader -----------------------------------------------------------------------------------------------------------


def test_a_loader_trains_on_its_rows_alone(monkeypatch):
    data, rows = open_digits(), np.arange(5, 1000, 3)
    codec = Codec(fitted_codec(data))
    for most in (Loader.KEPT_ENCODED, 0):
        monkeypatch.setattr(Loader, "KEPT_ENCODED", most)
        whole, part = (
            Loader(data[rows], codec, 16, 3, torch.device("cpu")),
            Loader(data, codec, 16, 3, torch.device("cpu"), rows=rows),
        )
        for step in (0, 30):
            assert torch.equal(whole(step)[0], part(step)[0])


def test_encoding_is_never_of_all_examples_at_once(monkeypatch):
    """What is in memory beside the encoded examples is one part of them."""
    data, seen = open_digits(), []
    codec = Codec(fitted_codec(data))
    encode = Codec.encode
    monkeypatch.setattr("undiffuse.data.codec.PART_NUMBERS", 64 * 100)
    monkeypatch.setattr(
        Codec, "encode", lambda self, values, *more: seen.append(len(values)) or encode(self, values, *more)
    )
    rows = np.arange(1, 1797, 2)
    assert torch.equal(codec.encode_parts(data.values, rows), encode(codec, data.values[rows]))
    assert torch.equal(codec.encode_parts(data.values), encode(codec, data.values))
    Loader(data, codec, 8, 0, torch.device("cpu"))
    assert max(seen) == 100


# Fine-tuning --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("highest", "high"), [(255, 255), (200, 255), (70, 255), (16, 16), (1, 1)])
def test_the_range_of_a_model_stays_where_the_data_fills_it(tmp_path, highest, high):
    model = tiny_model()
    save_model(
        tmp_path / "m.safetensors",
        tiny_config(),
        *({n: p.clone() for n, p in model.denoiser.named_parameters()} for _ in range(2)),
    )
    start = load_pretrained(tmp_path / "m.safetensors").config
    values = RNG.integers(0, highest + 1, (9, 1, 8, 8), dtype=np.uint8)
    values[0, 0, 0, 0] = highest
    assert fine_tuned_codec(start, Dataset("test", values, mode="L")).high == (high,)
    assert fine_tuned_codec(start, Dataset("test", values, mode="L"), legacy=True).high == (255.0,)


def test_labels_that_say_nothing_are_the_same_in_npz_as_in_tables(tmp_path):
    labels = np.array(["cat", "", "nan", "dog", " NaN ", "None", "null", "cat"])
    np.savez(tmp_path / "a.npz", images=RNG.integers(0, 256, (8, 4, 4), dtype=np.uint8), labels=labels)
    data = open_data(DataConfig(source=str(tmp_path / "a.npz")))
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, -1, -1, 1, -1, -1, -1, 0]
    assert any("5 of 8 labels are empty" in note for note in data.notes)
