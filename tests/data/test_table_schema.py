"""Tables: cells and numbers correspond for every kind of column, kinds are found as people would, files come back, relations always hold."""

from __future__ import annotations

import datetime
import json
import random

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undiffuse.data.dataset import MISSING
from undiffuse.data.inspection import report
from undiffuse.data.table_cells import EMPTY_TEXTS, TableColumn, date_reader, date_writer
from undiffuse.data.table_files import read_table
from undiffuse.data.table_kinds import FEW_TEXTS, FEW_WHOLE, OFTEN, SENTENCE, found_kind
from undiffuse.data.table_relations import Relations
from undiffuse.data.table_schema import ROWS_AT_ONCE, TableSchema
from undiffuse.errors import UsageError

ROWS = 120


def cycled(*cells, count=ROWS):
    return [cells[k % len(cells)] for k in range(count)]


def schema_of(content, suffix=".csv", kinds=None, relations=()):
    return TableSchema.infer(content, suffix, kinds or {}, relations)


def kind_of(cells, **more):
    return found_kind("c", cells, **more).kind


WORDS = ["red", "blue", "Grün", "日本", 'a "quoted" word', "two, cells", "two\nlines", " space", "NA"]
TEXTS = {  # what is in a file as texts: written back, it is the same to the letter
    "price": cycled("1.50", "12.25", "-3.00", "0.07", "1000000.99", "-0.01"),
    "short": [repr(k / 7 + 1 / 3) for k in range(ROWS)],
    "huge": [f"{k}.5e+300" for k in range(1, 10)] * 10 + ["1.5e-300"] * 30,
    "comma": cycled("3,14", "-2,70", "10,00", ""),
    "many digits": [f"{k}456.{k:03d}456789" for k in range(100, 100 + ROWS)],
    "long comma": [repr(k / 7 + 1 / 3).replace(".", ",") for k in range(ROWS)],
    "count": [str(37 * k % 1001) for k in range(ROWS)],
    "floats of pandas": cycled("1.0", "300.0", "17.0", "", count=ROWS - 30) + [f"{k}.0" for k in range(100, 130)],
    "year": cycled(*map(str, range(2010, 2020))),
    "class": cycled("0", "1", "2"),
    "code": cycled("10", "20", "35", "9"),
    "truth": cycled("yes", "no", "no", ""),
    "Truth": cycled("TRUE", "FALSE"),
    "bit": cycled("0", "1", "1"),
    "word": cycled(*WORDS),
    "zip": cycled("01234", "99999", "00501"),
    "mixed": cycled("1", "2", "three", "4.5"),
    "constant": cycled("always, this"),
    "iso": cycled("2026-12-31", "1969-01-01", "0999-02-28", "9999-12-31", ""),
    "german": cycled("31.12.2026", "01.01.1970"),
    "american": cycled("12/31/2026", "01/02/1970"),
    "british": cycled("31/12/2026", "02/01/1970"),
    "minute": cycled("2026-12-31 23:59", "1950-06-01 00:00"),
    "second": cycled("2026-12-31T23:59:58Z", "1950-06-01T00:00:01Z"),
    "fraction": cycled("2026-12-31T23:59:58.123", "1950-06-01T00:00:01.999"),
}
KINDS = {
    **dict.fromkeys(("price", "short", "huge", "comma", "many digits", "long comma"), "number"),
    **dict.fromkeys(("count", "floats of pandas", "year"), "integer"),
    **dict.fromkeys(("truth", "Truth", "bit"), "boolean"),
    **dict.fromkeys(("class", "code", "word", "zip", "mixed"), "category"),
    "constant": "constant",
    **dict.fromkeys(("iso", "german", "american", "british", "minute", "second", "fraction"), "date"),
}
DAY = datetime.date(1950, 1, 31)
ZONE = datetime.UTC
TYPED = {
    "number": cycled(1.5, -2.25, None, 1e300, 1 / 3),
    "count": [37 * k % 1001 for k in range(ROWS)],
    "whole floats": cycled(*(float(37 * k % 1001) for k in range(40)), None),
    "truth": cycled(True, False, None),
    "class": cycled(1, 2, 3),
    "float class": cycled(1.0, 2.0, 4.0),
    "bit": cycled(0, 1),
    "word": cycled("a", "b", None),
    "number as text": cycled("1.50", "2.75"),
    "constant": cycled(2.5),
    "constant day": cycled(DAY),
    "nothing": cycled(None),
    "day": [DAY + datetime.timedelta(days=k) for k in range(ROWS)],
    "moment": [datetime.datetime(2026, 12, 31, 23, 59, 58, 250000) + datetime.timedelta(hours=k) for k in range(ROWS)],
    "zoned": [datetime.datetime(2026, 12, 31, 23, tzinfo=ZONE) + datetime.timedelta(hours=k) for k in range(ROWS)],
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_come_back_to_the_letter(name):
    content = {name: TEXTS[name], "other": TEXTS["price"]}
    for suffix in (".csv", ".tsv"):
        schema = schema_of(content, suffix)
        assert schema.columns[0].kind == KINDS[name], schema.describe()
        assert schema.cells(schema.values(content)) == content


def test_typed_cells_come_back_with_their_types():
    schema = schema_of(TYPED, ".parquet")
    cells = schema.cells(schema.values(TYPED))
    assert cells == TYPED
    assert {name: {type(cell) for cell in column} for name, column in cells.items()} == {
        name: {type(cell) for cell in column} for name, column in TYPED.items()
    }


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_file_comes_back(tmp_path, suffix):
    """What is read of a written file is what was read of the file it was made of, for columns of all kinds and names."""
    content = {**TEXTS, "names": [f"row-{k}" for k in range(ROWS)], 'a "name", with\nsigns': cycled("x", "y")}
    if suffix in (".jsonl", ".parquet"):
        content |= {
            name: cells
            for name, cells in TYPED.items()
            if suffix == ".parquet" or not name.endswith(("day", "moment", "zoned"))
        }
    schema = schema_of(content, suffix)
    assert not next(column for column in schema.columns if column.name == "names").generated
    path = tmp_path / f"out{suffix}"
    schema.write(path, schema.values(content))
    empty = "" if suffix in (".csv", ".tsv") else None
    expected = {
        name: [empty if cell in ("", None) or name == "names" else cell for cell in cells]
        for name, cells in content.items()
    }
    assert read_table(path) == expected
    assert TableSchema.model_validate_json(schema.model_dump_json()) == schema


def test_parts_of_a_file_are_one_file(tmp_path):
    """More rows than are written at once, the first of them without a value in one column."""
    count = ROWS_AT_ONCE + 5
    content = {"a": [str(k % 7 + 0.5) for k in range(count)], "b": [""] * (count - 2) + ["x", "y"]}
    for suffix in (".csv", ".jsonl", ".parquet"):
        schema = schema_of(content, suffix, {"b": "category"})
        schema.write(tmp_path / f"t{suffix}", schema.values(content))
        found = read_table(tmp_path / f"t{suffix}")
        assert [str(cell) for cell in found["a"]] == content["a"]
        assert found["b"][-2:] == ["x", "y"]
        assert not any(found["b"][:-2])


def test_a_parquet_file_has_the_types_of_its_columns(tmp_path):
    schema = schema_of(TYPED, ".parquet")
    schema.write(tmp_path / "t.parquet", schema.values(TYPED))
    types = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(tmp_path / "t.parquet")}
    assert types == {
        "number": "double", "count": "int64", "whole floats": "double", "truth": "bool", "class": "int64", "float class": "double",
        "bit": "int64", "word": "string", "number as text": "string", "constant": "double", "constant day": "date32[day]",
        "nothing": "string", "day": "date32[day]", "moment": "timestamp[us]", "zoned": "timestamp[us, tz=UTC]",
    }  # fmt: skip


numbers_written = st.one_of(
    st.floats(-1e6, 1e6).map(lambda x: f"{x + 0.0:.2f}"),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(-(2**53), 2**53).map(str),
)


@given(st.lists(numbers_written | st.sampled_from(["", "nan", "?", "NA"]), min_size=1, max_size=60))
@settings(deadline=None)
def test_numbers_are_those_of_python(cells):
    """float() is the truth. Numbers as written are read again as the same ones."""
    column = TableColumn(name="c", kind="number", why="said so")
    values = column.read(cells)
    expected = [float(cell) if cell not in ("", "nan", "?", "NA") else np.nan for cell in cells]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(column.read(column.written(values, True)), expected)


@given(
    st.datetimes(),
    st.sampled_from(
        ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y-%m-%dT%H:%M", "%d/%m/%Y %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f"]
    ),
)
@settings(deadline=None)
def test_dates_are_those_of_strptime(moment, date_format):
    text = date_writer(date_format, 6)((moment - datetime.datetime(1970, 1, 1)).total_seconds())
    parsed = datetime.datetime.strptime(text, date_format)
    assert moment - parsed < datetime.timedelta(days=1)
    assert all(getattr(parsed, part) in (getattr(moment, part), 0) for part in ("hour", "minute", "second"))
    assert date_reader(date_format)(text) == pytest.approx(
        (parsed - datetime.datetime(1970, 1, 1)).total_seconds(), abs=2e-5
    )
    assert date_writer(date_format, 6)(date_reader(date_format)(text)) == text


def test_dates_are_those_of_numpy():
    column = found_kind("c", ["2026-02-28T13:14:15.5", "1901-12-31T00:00:00"])
    seconds = np.array(["2026-02-28T13:14:15.5", "1901-12-31T00:00:00"], "datetime64[ms]").astype(np.int64) / 1000
    assert column.read(["2026-02-28T13:14:15.5", "1901-12-31T00:00:00"]).tolist() == seconds.tolist()


@pytest.mark.parametrize(
    ("cells", "kind", "why"),
    [
        (cycled("", "nan", "null"), "constant", "all 120 cells are empty"),
        (["x"] * 5, "constant", "the same"),
        (["5", "", "5"], "category", "one value, or an empty cell"),
        (cycled("1", "0", ""), "boolean", "0 and 1"),
        (cycled("t", "f", "NA"), "category", "NA is a value like the others"),
        (cycled("0", "1", "NA"), "boolean", "NA is an empty cell"),
        (cycled("NA", "EU", "US"), "category", "NA is a value like the others"),
        (cycled("0.5", "?", "2.5"), "number", "? is an empty cell"),
        (cycled("2026-12-31", "N/A"), "date", "N/A is an empty cell"),
        (cycled("01234", "99999"), "category", "zeros in front"),
        (["01234", *map(str, range(10000, 10100))], "identifier", "zeros in front"),
        (cycled(*map(str, range(1990, 2026))), "integer", "1990 to 2025"),
        (cycled(*map(str, range(2015, 2025))), "integer", "2015 to 2024"),
        (cycled(*map(str, range(12))), "integer", "0 to 11"),
        (cycled(*map(str, range(10))), "category", "from 0 on"),
        (cycled("1", "2", "3"), "category", "from 1 on"),
        (cycled("4", "6", "8"), "category", "gaps"),
        (cycled("4", "6", "8", count=14), "integer", "4 to 8"),
        ([str(k) for k in random.Random(0).sample(range(100), 100)], "identifier", "counts the rows"),
        ([*map(str, range(50)), "", *map(str, range(50, 60))], "integer", "0 to 59"),
        (cycled("1e300", "-1e300"), "number", "-1e+300 to 1e+300"),
        (cycled("-0.0", "0.5"), "number", "0 to 0.5"),
        (cycled("1,234", "12,345"), "category", "thousands"),
        (cycled("1,234.50", "12,345.00"), "category", "thousands"),
        (cycled("1,5", "2,25"), "number", "1.5 to 2.25"),
        (cycled("1_000", "2_000"), "category", "2 different"),
        (cycled("inf", "1.5"), "category", "numbers and words"),
        (cycled("1e999", "1.5"), "category", "numbers"),
        ([str(2**60 + k // 2) for k in range(40)], "category", "beyond what float64 holds"),
        ([str(2**60 + k) for k in range(40)], "identifier", "beyond what float64 holds"),
        (cycled("1", "2", "three"), "category", "numbers and words"),
        ([f"{k} m" if k % 2 else str(k) for k in range(ROWS)], "text", "numbers and words"),
        (cycled("05/06/2026", "07/08/2026"), "category", "which number is the month"),
        (cycled("05/06/2026", "07/18/2026"), "date", "%m/%d/%Y"),
        (cycled("05/06/2026", "2026-05-06"), "category", "2 different"),
        (cycled("2026-02-28", "2026-02-30"), "category", "2 different"),
        ([f"user{k}" for k in range(ROWS)], "identifier", "without spaces"),
        (cycled("123e4567-e89b-12d3-a456-426614174000", "123e4567-e89b-12d3-a456-426614174001"), "identifier", "UUID"),
        ([f"the cat number {k // 3} sat" for k in range(300)], "text", "words on average"),
        ([f"First{k} Last" for k in range(ROWS)], "text", "different"),
        (cycled("some college no degree", "high school"), "category", "2 different"),
        ([f"word{k % 1000}" for k in range(3000)], "category", "1,000 different"),
        ([f"word{k % 1001}" for k in range(20000)], "text", "1,001 different"),
        (cycled(True, False), "boolean", "false and true"),
        (cycled([1, 2], [3]), "category", "2 different"),
        (cycled(float("nan"), 2.5, 3.5), "number", "2.5 to 3.5"),
        (cycled(np.int64(7), np.int64(700)), "category", "gaps"),
    ],
)  # fmt: skip
def test_kinds_are_found_as_people_would(cells, kind, why):
    column = found_kind("c", cells)
    assert (column.kind, why in column.why) == (kind, True), column.why
    if column.generated:
        values = column.read(cells)
        assert column.missing == bool(np.isnan(values).any())
        assert [str(cell) for cell in column.written(values, True)] == [
            "" if value != value else text for value, text in zip(values, column.written(values, True), strict=True)
        ]


def test_values_of_a_category_are_sorted_numbers_by_size():
    assert found_kind("c", cycled("10", "9", "1")).values == ("1", "9", "10")
    assert found_kind("c", cycled("b", "10", "9")).values == ("10", "9", "b")


def test_rules_that_are_written_twice_are_the_same():
    """data/dataset.py and inspection/report.py import the schema, so that it cannot import them."""
    assert set(MISSING) == EMPTY_TEXTS
    assert (FEW_WHOLE, OFTEN) == (report.FEW_VALUES, report.EACH_OFTEN)
    assert (FEW_TEXTS, SENTENCE) == (report.MOST_NAMES, report.SENTENCE_WORDS)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"aeg": "number"}, "no column 'aeg': did you mean 'age'?"),
        ({"age": "numbr"}, "of the kind 'numbr', which there is not: did you mean 'number'?"),
        ({"word": "number"}, "said to hold numbers but holds 'abc' in row 1"),
        ({"half": "integer"}, "said to hold whole numbers but holds '0.5' in row 2"),
        ({"word": "date"}, "said to hold dates but holds 'abc' in row 1: write all of them as 2026-12-31"),
        ({"when": "date"}, "but holds '2026-02-30' in row 3"),
        ({"month": "date"}, "do not say which number is the month"),
        ({"age": "boolean"}, "is said to be boolean but holds 4 different values"),
        ({"age": "constant"}, "is said to be constant but holds '30' and '41'"),
        ({"big": "number"}, "without separators of thousands"),
        (dict.fromkeys(("age", "half", "word", "when", "month", "big"), "text"), "nothing to generate"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(kinds, message):
    content = {
        "age": ["30", "41", "52", "63"],
        "half": ["1", "0.5", "2", "3"],
        "word": ["abc", "5", "abc", "5"],
        "when": ["2026-02-27", "2026-02-28", "2026-02-30", ""],
        "month": ["01/02/2026", "02/03/2026", "", ""],
        "big": ["1,000", "2,000", "1,000", "2,000"],
    }
    with pytest.raises(UsageError) as error:
        schema_of(content, kinds=kinds)
    assert message in str(error.value)
    assert str(error.value).endswith((".", "?"))


def test_what_is_said_of_a_column_holds():
    content = {
        "n": cycled("1", "2", "3"),
        "zip": cycled("01234", "99999"),
        "id": [str(k) for k in range(ROWS)],
        "c": cycled("1.5", "2.5", "NA"),
    }
    schema = schema_of(content, kinds={"n": "integer", "zip": "integer", "id": "category", "c": "category"})
    assert [column.kind for column in schema.columns] == ["integer", "integer", "category", "category"]
    assert schema.cells(schema.values(content))["zip"][0] == "1234"
    assert schema.columns[3].missing


def test_a_cell_of_other_data_that_does_not_fit_is_named():
    content = {"a": cycled("1.5", "2.5"), "b": cycled("x", "y", "z")}
    schema = schema_of(content)
    with pytest.raises(UsageError, match=r"column 'a' holds 'oops' in row 2, which is no number"):
        schema.values({"a": ["1", "oops"], "b": ["x", "y"]})
    with pytest.raises(UsageError, match=r"column 'b' holds 'w' in row 1, which is none of its 3 values \(x, y, z\)"):
        schema.values({"a": ["1"], "b": ["w"]})
    with pytest.raises(UsageError, match="no column 'b'"):
        schema.values({"a": ["1"]})
    with pytest.raises(UsageError, match=r"'9007199254740993' in row 1, which is no whole number"):
        TableColumn(name="n", kind="integer", why="said so").read([str(2**53 + 1), "1"])
    assert np.isnan(schema.values({"a": ["NA"], "b": [""]})).all()


def test_any_numbers_are_written_as_cells_that_can_be_read():
    """Whatever a model generates: whole numbers stay exact, categories known, dates between the years 1 and 9999."""
    content = {name: TEXTS[name] for name in TEXTS if name != "constant"}
    schema = schema_of(content)
    wild = np.array([-1e30, -1e17, -0.4, 0.5, 1e9 + 0.3, 1e17, 1e30])[:, None].repeat(len(content), 1)
    cells = schema.cells(wild)
    again = schema.values(cells)
    assert np.isfinite(again).all()
    assert schema.cells(again) == cells
    assert abs(again[:, [c.name for c in schema.generated].index("count")]).max() == 2**53 - 1
    assert "-0.0" not in cells["price"]
    assert "-0.00" not in schema.cells(np.full((1, len(content)), -0.001))["price"]


def test_more_digits_than_float64_has_are_written_as_those_that_it_has():
    cells = [f"{k}23456789012.123456789" for k in range(1, ROWS)]
    schema = schema_of({"a": cells})
    values = schema.values({"a": cells})
    written = schema.cells(values)["a"]
    assert [float(cell) for cell in written] == [float(cell) for cell in cells] == values[:, 0].tolist()
    assert max(map(len, written)) < min(map(len, cells))


def test_empty_cells_are_empty_and_constants_stay():
    content = {"a": cycled("1.5", "2.5", ""), "name": [f"id{k}" for k in range(ROWS)], "same": cycled("s")}
    schema = schema_of(content)
    assert schema.cells(np.full((2, 1), np.nan)) == {"a": ["", ""], "name": ["", ""], "same": ["s", "s"]}
    typed = schema.model_copy(update={"suffix": ".jsonl"})
    assert typed.cells(np.full((1, 1), np.nan)) == {"a": [None], "name": [None], "same": ["s"]}


def test_a_line_of_json_has_no_nan(tmp_path):
    schema = schema_of({"a": cycled(1.5, None, 2.5)}, ".jsonl")
    schema.write(tmp_path / "t.jsonl", np.array([[np.nan], [1.5]]))
    assert [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()] == [{"a": None}, {"a": 1.5}]


# --- relations ---

RELATIONS = (
    "start < end",
    "end <= last",
    "low<high",
    "'net sum' = a + b",
    '`grand` = "net sum"+c',
    "whole < more",
    "first > begin",
)


@pytest.fixture
def related():
    r = np.random.default_rng(0)
    day = np.datetime64("2026-01-01")
    start = day + r.integers(0, 200, ROWS)
    end = start + r.integers(1, 30, ROWS)
    last = end + r.integers(0, 3, ROWS)
    low = r.standard_normal(ROWS)
    high = low + r.random(ROWS) + 1e-3
    a, b, c = r.integers(0, 10000, (3, ROWS)) / 100
    whole = r.integers(0, 1000, ROWS)
    begin = r.integers(0, 1000, ROWS) / 10
    content = {
        "last": last, "end": end, "start": start, "low": low, "high": high, "a": [f"{x:.2f}" for x in a], "b": [f"{x:.2f}" for x in b],
        "c": [f"{x:.2f}" for x in c], "grand": [f"{x:.2f}" for x in a + b + c], "net sum": [f"{x:.2f}" for x in a + b],
        "whole": whole, "more": whole + r.integers(1, 5, ROWS), "begin": begin, "first": np.round(begin + 0.1 + r.integers(0, 50, ROWS) / 10, 1),
        "colour": cycled("red", "blue"),
    }  # fmt: skip
    return {name: [str(cell) for cell in cells] for name, cells in content.items()}


def test_the_free_form_leads_back(related):
    schema = schema_of(related, relations=RELATIONS)
    values = schema.values(related)
    free = schema.related.to_free(values)
    assert free.shape == (ROWS, len(schema.related.columns_free)) == (ROWS, values.shape[1] - 2)
    assert {name for name, gap in schema.related.columns_free if gap} == {"end", "last", "high", "more", "first"}
    again, repaired = schema.related.from_free(free)
    assert repaired == 0
    exact = [column.step > 0 for column in schema.generated]
    np.testing.assert_array_equal(again[:, exact], values[:, exact])
    # a + (b - a) is b but for the rounding of two operations on numbers below 5
    np.testing.assert_allclose(again, values, atol=2 * 5 * 2.0**-53, rtol=0)
    assert schema.cells(again)["grand"] == related["grand"]


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 1.0, 1e4]))
@settings(deadline=None, max_examples=40)
def test_every_relation_holds_in_every_row_and_in_its_cells(seed, scale):
    """Truth: numbers read from the cells as they would be in the file, compared one by one."""
    day = 86400.0
    columns = [
        ("start", {"kind": "date", "date_format": "%Y-%m-%d"}),
        ("end", {"kind": "date", "date_format": "%Y-%m-%d"}),
        ("last", {"kind": "date", "date_format": "%Y-%m-%d %H:%M"}),
        ("low", {"kind": "number"}),
        ("high", {"kind": "number"}),
        ("a", {"kind": "number", "decimals": 2}),
        ("b", {"kind": "number", "decimals": 1}),
        ("total", {"kind": "number", "decimals": 2}),
        ("whole", {"kind": "integer"}),
        ("more", {"kind": "integer"}),
    ]
    made = tuple(TableColumn(name=name, why="said so", **more) for name, more in columns)
    relations = ("whole < more", "end <= last", "start < end", "total = a + b", "high > low", "a < whole")
    schema = TableSchema(columns=made, suffix=".csv", relations=relations, least_gaps=(1, 0, day, 0, 0.01, 0.5))
    free = np.random.default_rng(seed).standard_normal((300, 9)) * scale
    values, repaired = schema.related.from_free(free)
    assert repaired > 0
    schema.related.check(values)
    cells = schema.cells(values)
    seconds = {
        name: [np.datetime64(cell).astype("datetime64[s]").astype(int) for cell in cells[name]]
        for name in ("start", "end", "last")
    }
    numbers = {
        name: [float(cell) for cell in cells[name]] for name in ("low", "high", "a", "b", "total", "whole", "more")
    }
    for row in range(300):
        at = {name: each[row] for name, each in (seconds | numbers).items()}
        assert at["start"] + day <= at["end"] <= at["last"]
        assert at["high"] > at["low"]
        assert at["high"] - at["low"] >= 0.01 - 4 * np.spacing(abs(at["high"]))
        assert round(100 * at["a"]) + round(100 * at["b"]) == round(100 * at["total"])
        assert at["a"] < at["whole"] < at["more"]
        assert at["whole"] + 1 <= at["more"]


def test_rows_in_which_nothing_is_wrong_are_not_changed_by_repairs():
    columns = tuple(TableColumn(name=name, kind="integer", why="said so") for name in "ab")
    related = Relations(columns, ("a < b",))
    values, repaired = related.from_free(np.array([[1.0, 2.0], [5.0, 0.0], [7.0, -3.0], [np.nan, 1.0], [1.0, np.nan]]))
    assert repaired == 2
    np.testing.assert_array_equal(values, [[1, 3], [5, 6], [7, 8], [np.nan, np.nan], [1, np.nan]])


def test_the_order_of_declarations_does_not_matter(related):
    free = np.random.default_rng(1).standard_normal((50, 13)) * 100
    forms = [schema_of(related, relations=order).related.from_free(free)[0] for order in (RELATIONS, RELATIONS[::-1])]
    np.testing.assert_array_equal(*forms)


def test_data_that_breaks_a_relation_is_refused_by_row(related):
    related["end"][4] = related["start"][4]
    related["end"][90] = "2020-01-01"
    with pytest.raises(
        UsageError,
        match=r"'start < end' does not hold in 2 of 120 rows \(row 5, 91; in the first, end is (\S+), start is \1\)",
    ):
        schema_of(related, relations=["start < end"])
    schema_of(
        {**related, "end": ["" if k in (4, 90) else cell for k, cell in enumerate(related["end"])]},
        relations=["start < end"],
    )
    related["grand"][7] = "1.00"
    with pytest.raises(
        UsageError, match=r"'grand = a \+ b \+ c' does not hold in 1 of 120 rows \(row 8; in the first, grand is 1.00"
    ):
        schema_of(related, relations=["grand = a + b + c"])


@pytest.mark.parametrize(
    ("relations", "message"),
    [
        (["a * b"], "cannot be read: write it as start < end"),
        (["a = b * c"], "cannot be read"),
        (["a = b - c"], "cannot be read"),
        (["a = b"], "cannot be read"),
        (["a < b < c"], "cannot be read"),
        (["a <"], "cannot be read"),
        ([""], "cannot be read"),
        (["'a < b"], "cannot be read"),
        (["a < bb"], "'bb', which is no column that is generated"),
        (["a < colour"], "'colour', which is a category"),
        (["a < start"], "compares a date with a number"),
        (["last = start + end"], "adds up dates"),
        (["a < b", "c < b"], "'a < b' and 'c < b' both say what 'b' is"),
        (["a = b + c", "a > whole"], "both say what 'a' is"),
        (["a < b", "b < c", "c < a"], "lead in a circle, over "),
        (["a < a"], "lead in a circle, over a"),
        (["a = b + c", "a < b"], "lead in a circle"),
    ],
)
def test_relations_that_cannot_be_are_refused_in_one_sentence(related, relations, message):
    with pytest.raises(UsageError) as error:
        schema_of(related, relations=relations)
    assert message in str(error.value)
    assert str(error.value).endswith((".", "?"))
