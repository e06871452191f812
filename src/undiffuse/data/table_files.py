"""Table files: CSV, TSV and JSON lines, in UTF-8, with a head line of names, and Parquet. What cannot be one is refused with its cause."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

from undiffuse.data.damage import refuse_damaged
from undiffuse.errors import UsageError
from undiffuse.system import optional

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
FIELD_LIMIT = 2**24  # characters of one cell
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
SEPARATED = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "bars"}


def read_table(path: Path) -> dict[str, list[object]]:
    """The columns of a table, in the order of the file. Raises UsageError for a file that cannot be read as one."""
    if path.suffix.lower() == ".parquet":
        return _parquet(path)
    try:
        text = decode_text(path)
        rows = (
            [json.loads(line) for line in text.split("\n") if line.strip()]
            if path.suffix.lower() == ".jsonl"
            else _rows(text, path)
        )
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"the table {path} cannot be read: {str(error).removesuffix('.')}.") from None
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UsageError(
            f"the table {path} holds no rows: it should have a head line with the names of its columns, then a line for each example."
        )
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names}


def _parquet(path: Path) -> dict[str, list[object]]:
    """The columns of a Parquet file. Raises UsageError for a damaged or empty one, Failure without pyarrow."""
    parquet = optional("pyarrow.parquet")
    with refuse_damaged(path, "a table"):
        table = parquet.read_table(path)
    if not table.num_rows:
        raise UsageError(f"the table {path} holds no rows.")
    return {name: table.column(name).to_pylist() for name in table.column_names}


def decode_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises UsageError, naming the encoding that it probably has."""
    content = path.read_bytes()
    every_second_is_zero = len(content) > 1 and not any(content[1:200:2])
    if content.startswith(UTF_16) or every_second_is_zero:
        raise UsageError(f"it is in UTF-16, as Excel's 'Unicode text': save it as UTF-8 ({_converted(path, 'UTF-16')})")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(
            f"line {line} holds the byte 0x{content[error.start]:02x}, which is not UTF-8; the file is probably in an encoding of Windows, such as "
            f"cp1252: save it as UTF-8 ({_converted(path, 'CP1252')})"
        ) from None


def _converted(path: Path, encoding: str) -> str:
    return f"iconv -f {encoding} -t UTF-8 '{path}' > '{path.with_stem(path.stem + '-utf8')}'"


def _rows(text: str, path: Path) -> list[dict[str, object]]:
    csv.field_size_limit(FIELD_LIMIT)
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    _refuse_another_separator(text, separator, path)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    names = reader.fieldnames or []
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"it has two columns called {twice!r}")
    rows: list[dict[str, object]] = []
    for row in reader:
        if None in row or any(value is None for value in row.values()):
            raise UsageError(
                f"line {reader.line_num} has another number of cells than the head line; a cell that holds a separator needs quotes"
            )
        rows.append(dict(row))
    return rows


def _refuse_another_separator(text: str, separator: str, path: Path) -> None:
    """Raises UsageError where the head line is one cell with this separator, and the first two lines equally many with another."""

    def cells(separator: str) -> list[int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        return [len(line) for line in itertools.islice((line for line in reader if line), 2)]

    if cells(separator)[:1] != [1]:
        return
    other = next((sign for sign in SEPARATED if len(set(found := cells(sign))) == 1 and found[0] > 1), None)
    if other in ("\t", ","):
        right = {"\t": ".tsv", ",": ".csv"}[other]
        raise UsageError(f"its cells are separated by {SEPARATED[other]}: name it {path.stem}{right}")
    if other is not None:
        raise UsageError(
            f'its cells are separated by {SEPARATED[other]}: save it with commas (python -c "import csv, sys; csv.writer(sys.stdout).writerows('
            f"csv.reader(sys.stdin, delimiter='{other}'))\" < '{path}' > '{path.with_stem(path.stem + '-commas')}')"
        )
