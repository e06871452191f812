"""Data sets of items: whatever has a length and items, read to the same data set; what is wrong names its item."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset

import undiffuse
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.items import as_dataset
from undiffuse.data.sources import open_data, with_settings
from undiffuse.errors import UsageError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 3, 5, 7), dtype=np.uint8)
LABELS = np.arange(12) % 3
Pair = namedtuple("Pair", "picture kind")


class Own(TorchDataset):
    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, k):
        return torch.from_numpy(PIXELS[k]), int(LABELS[k])


class Hub(Own):
    """As Hugging Face's: dicts of images, and features that know the names of labels."""

    def __init__(self):
        self.features = {"label": type("ClassLabel", (), {"names": ["a", "b", "c"]})()}

    def __getitem__(self, k):
        return {"img": Image.fromarray(PIXELS[k].transpose(1, 2, 0)), "label": int(LABELS[k]), "age": float(k)}


PAIRED = {
    "torch": Own(),
    "tensors": TensorDataset(torch.from_numpy(PIXELS), torch.from_numpy(LABELS)),
    "tuples": [(torch.from_numpy(x), y) for x, y in zip(PIXELS, LABELS, strict=True)],
    "arrays": [(x.transpose(1, 2, 0), y) for x, y in zip(PIXELS, LABELS, strict=True)],
    "named tuples": [Pair(torch.from_numpy(x), int(y)) for x, y in zip(PIXELS, LABELS, strict=True)],
    "dicts": [{"x": torch.from_numpy(x), "label": y} for x, y in zip(PIXELS, LABELS, strict=True)],
    "any name": [{"scan": torch.from_numpy(x), "label": torch.tensor(y)} for x, y in zip(PIXELS, LABELS, strict=True)],
    "hub": Hub(),
}
ALONE = {
    "array": PIXELS,
    "channels last": PIXELS.transpose(0, 2, 3, 1),
    "tensor": torch.from_numpy(PIXELS),
    "list of tensors": [*torch.from_numpy(PIXELS)],
    "images": [Image.fromarray(x.transpose(1, 2, 0)) for x in PIXELS],
    "dicts": [{"image": x} for x in torch.from_numpy(PIXELS)],
}


@pytest.mark.parametrize("items", PAIRED.values(), ids=PAIRED)
def test_items_with_labels_are_one_data_set(items):
    data = as_dataset(items)
    assert np.array_equal(data.values, PIXELS)
    assert data.mode == "RGB"
    assert np.array_equal(data.labels, LABELS)
    assert data.classes == (("a", "b", "c") if items is PAIRED["hub"] else ("0", "1", "2"))
    assert as_dataset(items, names=["x", "y", "z"]).classes == ("x", "y", "z")


@pytest.mark.parametrize("items", ALONE.values(), ids=ALONE)
def test_items_without_labels_are_one_data_set(items):
    data = as_dataset(items)
    assert np.array_equal(data.values, PIXELS)
    assert data.labels is None


def test_what_else_items_know_are_columns():
    data = as_dataset(Hub())
    assert np.array_equal(data.columns["age"], np.arange(12.0))
    vectors = as_dataset([{"x": x, "about": torch.tensor([k, 1.0])} for k, x in enumerate(torch.rand(3, 1, 4, 4))])
    assert np.array_equal(vectors.columns["about"], [[0, 1], [1, 1], [2, 1]])
    texts = as_dataset([{"x": x, "text": t} for x, t in zip(torch.rand(3, 1, 4, 4), ["a", None, "b c"], strict=True)])
    assert texts.columns["text"].tolist() == ["a", "", "b c"]


def test_tensors_have_their_channels_first_however_many_they_are():
    wide = torch.rand(4, 9, 6, 5)
    for items in (wide, [*wide]):
        assert np.array_equal(as_dataset(items).values, wide.numpy())


@pytest.mark.parametrize(
    ("shape", "wanted"), [((4,), (4, 1)), ((40,), (1, 40)), ((5, 6), (1, 5, 6)), ((2, 3, 4, 5), (2, 3, 4, 5))]
)
def test_items_of_other_axes(shape, wanted):
    assert as_dataset([*torch.rand(3, *shape)]).shape == wanted


def test_labels_that_are_numbers_with_fractions_are_a_column_and_no_classes():
    data = as_dataset([(x, k / 2) for k, x in enumerate(torch.rand(4, 1, 3, 3))])
    assert data.labels is None
    assert data.columns["label"].tolist() == [0.0, 0.5, 1.0, 1.5]


def test_missing_labels_are_missing():
    data = as_dataset([(x, y) for x, y in zip(torch.rand(4, 1, 3, 3), ["a", None, "b", "a"], strict=True)])
    assert data.labels.tolist() == [0, -1, 1, 0]


GOOD = [*torch.rand(5, 1, 4, 4)]


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([*GOOD[:3], torch.rand(1, 4, 5)], r"item 3 has the shape \(1, 4, 5\).*\(1, 4, 4\)"),
        ([*GOOD[:2], torch.full((1, 4, 4), torch.inf)], "item 2 holds infinite numbers"),
        (np.array([[0.0, 1.0], [2.0, np.inf]]), "item 1 holds infinite numbers"),
        ([*GOOD[:1], torch.rand(1, 0, 4)], "item 1 is empty"),
        ([*GOOD[:1], GOOD[1].double()], "item 1 has the type float64"),
        ([(GOOD[0], 1), (GOOD[1],)], "item 1 has the entries"),
        ([], "no items"),
        ([GOOD[0], "cat.png"], r"item 1 holds str 'cat.png'"),
        ([None], "item 0 holds NoneType"),
        ([{"a": GOOD[0], "b": GOOD[1]}], "call the one with the example 'image'"),
        (type("Endless", (IterableDataset,), {"__iter__": lambda self: iter(GOOD)})(), "a length"),
        (iter(GOOD), "a length"),
        (5, "a length"),
    ],
)
def test_what_is_no_data_set_is_one_sentence_that_names_the_item(items, words):
    with pytest.raises(UsageError, match=words):
        as_dataset(items)


def test_a_source_of_ones_own_is_trained_on_by_its_name(tmp_path):
    undiffuse.register_source("ramps", lambda rest: [np.linspace(k, 2 * k + 1, int(rest or 6)) for k in range(30)])
    assert open_data(DataConfig(source="ramps")).shape == (6, 1)
    assert open_data(DataConfig(source="ramps:20")).shape == (1, 20)
    model = undiffuse.train("ramps:4", runs=tmp_path, name="a", steps=2, batch_size=8)
    assert model.sample(2, steps=2).shape == (2, 4, 1)
    with pytest.raises(UsageError, match="'digits', 'ramps'"):
        open_data(DataConfig(source="slopes"))
    with pytest.raises(UsageError, match="taken"):
        undiffuse.register_source("digits", lambda rest: [])
    assert isinstance(as_dataset(open_data(DataConfig(source="digits"))), Dataset)


@pytest.mark.parametrize("text", ["pictures", Path("pictures")])
def test_a_path_is_no_data_set(text):
    with pytest.raises(UsageError, match="'pictures' is a text and no data set"):
        as_dataset(text)


def test_of_an_item_that_cannot_be_read_the_number_is_noted():
    class Broken(list):
        def __getitem__(self, k):
            if k == 3:
                raise OSError("broken file")
            return super().__getitem__(k)

    with pytest.raises(OSError, match="broken file") as found:
        as_dataset(Broken(torch.zeros(1, 4, 4) for _ in range(5)))
    assert found.value.__notes__ == ["while item 3 of 5 of the data set was read"]


def test_labels_that_are_none_of_the_names_are_refused_and_the_names_themselves_are_not():
    x = torch.zeros(1, 4, 4)
    with pytest.raises(UsageError, match="item 1 has the label 'dog', and the names are cat, cow"):
        as_dataset([(x, "cat"), (x, "dog")], names=["cat", "cow"])
    assert as_dataset([(x, "cat"), (x + 1, "cow")], names=["cat", "cow"]).classes == ("cat", "cow")


@pytest.mark.parametrize("masked", [0, 3])
def test_masked_values_are_missing(masked):
    values = np.ma.masked_array(np.random.default_rng(0).random((8, 4, 4)), mask=False)
    values.mask[:masked] = True
    if not masked:
        assert np.array_equal(as_dataset(values).values[:, 0], values.data.astype(np.float32))
        return
    data = as_dataset(values)
    assert (~data.known).sum() == 48
    assert not data.known[:masked].any()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(4).to_sparse(),
        torch.zeros(4, 4, device="meta"),
        torch.quantize_per_tensor(torch.zeros(4, 4), 0.1, 0, torch.quint8),
    ],
    ids=["sparse", "meta", "quantised"],
)
def test_tensors_without_plain_values_are_refused(tensor):
    for data in (tensor, [tensor, tensor]):
        with pytest.raises(UsageError, match="make it a plain one"):
            as_dataset(data)


def test_bfloat16_is_read_and_six_axes_are_refused():
    assert as_dataset(torch.eye(4, dtype=torch.bfloat16)[:, :, None]).values.dtype == np.float32
    with pytest.raises(UsageError, match="axes"):
        as_dataset(torch.zeros(2, 2, 2, 2, 2, 2))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_are_tables(library):
    module = pytest.importorskip(library)
    content = {"age": [3, 5, 8], "height": [1.5, 2.5, 3.5], "town": ["a", "b", None], "label": [1, 0, 1]}
    content = {name: 4 * cells for name, cells in content.items()}
    data = as_dataset(module.DataFrame(content))
    assert np.array_equal(data.values[:3, :, 0], [[3, 1.5, 0, 1], [5, 2.5, 1, 0], [8, 3.5, np.nan, 1]], equal_nan=True)
    assert [column.kind for column in data.table.columns] == ["integer", "number", "category", "boolean"]
    assert data.columns["town"].tolist() == ["a", "b", ""] * 4
    empty = as_dataset(module.DataFrame(content | {"age": 4 * [3, None, 8]}))
    assert np.isnan(empty.values[:3, :, 0]).tolist() == [
        [False] * 4,
        [True, False, False, False],
        [False] * 2 + [True, False],
    ]
    with pytest.raises(UsageError, match="infinite"):
        as_dataset(module.DataFrame(content | {"age": 4 * [3.0, np.inf, 8.0]}))
    with pytest.raises(UsageError, match="no rows"):
        as_dataset(module.DataFrame({"age": []}))


def test_a_data_set_of_hugging_face_is_read_with_its_names():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    pictures = [Image.fromarray(np.full((4, 5, 3), 9 * k, np.uint8)) for k in range(4)]
    data = as_dataset(datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 1, 0]}, features=features))
    assert data.shape == (3, 4, 5)
    assert (data.classes, data.labels.tolist()) == (("cat", "dog"), [0, 1, 1, 0])


def test_a_column_called_file_names_files_only_where_there_are_some(tmp_path):
    """Of data that was handed over it is a column as any other, and the rows of a table are taken in their order."""
    (tmp_path / "t.csv").write_text("age\n5\n6\n")
    items = [{"image": np.full((4, 4), k, np.uint8), "file": f"{k}.png"} for k in range(2)]
    data = with_settings(as_dataset(items), DataConfig(source="python:list", table=str(tmp_path / "t.csv")))
    assert data.columns["age"].tolist() == ["5", "6"]
