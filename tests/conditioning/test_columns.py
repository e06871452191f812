"""From columns to conditions: what is fitted, what every example becomes, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from undiffuse.conditioning.columns import column_values, condition_notes, encode_columns, fit_conditions
from undiffuse.conditioning.conditions import Conditions
from undiffuse.conditioning.spec import Condition
from undiffuse.conditioning.texts import WordsEncoder
from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import Loader, batch_indices
from undiffuse.data.sources import open_data
from undiffuse.errors import UsageError

NAN = float("nan")


def data_of(shape=(1, 4, 4), **columns):
    columns = {name: np.asarray(column) for name, column in columns.items()}
    n = len(next(iter(columns.values())))
    return Dataset("d", np.arange(n * np.prod(shape)).reshape(n, *shape).astype(np.uint8), columns=columns)


def fitted(data, name="it", dropout=0.1, **declared):
    """(the configuration, every example encoded)."""
    declared = {name: Condition(**declared)}
    configs = fit_conditions(data, declared, dropout)
    return configs[name], encode_columns(data, declared, Conditions(configs, 8))[name][np.arange(len(data))]


@pytest.mark.parametrize(
    ("column", "names", "encoded"),
    [
        (["10", "9", "2", "9"], ("2", "9", "10"), [2, 1, 0, 1]),
        (["b", "a", "10", "B"], ("10", "B", "a", "b"), [3, 2, 0, 1]),
        ([10, 9, 2, 9], ("2", "9", "10"), [2, 1, 0, 1]),
        ([10.0, NAN, 2.0, 9.0], ("2", "9", "10"), [2, 3, 0, 1]),
        ([0.5, 1.0, NAN, 0.25], ("0.25", "0.5", "1.0"), [1, 2, 3, 0]),
        (["cat", "", "dog", " "], ("cat", "dog"), [0, 2, 1, 2]),
        (["cat", "nan", "dog", "None"], ("cat", "dog"), [0, 2, 1, 2]),
        ([True, False, True, True], ("False", "True"), [1, 0, 1, 1]),
        (["1.0", "01", "1", "0"], ("0", "01", "1", "1.0"), [3, 1, 2, 0]),
    ],
)
def test_classes_are_in_the_order_of_numbers_where_they_are_numbers(column, names, encoded):
    config, values = fitted(data_of(it=column), kind="class")
    assert config.names == names
    assert values.tolist() == encoded
    assert config.missing == (len(names) in encoded)


def test_the_classes_of_folders_are_the_column_class():
    data = Dataset("d", np.zeros((3, 1, 2, 2), np.uint8), labels=np.array([1, 0, 1]), classes=("cat", "dog"))
    config, values = fitted(data, name="class", kind="class")
    assert (config.names, values.tolist()) == (("cat", "dog"), [1, 0, 1])
    assert fitted(data, name="species", kind="class", column="class")[1].tolist() == [1, 0, 1]


@pytest.mark.parametrize("column", [["30", "", "50", "40"], [30.0, NAN, 50.0, 40.0], [30, 35, 50, 40]])
def test_numbers_are_fitted_and_standardised(column):
    said = [float(value) for value in column if value not in ("", NAN) and value == value]
    config, values = fitted(data_of(it=column), kind="number")
    assert (config.low, config.high) == (min(said), max(said))
    assert config.mean == pytest.approx(np.mean(said), rel=1e-14)
    assert config.std == pytest.approx(np.std(said, ddof=1), rel=1e-14)
    assert values[:, 1].tolist() == [float(str(value) not in ("", "nan")) for value in column]
    z = values[values[:, 1] == 1, 0].double()
    np.testing.assert_allclose(
        z.numpy(), (np.array(said) - np.mean(said)) / np.std(said, ddof=1), atol=2**-23
    )  # float32, z < 2
    assert config.missing == (0 in values[:, 1])


def test_tags_from_texts_and_from_a_table_of_0_and_1():
    config, values = fitted(data_of(it=["red;round", "", "red", "big|round"]), kind="tags")
    assert config.names == ("big", "red", "round")
    assert values.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1], [0, 1, 0, 1], [1, 0, 1, 1]]
    for dtype in (np.uint8, bool, np.float64):
        config, values = fitted(data_of(it=np.array([[0, 1, 1], [0, 0, 0], [1, 0, 1]], dtype)), kind="tags")
        assert config.names == ("0", "1", "2")
        assert values.tolist() == [[0, 1, 1, 1], [0, 0, 0, 1], [1, 0, 1, 1]]
    config, values = fitted(data_of(it=[[0, 1.0], [NAN, NAN], [1, 1]]), kind="tags")
    assert values.tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 1]]
    assert config.missing


def test_vectors_are_standardised_number_by_number():
    column = np.array([[1.0, 5.0, 3.0], [3.0, 5.0, -1.0], [NAN, 5.0, 0.0], [8.0, 5.0, 7.0]])
    config, values = fitted(data_of(it=column), kind="vector")
    assert values[2].tolist() == [0, 0, 0, 0]
    assert config.missing
    said = values[[0, 1, 3]].double()
    assert (said[:, 3] == 1).all()
    assert (said[:, 1] == 0).all()  # always 5: nothing to tell, and no division by 0
    np.testing.assert_allclose(said[:, [0, 2]].mean(0), 0, atol=2**-22)
    np.testing.assert_allclose(said[:, [0, 2]].std(0), 1, atol=2**-22)


def test_texts_make_room_for_the_longest():
    config, values = fitted(data_of(it=["a red cat", "dog", "", "three more words!"]), kind="text")
    assert config.encoder == WordsEncoder(most=4)
    assert config.inject == "cross_attention"
    assert config.missing
    assert (values[:, :, 0] > 0).sum(1).tolist() == [3, 1, 0, 4]


@pytest.mark.parametrize(
    ("shape", "column", "fitted_shape"),
    [
        ((1, 4, 4), (5, 4, 4), (1, 4, 4)),
        ((3, 4, 4), (5, 2, 4, 6), (2, 4, 6)),
        ((3, 4, 4), (5, 4, 6, 2), (2, 4, 6)),
        ((1, 7), (5, 9), (1, 9)),
        ((1, 7), (5, 2, 9), (2, 9)),
        ((1, 7), (5, 9, 2), (2, 9)),
        ((1, 3, 4, 5), (5, 3, 4, 5), (1, 3, 4, 5)),
        ((1, 3, 4, 5), (5, 2, 3, 4, 5), (2, 3, 4, 5)),
    ],
)
def test_pictures_from_arrays_have_as_many_axes_as_the_examples(shape, column, fitted_shape):
    array = np.random.default_rng(0).random(column)
    array.flat[:2] = 0, 1
    config, values = fitted(data_of(shape, it=array), kind="image")
    assert (config.shape, config.low, config.high, config.inject) == (fitted_shape, 0, 1, "concat")
    assert values.shape == (5, fitted_shape[0] + 1, *fitted_shape[1:])
    first = array if array.ndim == len(shape) else np.moveaxis(array, -1, 1) if column[-1] == fitted_shape[0] else array
    np.testing.assert_allclose(values[:, :-1].numpy().reshape(first.shape), 2 * first - 1, atol=2**-22)


def test_pictures_that_are_missing_are_nan():
    array = np.random.default_rng(0).random((4, 3, 3)).astype(np.float32)
    array[2, 1, 1] = NAN
    config, values = fitted(data_of(it=array), kind="image")
    assert config.missing
    assert (values[2] == 0).all()
    assert (values[[0, 1, 3], 1] == 1).all()


def test_pictures_from_the_files_that_a_table_names(tmp_path):
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(0, 256, (4, 4), dtype=np.uint8) for name in ("a", "b", "m", "n")}
    for name, values in pictures.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text("file,mask\na.png,n.png\nb.png,m.png\n")
    data = open_data(DataConfig(source=str(tmp_path / "t.csv")))
    config, values = fitted(data, name="mask", kind="image")
    assert (config.shape, config.mode, config.low, config.high) == ((1, 4, 4), "L", 0, 255)
    expected = np.stack([pictures["n"], pictures["m"]]) / 255 * 2 - 1
    np.testing.assert_allclose(values[:, 0].numpy(), expected, atol=2**-22)
    assert fitted(data, name="mask", kind="image", channels="rgb")[0].shape == (3, 4, 4)
    (tmp_path / "t.csv").write_text("file,mask\na.png,n.png\nb.png,gone.png\n")
    with pytest.raises(ValueError, match=r"image 'mask': 1 of 2 images .* cannot be read: gone\.png"):
        fitted(open_data(DataConfig(source=str(tmp_path / "t.csv"))), name="mask", kind="image")


def test_tasks_are_never_dropped():
    config, values = fitted(data_of(it=["b", "a", "b"]), dropout=0.4, kind="task")
    assert (config.names, config.dropout, config.droppable, values.tolist()) == (("a", "b"), 0, False, [1, 0, 1])


def test_a_drop_of_its_own_comes_before_the_design_s():
    data = data_of(it=["a", "b"])
    assert fitted(data, dropout=0.3, kind="class")[0].dropout == 0.3
    config = fit_conditions(data, {"it": Condition(kind="class", dropout=0.0, inject="concat")}, 0.3)["it"]
    assert (config.dropout, config.inject) == (0, "concat")


@pytest.mark.parametrize(
    ("kind", "column", "words"),
    [
        ("number", [5, 5, 5], "5 in every row: there is nothing to learn"),
        ("number", ["1", "old", "3"], "of example 2, 'old' is no number"),
        (
            "number",
            ["1", "2", "150,72"],
            "of example 3, '150,72' is no number: for a decimal comma write a point, 150.72",
        ),
        ("number", [1.0, float("inf"), 2.0], "no finite number"),
        ("number", [[1.0], [2.0], [3.0]], "a vector is several"),
        ("number", ["", "nan", ""], "no row has a value"),
        ("class", ["a", "a", ""], "only one value, 'a'"),
        ("class", [NAN, NAN, NAN], "no row has a value"),
        ("task", ["a", "", "b"], "1 rows name no task"),
        ("tags", ["", "-", ""], "no row names any"),
        ("tags", ["red", "", "red"], "only one value, 'red'"),
        ("tags", [[0, 2], [1, 0], [1, 1]], "holds other values"),
        ("tags", [["a", "b"]] * 3, "holds other values"),
        ("vector", ["1;2", "3;4", "5"], r"shape \(3,\) and type <U3"),
        ("vector", [1.0, 2.0, 3.0], r"shape \(3,\)"),
        ("vector", [[1.0, 2.0]] * 3, "the same in every row"),
        ("vector", [[NAN, 1.0]] * 3, "all missing"),
        ("vector", [[1.0, float("inf")], [1.0, 2.0], [0.0, 0.0]], "infinite"),
        ("text", ["", "", " "], "no row has a value"),
        ("text", [["a"]] * 3, "a text is one value for each example"),
        ("image", np.zeros((3, 4, 4)), "same value everywhere"),
        ("image", np.full((3, 4, 4), NAN), "all missing"),
        ("image", [1.0, 2.0, 3.0], "holds no pictures"),
        ("image", np.zeros((3, 8)), "holds no pictures"),
        ("image", np.zeros((3, 1, 2, 3, 4)), "holds no pictures"),
    ],
)
def test_columns_that_do_not_fit_are_refused_by_name(kind, column, words):
    with pytest.raises(ValueError, match=words) as caught:
        fitted(data_of(it=column), kind=kind)
    assert str(caught.value).startswith(f"{kind} 'it': ")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ({"kind": "class", "encoder": "words"}, "an encoder reads texts"),
        ({"kind": "text", "pooling": "mean"}, "pooling belongs to a transformer"),
        ({"kind": "number", "channels": "rgb"}, "channels are those of pictures"),
        ({"kind": "task", "dropout": 0.1}, "never dropped"),
        ({"kind": "sound"}, "kind"),
        ({"kind": "class", "dropout": 1.0}, "drop"),
        ({"kind": "class", "colum": "x"}, "colum"),
    ],
)
def test_declarations_that_would_be_ignored_are_refused(declared, words):
    with pytest.raises(UsageError, match=words):
        Condition(**declared)


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="number 'age': the data has no column 'years': its columns are it"):
        fitted(data_of(it=[1, 2]), name="age", kind="number", column="years")


def test_what_examples_say_can_be_asked_for_again():
    """said_in, asked of the model, is the same as the columns encoded: previews show what the data says."""
    pictures = np.random.default_rng(0).random((4, 4, 4))
    pictures[1] = NAN
    data = data_of(
        kind=["a", "b", "", "a"],
        age=[1.0, NAN, 3.0, 2.0],
        tags=["red", "", "red;big", "-"],
        text=["a b", "c", "", "d"],
        vector=[[1.0, 2.0], [NAN, 0.0], [3.0, 3.0], [0.0, 1.0]],
        image=pictures,
    )
    declared = {name: Condition(kind={"kind": "class", "age": "number"}.get(name, name)) for name in data.columns}
    conditions = Conditions(fit_conditions(data, declared, 0.1), 8)
    values, rows = encode_columns(data, declared, conditions), np.array([3, 1, 2, 1])
    asked = {name: column_values(data, name, condition, rows) for name, condition in declared.items()}
    assert (
        asked["vector"][1] is None,
        asked["image"][1] is None,
        asked["age"][1] is None,
        asked["kind"][2] is None,
    ) == (True,) * 4
    again = conditions.encode(asked, 4)
    for name, value in again.items():
        assert torch.equal(value, values[name][rows]), name


@pytest.mark.parametrize("kept", [2**28, 100])
def test_the_loader_hands_out_the_rows_of_its_examples(monkeypatch, kept):
    """Each example keeps what is said of it, whether all is kept encoded or read batch by batch."""
    monkeypatch.setattr(Loader, "KEPT_ENCODED", kept)
    data = data_of((1, 2, 2), k=np.arange(20))
    values = {"k": torch.arange(20), "v": torch.arange(40.0).reshape(20, 2)}
    codec = Codec(fitted_codec(data))
    loader = Loader(data, codec, 6, 3, torch.device("cpu"), values)
    for step in range(7):
        x, told = loader(step)
        rows = torch.from_numpy(batch_indices(20, 6, 3, step))
        assert torch.equal(told["k"], rows)
        assert torch.equal(told["v"], values["v"][rows])
        assert torch.equal(x, codec.encode(data.values[rows.numpy()]))


# What is measured, and on what -----------------------------------------------------------------------------------------------------------

TRAINED, KEPT = np.arange(0, 40, 2), np.arange(1, 40, 2)


def measured(column, rows=TRAINED, alike=False, **declared):
    return fit_conditions(data_of(it=column), {"it": Condition(**declared)}, 0.1, rows=rows, legacy=alike)["it"]


def test_statistics_are_those_of_the_training_rows_and_names_those_of_all():
    numbers, vectors = np.arange(40.0) ** 2, np.random.default_rng(0).normal(size=(40, 3))
    numbers[KEPT] += 1000
    vectors[KEPT] += 100
    config = measured(numbers, kind="number")
    assert config.mean == pytest.approx(numbers[TRAINED].mean(), rel=1e-12)
    assert config.std == pytest.approx(numbers[TRAINED].std(ddof=1), rel=1e-12)
    assert (config.low, config.high) == (numbers.min(), numbers.max())
    config = measured(vectors, kind="vector")
    np.testing.assert_allclose(config.mean, vectors[TRAINED].mean(0), rtol=1e-12)
    np.testing.assert_allclose(config.std, vectors[TRAINED].std(0, ddof=1), rtol=1e-12)
    names = np.where(np.isin(np.arange(40), KEPT), "kept", "trained")
    assert measured(names, kind="class").names == ("kept", "trained")
    assert measured(names, kind="tags").names == ("kept", "trained")
    assert measured(np.where(names == "kept", "three words here", "one"), kind="text").encoder.most == 3
    before = measured(numbers, alike=True, kind="number")  # a run of older code goes on with what it measured
    assert (before.mean, before.std) == (
        pytest.approx(numbers.mean(), rel=1e-12),
        pytest.approx(numbers.std(ddof=1), rel=1e-12),
    )


def test_the_size_of_a_texts_states_is_that_of_the_training_rows(folder):
    texts = np.array(["a red cat", "a dog"] * 20)
    both, trained = (measured(texts, rows, kind="text", encoder=str(folder)).encoder.scale for rows in (None, TRAINED))
    alone = measured(np.array(["a red cat"] * 40), None, kind="text", encoder=str(folder)).encoder.scale
    assert trained == alone != both


def test_what_columns_do_not_say_is_counted_and_names_like_nothing_are_pointed_out():
    data = data_of(
        kind=["cat", "NA", "", "dog", "cat", "hare"],
        age=[1.0, NAN, NAN, 4.0, 5.0, 6.0],
        text=["a", " ", "", "b", "c", "d"],
    )
    declared = {
        "kind": Condition(kind="class"),
        "age": Condition(kind="number"),
        "text": Condition(kind="text"),
        "gone": Condition(kind="class"),
    }
    found = condition_notes(data, declared, np.array([0, 1, 2, 3, 4]))
    assert [note.split(" (")[0] for note in found if "have no" in note] == [
        "1 of 6 examples have no 'kind'",
        "2 of 6 examples have no 'age'",
        "2 of 6 examples have no 'text'",
    ]
    assert any("'NA' is a class of its own in 'kind'" in note for note in found)
    assert any("no example that is trained on says the class 'hare' of 'kind'" in note for note in found)
    assert len(found) == 5
    assert condition_notes(data_of(kind=["a", "b"] * 3), {"kind": Condition(kind="class")}, np.arange(4)) == []
