"""Of which kind a column of a table is. The first rule that holds decides, and the reason is given in words:

    constant     every cell is the same, or empty
    boolean      two different cells, which are words for false and true
    date         every cell is a date of one format, in which day and month can be told apart
    number       every cell is a number, none is a code such as 01234, and some are not whole.  A comma may be the decimal point, and
                 separates no thousands
    identifier   whole numbers that count the rows; or no two cells are the same, and they have no spaces or are UUIDs
    category     whole numbers of few values, which are codes; or texts of few values, or of at most MOST_CATEGORIES
    integer      other whole numbers
    text         whatever is left: sentences, and cells that hardly repeat

What counts as few is as in data/inspection/report.py.  Empty cells are left out.  NA, N/A and ? are empty where all other cells are numbers or
dates; elsewhere they are values.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from itertools import product
from typing import Any, get_args

import numpy as np

from undiffuse.data.table_cells import (
    EMPTY_TEXTS,
    LARGEST_EXACT,
    NUMBER_TEXT,
    UNKNOWN_TEXTS,
    ColumnKind,
    TableColumn,
    cell_as_text,
    date_reader,
    is_typed,
    number_of,
)
from undiffuse.errors import UsageError, nearest

COLUMN_KINDS: tuple[str, ...] = get_args(ColumnKind)
FEW_WHOLE, OFTEN = 20, 5  # different whole numbers of a category, and how often each is there on average
MOST_CODES = 10  # whole numbers without a gap that are codes and not counts
FEW_TEXTS, SENTENCE = 50, 3  # texts that are a category however long; words of a sentence
MOST_CATEGORIES = 1000
MOST_DECIMALS = 9  # digits after the point, of numbers that were rounded; more are those of float64
MOST_DIGITS = 15  # of any number, that float64 holds as they are written
TRUTH = (("false", "true"), ("no", "yes"), ("f", "t"), ("n", "y"), ("0", "1"), ("0.0", "1.0"))
DATE_ORDERS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y")
DATE_TIMES = (
    "",
    *(f"{sep}%H:%M" for sep in "T "),
    *(f"{sep}%H:%M:{second}{zone}" for sep, second, zone in product("T ", ("%S", "%S.%f"), ("", "Z", "+00:00"))),
)
_CODE = re.compile(r"[+-]?0[0-9]+")
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?")
_UUID = re.compile(r"\{?[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}\}?")
_SECONDS = re.compile(r"\.([0-9]+)(Z|\+|$)")  # the fraction of a second, at the end of a date
_FRACTION = re.compile(r"[.,]([0-9]+)")


class ColumnCells:
    """The cells of a column as texts.   counts: how often each is there, without empty ones, in the order of first appearance."""

    def __init__(self, name: str, cells: Sequence[object]) -> None:
        self.name = name
        self.rows = len(cells)
        self.texts = [cell if type(cell) is str else cell_as_text(cell) for cell in cells]
        all_counts = Counter(self.texts)
        self.counts = {text: count for text, count in all_counts.items() if text.strip() not in EMPTY_TEXTS}
        self.present = sum(self.counts.values())
        self.typed = self.present > 0 and not any(type(cell) is str for cell in cells)
        if self.typed:
            self.typed = all(is_typed(cell) for cell, text in zip(cells, self.texts, strict=True) if text)

    @cached_property
    def known(self) -> list[str]:
        """Its different texts without those that may stand for an unknown number or date."""
        return [text for text in self.counts if text.strip() not in UNKNOWN_TEXTS]

    def column(self, kind: str, why: str, of_numbers: bool = False, **more: Any) -> TableColumn:
        """The column, of a kind.   of_numbers: whether its cells are numbers or dates, so that NA is an empty one."""
        present = sum(self.counts[text] for text in self.known) if of_numbers else self.present
        if len(self.known) < len(self.counts) and kind not in ("identifier", "text"):
            unknown = next(text.strip() for text in self.counts if text.strip() in UNKNOWN_TEXTS)
            why += f"; {unknown} is {'an empty cell' if of_numbers else 'a value like the others'}"
        return TableColumn(name=self.name, kind=kind, why=why, missing=present < self.rows, typed=self.typed, **more)  # type: ignore[arg-type]

    def row(self, fits: Callable[[str], object]) -> tuple[int, str] | None:
        """The first row, counted from 1, whose cell does not fit, and the cell."""
        wrong = next((text for text in self.known if not fits(text)), None)
        return None if wrong is None else (self.texts.index(wrong) + 1, wrong)


def found_kind(name: str, cells: Sequence[object]) -> TableColumn:
    """What a column is, by its cells (N,)."""
    held = ColumnCells(name, cells)
    counts = held.counts
    if not counts:
        return held.column("constant", f"all {held.rows:,} cells are empty", values=("",))
    if len(counts) == 1:
        only = tuple(counts)
        if held.present == held.rows:
            return held.column("constant", "every cell is the same", values=only)
        return held.column("category", "one value, or an empty cell", values=only)
    words = _truth(held.known)
    if words is not None and (len(counts) == 2 or number_of(words[0]) is not None):
        return held.column("boolean", f"its cells are {words[0]} and {words[1]}", of_numbers=True, values=words)
    if held.known:
        found = _date(held) or _number(held)
        if found is not None:
            return found
    return _of_texts(held)


def declared_kind(name: str, cells: Sequence[object], kind: str) -> TableColumn:
    """A column that is said to be of a kind. Raises UsageError for another kind than there is, and for a cell that does not fit, by its row."""
    if kind not in COLUMN_KINDS:
        near = nearest(kind, COLUMN_KINDS) or f": choose one of {', '.join(COLUMN_KINDS)}."
        raise UsageError(f"the column {name!r} is said to be of the kind {kind!r}, which there is not{near}")
    held = ColumnCells(name, cells)
    if kind in ("identifier", "text"):
        return held.column(kind, "as declared")
    if not held.counts:
        return held.column("constant", f"all {held.rows:,} cells are empty", values=("",))
    if kind == "constant" and len(held.counts) > 1:
        first, second = list(held.counts)[:2]
        raise UsageError(
            f"the column {name!r} is said to be constant but holds {first!r} and {second!r}: say that it is a text, which is left out."
        )
    if kind == "boolean" and len(held.counts) != 2:
        raise UsageError(
            f"the column {name!r} is said to be boolean but holds {len(held.counts):,} different values: say that it is a category."
        )
    if kind == "constant":
        return held.column(kind, "as declared", values=tuple(held.counts))
    if kind == "boolean":
        return held.column(kind, "as declared", values=_truth(list(held.counts)) or _sorted(held.counts))
    if kind == "category":
        if len(held.counts) > MOST_CATEGORIES:
            raise UsageError(
                f"the column {name!r} is said to be a category but holds {len(held.counts):,} different values, and {MOST_CATEGORIES:,} are "
                "the most: merge some, or say that it is a text, which is left out."
            )
        if all(number_of(text) is not None for text in held.known) and held.known:
            return held.column(kind, "as declared", of_numbers=True, values=_sorted(held.known))
        return held.column(kind, "as declared", values=_sorted(held.counts))
    return _declared_date(held) if kind == "date" else _declared_number(held, kind)


def _declared_date(held: ColumnCells) -> TableColumn:
    column = _date(held)
    if column is not None:
        return column
    if _found_format(held.known)[1]:
        raise UsageError(
            f"the dates in the column {held.name!r}, such as {held.known[0]!r}, do not say which number is the month: write them as 2026-12-31."
        )
    readers = [
        reader for reader in map(date_reader, _date_formats()) if held.known and reader(held.known[0]) is not None
    ]
    row, cell = max((held.row(reader) or (0, "") for reader in readers), default=(0, ""))
    if not readers:
        cell = next(iter(held.known or held.counts))
        row = held.texts.index(cell) + 1
    raise UsageError(
        f"the column {held.name!r} is said to hold dates but holds {cell!r} in row {row}: write all of them as 2026-12-31 or 2026-12-31 23:59:59."
    )


def _declared_number(held: ColumnCells, kind: str) -> TableColumn:
    comma = _has_comma(held.known)
    whole = kind == "integer"

    def fits(text: str) -> bool:
        number = number_of(text, comma)
        return number is not None and (not whole or (number == round(number) and abs(number) <= LARGEST_EXACT))

    wrong = held.row(fits)
    if wrong is not None:
        row, cell = wrong
        what = "whole numbers" if whole else "numbers"
        also = ", and numbers without separators of thousands" if "," in cell else ""
        raise UsageError(
            f"the column {held.name!r} is said to hold {what} but holds {cell!r} in row {row}: correct that cell, leave it empty{also}, or say "
            "that the column is a category."
        )
    return held.column(kind, "as declared", of_numbers=True, decimals=_decimals(held.known, whole), comma=comma)


def _truth(texts: Sequence[str]) -> tuple[str, str] | None:
    """The words (false, true) that two texts are; None where they are none."""
    if len(texts) != 2:
        return None
    words = {text.strip().casefold(): text for text in texts}
    return next(((words[no], words[yes]) for no, yes in TRUTH if no in words and yes in words), None)


def _date_formats() -> Iterable[str]:
    return (order + time for order, time in product(DATE_ORDERS, DATE_TIMES))


def _found_format(texts: Sequence[str]) -> tuple[str | None, bool]:
    """(the format that all texts are dates of, or None; whether another is as good, which takes the day for the month)."""
    found = None
    for date_format in _date_formats():
        read = date_reader(date_format)
        if texts and all(read(text) is not None for text in texts):
            if found is None:  # one without a fraction of seconds, where none has one
                found = date_format
                if not found.startswith("%m/%d"):
                    break
            elif date_format.startswith("%d/%m"):
                return None, True
    return found, False


def _date(held: ColumnCells) -> TableColumn | None:
    chosen, _ = _found_format(held.known)
    if chosen is None:
        return None
    decimals = None
    if "%f" in chosen:
        fractions = (_SECONDS.search(text.strip()) for text in held.known)
        decimals = max(len(found[1]) for found in fractions if found)
    why = f"dates written as {chosen}"
    return held.column("date", why, of_numbers=True, date_format=chosen, decimals=decimals)


def _has_comma(texts: Sequence[str]) -> bool:
    """Whether commas are decimal points. Where three digits follow each of them, they may separate thousands."""
    with_comma = [text.strip() for text in texts if "," in text]
    return bool(with_comma) and not all(_GROUPED.fullmatch(text) for text in with_comma)


def _decimals(texts: Sequence[str], whole: bool) -> int | None:
    """Digits after the point; None where whole numbers have none, and where the numbers are not rounded to a few."""
    if any("e" in text or "E" in text for text in texts):
        return None
    most = max((len(found[1]) for text in texts if (found := _FRACTION.search(text))), default=0)
    long = any(len(text) > MOST_DIGITS and sum(map(str.isdigit, text)) > MOST_DIGITS for text in texts)
    return None if long or most > MOST_DECIMALS or (whole and not most) else most


def _number(held: ColumnCells) -> TableColumn | None:
    """The column if all of its cells are numbers: a number, an integer, a category or what counts the rows; else None."""
    known = held.known
    comma = _has_comma(known)
    if number_of(known[0], comma) is None or any(_CODE.fullmatch(text.strip()) for text in known):
        return None
    parsed = [number_of(text, comma) for text in known]
    numbers = np.array([number for number in parsed if number is not None])
    if len(numbers) < len(known):
        return None
    written_whole = not any("e" in text or "E" in text for text in known)
    low, high = float(numbers.min()) + 0.0, float(numbers.max()) + 0.0
    if not written_whole or (numbers != np.rint(numbers)).any():
        why = f"{low:g} to {high:g}"
        return held.column("number", why, of_numbers=True, decimals=_decimals(known, False), comma=comma)
    if max(-low, high) > LARGEST_EXACT:
        return None
    different, present = len(np.unique(numbers)), sum(held.counts[text] for text in known)
    consecutive = high - low == different - 1
    if consecutive and different == held.rows > FEW_WHOLE:
        return held.column("identifier", "it counts the rows")
    count = f"{different:,} different whole numbers in {present:,} rows"
    if different <= FEW_WHOLE and present >= OFTEN * different:
        if not consecutive:
            why = f"{count}, with gaps between them, as codes have"
            return held.column("category", why, of_numbers=True, values=_sorted(known))
        if low in (0, 1) and different <= MOST_CODES:
            why = f"{count}, from {low:.0f} on, as codes are"
            return held.column("category", why, of_numbers=True, values=_sorted(known))
    why = f"whole numbers from {low:.0f} to {high:.0f}"
    return held.column("integer", why, of_numbers=True, decimals=_decimals(known, True), comma=comma)


def _of_texts(held: ColumnCells) -> TableColumn:
    texts, different, present = list(held.counts), len(held.counts), held.present
    unusual = _unusual(held.known)
    count = f"{unusual}{different:,} different values in {present:,} rows"
    if all(_UUID.fullmatch(text.strip()) for text in texts):
        return held.column("identifier", "its cells are UUIDs")
    if different == present and not any(re.search(r"\s", text.strip()) for text in texts):
        return held.column("identifier", f"{unusual}every cell is another, without spaces")
    repeats = different <= present / 2 and different <= MOST_CATEGORIES
    words = sum(len(text.split()) for text in texts) / different
    if repeats and (different <= max(FEW_TEXTS, present / 10) or words < SENTENCE):
        return held.column("category", count, values=_sorted(texts))
    return held.column("text", f"{count}, of {words:.1f} words on average")


def _unusual(texts: Sequence[str]) -> str:
    """Why texts that have digits are no numbers or dates, as the beginning of a reason."""
    if _found_format(texts)[1]:
        return "dates that do not say which number is the month; "
    if any(_CODE.fullmatch(text.strip()) for text in texts):
        return "codes with zeros in front; "
    if any(_GROUPED.fullmatch(text.strip()) for text in texts):
        return "numbers with a comma before three digits, which may separate thousands; "
    numbers = sum(NUMBER_TEXT.fullmatch(text.strip()) is not None for text in texts)
    if texts and numbers == len(texts):
        return "numbers beyond what float64 holds exactly; "
    return "numbers and words; " if numbers else ""


def _sorted(texts: Iterable[str]) -> tuple[str, ...]:
    """Numbers by their size where all are, else by the alphabet."""
    each = sorted(texts)
    numbers = {text: number_of(text) for text in each}
    return tuple(sorted(each, key=lambda text: numbers[text] or 0.0) if None not in numbers.values() else each)
