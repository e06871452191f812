"""A column of a table, and its cells ↔ numbers.

    number, integer     themselves
    date                seconds since the beginning of 1970, without time zones
    category, boolean   the place among `values`
    an empty cell       NaN
    others              are no part of x: constants are written as they are, names of rows and texts are left empty

A cell is a text in a file of texts, and a number, a truth value or a date in a typed one.  Either becomes a text first (`cell_as_text`), so that one
set of rules reads both.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import numpy as np
from pydantic import Field

from undiffuse.config import Config
from undiffuse.errors import UsageError

ColumnKind = Literal["number", "integer", "category", "boolean", "date", "constant", "identifier", "text", "condition"]
EMPTY_TEXTS = frozenset(("", "nan", "NaN", "None", "null"))  # data/dataset.py's MISSING, which imports this
UNKNOWN_TEXTS = frozenset(("NA", "N/A", "?"))  # empty beside numbers and dates alone: a category may be called so
NUMBER_TEXT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
LARGEST_EXACT = 2**53 - 1  # up to here a float64 is one whole number alone
EPOCH = datetime(1970, 1, 1)
FIRST_SECOND = (datetime(1, 1, 1) - EPOCH).total_seconds()
LAST_SECOND = (datetime(9999, 12, 31, 23, 59, 59) - EPOCH).total_seconds()
DAY = 86400.0
DATE_CODES = {  # of strptime: what is read, and how it is written
    "%Y": (r"(?P<year>[0-9]{4})", "{year:04d}"),
    "%m": (r"(?P<month>[0-9]{1,2})", "{month:02d}"),
    "%d": (r"(?P<day>[0-9]{1,2})", "{day:02d}"),
    "%H": (r"(?P<hour>[0-9]{1,2})", "{hour:02d}"),
    "%M": (r"(?P<minute>[0-9]{2})", "{minute:02d}"),
    "%S.%f": (r"(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]{1,6}))?", "{second:02d}.{fraction}"),
    "%S": (r"(?P<second>[0-9]{2})", "{second:02d}"),
}
_CODE = re.compile(r"%S\.%f|%[A-Za-z]")


class TableColumn(Config):
    """What a column is, and how its cells are written."""

    name: str = Field(description="The name in the head line.")
    kind: ColumnKind = Field(
        description="What its cells are. Names of rows (identifier) and texts are not generated, nor is a constant."
    )
    why: str = Field(description="Why it is taken for this kind, in words.")
    values: tuple[str, ...] = Field(
        (),
        description="Of a category its values as they are written, sorted; of a boolean false, then true; of a constant its one.",
    )
    decimals: int | None = Field(
        None,
        ge=0,
        description="Digits after the point of numbers, or of seconds; None for as few as read back the same.",
    )
    comma: bool = Field(False, description="Whether the file writes a comma for the decimal point.")
    date_format: str | None = Field(None, description="Of dates: how they are written, as Python's strptime has it.")
    missing: bool = Field(False, description="Whether some cells are empty.")
    typed: bool = Field(
        False, description="Whether its cells were numbers, truth values or dates where they came from, and not texts."
    )

    @property
    def generated(self) -> bool:
        """Whether it is part of x."""
        return self.kind in ("number", "integer", "category", "boolean", "date")

    @property
    def step(self) -> float:
        """The difference between a number that can be written and the next, in seconds for dates; 0 where any number can."""
        if self.kind == "date":
            assert self.date_format is not None
            if "%H" not in self.date_format:
                return DAY
            if "%S" not in self.date_format:
                return 60.0
            return 10.0 ** -(self.decimals or 0)
        if self.kind == "number":
            return 0.0 if self.decimals is None else 10.0**-self.decimals
        return 1.0

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """The nearest of the numbers (N,) that can be written. NaN stays NaN, and no zero is negative."""
        if self.kind == "date":
            dates: np.ndarray = np.clip(_multiples(values, self.step), FIRST_SECOND, LAST_SECOND)
            return dates
        if self.kind == "number":
            return _multiples(values, self.step)
        least, most = (0, len(self.values) - 1) if self.values else (-LARGEST_EXACT, LARGEST_EXACT)
        whole: np.ndarray = np.clip(_multiples(values, 1.0), least, most)
        return whole

    def read(self, cells: Sequence[object]) -> np.ndarray:
        """The numbers (N,) of cells. Raises UsageError for a cell that does not fit, by its row, the first of which is 1."""
        texts = [cell if type(cell) is str else cell_as_text(cell) for cell in cells]
        each = self._reader()
        found = {text: each(text) for text in dict.fromkeys(texts)}
        wrong = next((text for text, value in found.items() if value is None), None)
        if wrong is not None:
            raise UsageError(
                f"the column {self.name!r} holds {wrong!r} in row {texts.index(wrong) + 1}, {self._expected()}."
            )
        return np.fromiter((found[text] for text in texts), np.float64, len(texts))

    def written(self, values: np.ndarray, as_texts: bool) -> list[object]:
        """The cells of numbers (N,), the inverse of `read`. Empty ones are "" among texts, else None.

        as_texts: for a file that has only texts; else numbers, truth values and dates are what they were.
        """
        typed, empty = self.typed and not as_texts, "" if as_texts else None
        write = self._writer(typed)
        numbers = self.rounded(values)
        return [empty if number != number else write(number) for number in numbers.tolist()]

    def filled(self, count: int, as_texts: bool) -> list[object]:
        """The cells of a column that is not generated: the constant, else empty ones."""
        empty = "" if as_texts else None
        if self.kind != "constant" or self.values == ("",):
            return [empty] * count
        return [_value_of(self.values[0]) if self.typed and not as_texts else self.values[0]] * count

    def _reader(self) -> Callable[[str], float | None]:
        """From a text to its number; None where it is none."""
        if self.values:
            place = {text: float(k) for k, text in enumerate(self.values)}
            known: Callable[[str], float | None] = place.get
        elif self.kind == "date":
            assert self.date_format is not None
            known = date_reader(self.date_format)
        else:
            comma, whole = self.comma, self.kind == "integer"

            def known(text: str) -> float | None:
                number = number_of(text, comma)
                exact = number is None or not whole or (number == round(number) and abs(number) <= LARGEST_EXACT)
                return number if exact else None

        def read(text: str) -> float | None:
            value = known(text)
            return math.nan if value is None and text.strip() in EMPTY_TEXTS | UNKNOWN_TEXTS else value

        return read

    def _writer(self, typed: bool) -> Callable[[float], object]:
        if self.values:
            labels = [_value_of(text) if typed else text for text in self.values]
            return lambda number: labels[int(number)]
        if self.kind == "date":
            assert self.date_format is not None
            if typed:
                day, zone = "%H" not in self.date_format, UTC if self.date_format.endswith("+00:00") else None
                return lambda number: _moment(number).date() if day else _moment(number).replace(tzinfo=zone)
            return date_writer(self.date_format, self.decimals or 0)
        decimals = self.decimals
        if self.kind == "integer" and not decimals:
            return int if typed else lambda number: str(int(number))
        if typed:
            return float
        sign = "," if self.comma else "."
        if decimals is None:
            return lambda number: repr(number).removesuffix(".0").replace(".", sign)
        return lambda number: f"{number:.{decimals}f}".replace(".", sign)

    def _expected(self) -> str:
        """What a cell should have been, and the fix."""
        if self.values:
            some = ", ".join(self.values[:8]) + (", …" if len(self.values) > 8 else "")
            return f"which is none of its {len(self.values):,} values ({some}): correct that cell, or leave it empty"
        what = {
            "date": f"which is no date written as {self.date_format}",
            "integer": "which is no whole number below 2^53",
            "number": "which is no number",
        }[self.kind]
        return f"{what}: correct that cell, leave it empty, or say that the column is of another kind"


def cell_as_text(cell: object) -> str:
    """A cell as the text that a file of texts would have; "" for one that is empty."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, np.generic):
        cell = cell.item()
    if _is_empty(cell):
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, datetime):
        if cell.tzinfo is not None:
            cell = cell.astimezone(UTC)
        return cell.isoformat(timespec="microseconds" if cell.microsecond else "seconds")
    if isinstance(cell, date):
        return cell.isoformat()
    if isinstance(cell, Decimal):
        return format(cell, "f")
    return repr(cell) if isinstance(cell, int | float) else str(cell)


def is_typed(cell: object) -> bool:
    """Whether a cell is a number, a truth value or a date, and not a text or anything else."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    return isinstance(cell, int | float | Decimal | date) and not (isinstance(cell, float) and math.isinf(cell))


def number_of(text: str, comma: bool = False) -> float | None:
    """The number that a text is; None where it is none that float64 holds.   comma: whether a comma is the decimal point."""
    text = text.strip()
    if comma:
        if "." in text:
            return None
        text = text.replace(",", ".")
    if NUMBER_TEXT.fullmatch(text) is None:
        return None
    number = float(text)
    return None if math.isinf(number) else number


@cache
def date_reader(date_format: str) -> Callable[[str], float | None]:
    """From a text in this format to seconds since 1970; to None where it is no such date. Digits that are not there are zeros."""
    pattern = re.compile("".join(DATE_CODES[p][0] if p in DATE_CODES else re.escape(p) for p in _pieces(date_format)))

    def read(text: str) -> float | None:
        match = pattern.fullmatch(text.strip())
        if match is None:
            return None
        parts = {name: value for name, value in match.groupdict().items() if value is not None}
        microsecond = int(parts.pop("fraction", "0").ljust(6, "0"))
        try:
            moment = datetime(**{name: int(value) for name, value in parts.items()}, microsecond=microsecond)  # type: ignore[arg-type]
        except ValueError:  # there is no 30 February
            return None
        return (moment - EPOCH).total_seconds()

    return read


def date_writer(date_format: str, decimals: int) -> Callable[[float], str]:
    """From seconds since 1970 to a text.   decimals: digits of the fraction of a second, at least 1 where the format has one."""
    template = "".join(DATE_CODES[piece][1] if piece in DATE_CODES else piece for piece in _pieces(date_format))

    def write(seconds: float) -> str:
        at = _moment(seconds)
        fraction = f"{at.microsecond:06d}"[: max(1, decimals)]
        return template.format(
            year=at.year,
            month=at.month,
            day=at.day,
            hour=at.hour,
            minute=at.minute,
            second=at.second,
            fraction=fraction,
        )

    return write


def _pieces(date_format: str) -> Iterable[str]:
    """The codes of a format, and what stands between them."""
    end = 0
    for match in _CODE.finditer(date_format):
        yield from (date_format[end : match.start()], match.group())
        end = match.end()
    yield date_format[end:]


def _moment(seconds: float) -> datetime:
    return EPOCH + timedelta(microseconds=round(seconds * 1e6))


def _multiples(values: np.ndarray, step: float) -> np.ndarray:
    """The nearest multiples of a step; of a step below 1, the number that is nearest to the decimal fraction."""
    if step == 0:
        return values + 0.0
    if step >= 1:
        return np.rint(values / step) * step + 0.0
    per = round(1 / step)
    large = np.abs(values) >= LARGEST_EXACT / per  # float64 has no more digits than these
    return np.where(large, values, np.rint(np.where(large, 0.0, values) * per) / per) + 0.0


def _value_of(text: str) -> Any:
    """The number, truth value or date that a text of a typed column is."""
    try:
        return json.loads(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return moment if "T" in text else moment.date()


def _is_empty(cell: object) -> bool:
    """Whether a cell is None, NaN, or what stands for these in pandas."""
    try:
        return cell is None or bool(cell != cell)
    except (TypeError, ValueError):  # pandas.NA has no truth; nor have arrays, which are not empty
        return not hasattr(cell, "__len__")
