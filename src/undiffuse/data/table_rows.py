"""Which row of a table belongs to which image: by name, never by order, which is that of the names as text (0, 1, 10, 11, 2, …).

A cell names an image by its whole name, relative to the folder of images or to the table, or else by the name without its suffix, where
only one image has it: `7.jpg` and `7` name `7.png`.  A plain number may be anything (an index, a rank), so numbers name images only in a column
that is called as names of files are (CALLED).  Which column counts:

    1. The first of FILE_COLUMNS that the table has.  It is never replaced by another column: if it names no image, that is an error.
    2. Else the column that is trusted most: whole names before names of another suffix before numbers, and then the one that names most
       images.  The second and third have to name every image, each in a row of its own.
    3. Another column that names more than half of the images, and gives one to another row, contradicts it.  That is an error, unless the
       column of 2. is called as names of files are, and the other is trusted less or does not name every image; or the other is not called
       so, leaves out images and repeats some, as a column of neighbours does.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from undiffuse.errors import UsageError

FILE_COLUMNS = ("file", "file_name", "filename", "image", "path")
CALLED = {
    *FILE_COLUMNS,
    "file_id",
    "file_path",
    "filepath",
    "image_id",
    "image_name",
    "image_file",
    "image_path",
    "img",
    "img_id",
    "img_name",
    "img_path",
    "id",
    "name",
    "stem",
    "key",
    "photo",
    "photo_id",
    "picture",
    "picture_id",
}
SUFFIX = re.compile(r"\.(?=[0-9]*[A-Za-z])[A-Za-z0-9]{1,5}")  # .5 is no suffix
NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]*)?(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")  # 007 is a name, not 7
TRUST_NAMES, TRUST_OTHER_SUFFIX, TRUST_NUMBERS = 2, 1, 0  # trust


def cell_text(value: object) -> str:
    """A cell as text, empty where there is none."""
    if value is None:
        return ""
    return ";".join(str(v) for v in value) if isinstance(value, list) else str(value)


def _same(value: object) -> object:
    """A form in which cells of the same value are equal: 3 and 3.0 are."""
    if isinstance(value, list):
        return tuple(_same(each) for each in value)
    text = cell_text(value).strip()
    return (
        Decimal(text) if NUMBER.fullmatch(text) and any(sign.isdigit() for sign in re.split("[eE]", text)[0]) else text
    )


@dataclass(frozen=True)
class Naming:
    """How a column names images.   rows: of each image that it names.   trust: NAMES, OTHER_SUFFIX or NUMBERS.   whole: it names every image."""

    column: str
    rows: dict[str, list[int]]
    trust: int
    whole: bool
    example: tuple[str, str] | None = None  # a cell with another suffix, and the image that it names

    @property
    def once(self) -> bool:
        """Whether every image is named by exactly one row."""
        return all(len(rows) == 1 for rows in self.rows.values())

    @property
    def called(self) -> bool:
        """Whether the column has a name that numbers of images usually have."""
        return self.column.strip().lower().replace(" ", "_") in CALLED

    @property
    def counts(self) -> bool:
        """Whether the column is trusted enough to match rows to images by it."""
        return bool(self.rows) and (
            self.trust == TRUST_NAMES or (self.whole and self.once and (self.trust != TRUST_NUMBERS or self.called))
        )

    def contradicts(self, other: Naming) -> bool:
        """Whether it gives an image to a row that the column taken, `other`, does not, and counts as a contradiction, see the top of this file."""
        if all(set(rows) <= set(other.rows.get(name, rows)) for name, rows in self.rows.items()):
            return False
        if other.called:
            return self.trust > other.trust or (self.whole and self.trust == other.trust)
        return self.called or self.whole or self.once


def rows_by_name(
    content: Mapping[str, Sequence[object]], path: Path, files: Sequence[str], root: Path
) -> tuple[list[int], list[str]]:
    """(the row of each file, notes).   files: relative to `root`.

    Raises UsageError where no column, or more than one, tells which row belongs to which image, or where the one that does leaves out
    images or names one twice with different values.
    """
    count = len(next(iter(content.values())))
    first = next((name for name in FILE_COLUMNS if name in content), None)
    namings = [_naming(name, values, path, files, root) for name, values in content.items() if first in (None, name)]
    chosen = _chosen(namings, content, path, files) if first is None else namings[0]
    if not chosen.rows:
        raise UsageError(
            f"the column {first!r} of {path} names no image (it says {cell_text(content[chosen.column][0])!r}, and {_called(files)}): write "
            f"their names there, or give it another name and call the column with their names {FILE_COLUMNS[0]!r}."
        )
    rows = chosen.rows
    missing = [name for name in files if name not in rows]
    if missing:
        raise UsageError(
            f"the table {path} has no row for {len(missing)} of {len(files)} images, such as {missing[0]} (its column {chosen.column!r} names the "
            f"images{_unknown(chosen, content)}): add their lines, or fix their names."
        )
    others = [values for name, values in content.items() if name != chosen.column]
    different = [
        name
        for name in files
        if len(rows[name]) > 1 and len({tuple(_same(each[row]) for each in others) for row in rows[name]}) > 1
    ]
    if different:
        lines = " and ".join(str(row + 1) for row in rows[different[0]][:2])
        raise UsageError(
            f"the table {path} names {len(different)} of {len(files)} images in several rows with different values, such as {different[0]} in "
            f"rows {lines}: keep one row for each image, or train on the table itself (undiffuse train {path}), where every row is an example."
        )
    notes = (
        [] if first else [f"the rows of {path.name} are found by its column {chosen.column!r}, which names the images"]
    )
    if chosen.example:
        cell, name = chosen.example
        notes.append(
            f"the names in the column {chosen.column!r} of {path.name} are read without their suffixes: {cell} is {name}"
        )
    used = sum(len(rows[name]) for name in files)
    notes += (
        [f"{count - used:,} of the {count:,} rows of {path.name} name no image of the data and are left out"]
        if used < count
        else []
    )
    notes += [f"{used - len(files):,} rows of {path.name} repeat another"] if used > len(files) else []
    return [rows[name][0] for name in files], notes


def _called(files: Sequence[str]) -> str:
    return f"the images are called {', '.join(files[:3])}{', …' if len(files) > 3 else ''}"


def _unknown(naming: Naming, content: Mapping[str, Sequence[object]]) -> str:
    """Words for the first cell of a column that names no image, a misspelt one maybe; empty where all do."""
    named = {row for of in naming.rows.values() for row in of}
    cells = content[naming.column]
    row = next((row for row in range(len(cells)) if row not in named), None)
    return "" if row is None else f"; row {row + 1} says {cell_text(cells[row])!r}, which is no image"


def _chosen(
    namings: Sequence[Naming], content: Mapping[str, Sequence[object]], path: Path, files: Sequence[str]
) -> Naming:
    """The column that is trusted most. Raises UsageError where none names images, or another contradicts it."""
    counting = [naming for naming in namings if naming.counts]
    many = [naming for naming in namings if len(naming.rows) > len(files) / 2]
    if not counting:
        near = max(many, key=lambda naming: (naming.trust, len(naming.rows)), default=None)
        if near is None or not near.once:
            also = ""
        elif near.trust == TRUST_NUMBERS and near.whole:
            also = f"; the numbers in {near.column!r} may be anything: if they name the images, call it {FILE_COLUMNS[0]!r}"
        else:
            also = f"; {near.column!r} names {len(near.rows)} of {len(files)} images{_unknown(near, content)}"
        raise UsageError(
            f"no column of the table {path} names the images ({', '.join(content)} are its columns, and {_called(files)}): add a column "
            f"{FILE_COLUMNS[0]!r} with the name of each row's image{also}."
        )
    chosen = max(
        (n for n in counting if n in many), key=lambda n: (n.trust, len(n.rows), n.called), default=counting[0]
    )
    against = [
        naming for naming in many if (naming.counts or naming.trust != TRUST_NUMBERS) and naming.contradicts(chosen)
    ]
    if against:
        both = [naming for naming in namings if naming is chosen or naming in against]
        partly = next(
            (f" ({n.column} names {len(n.rows)} of {len(files)}{_unknown(n, content)})" for n in both if not n.whole),
            "",
        )
        raise UsageError(
            f"the columns {' and '.join(naming.column or repr('') for naming in both)} of the table {path} both name the images, and "
            f"differently{partly}: call the right one {FILE_COLUMNS[0]!r}."
        )
    return chosen


def _naming(column: str, cells: Sequence[object], path: Path, files: Sequence[str], root: Path) -> Naming:
    """How the cells of a column name files: relative to the folder of images or else to the table, whole or else without suffixes."""
    folder, base, known = path.parent.resolve(), root.resolve(), set(files)
    stems: dict[str, list[str]] = {}
    for name in files:
        stems.setdefault(os.path.splitext(name)[0], []).append(name)
    alone = {stem: names[0] for stem, names in stems.items() if len(names) == 1}
    ends = {name.rpartition("/")[2] for name in (*known, *stems)}
    texts = [cell_text(cell).strip().replace("\\", "/") for cell in cells]
    texts = [
        text if {text.rpartition("/")[2], _without_suffix(text).rpartition("/")[2]} & ends else "" for text in texts
    ]  # most name nothing

    def from_table(text: str) -> str:
        file = folder / text
        return file.relative_to(base).as_posix() if text and file.is_relative_to(base) else ""

    def by_stem(text: str) -> str:
        return alone.get(text) or alone.get(_without_suffix(text), "")

    seen = [[posixpath.normpath(text) if text else "" for text in texts]]
    seen.append([from_table(text) for text in seen[0]])
    ways = [(view, known.__contains__) for view in seen] + [(view, by_stem) for view in seen]
    view = next((view for view, names in ways if any(names(text) for text in view)), seen[0])
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(view):
        if text in known:
            rows.setdefault(text, []).append(row)
    whole_names = set(rows)
    rest = [
        (row, name)
        for row, text in enumerate(view)
        if text not in known and (name := by_stem(text)) and name not in whole_names
    ]
    number = (
        bool(rest) and not whole_names and all(NUMBER.fullmatch(texts[row]) or texts[row].isdigit() for row, _ in rest)
    )
    if rest and (not whole_names or len(whole_names | {name for _, name in rest}) == len(files)):
        for row, name in rest:
            rows.setdefault(name, []).append(row)
    else:
        rest = []
    trust = TRUST_NUMBERS if number else TRUST_OTHER_SUFFIX if rest else TRUST_NAMES
    example = next(((texts[row], name) for row, name in rest if view[row] not in alone), None)
    return Naming(column, rows, trust, len(rows) == len(files), example)


def _without_suffix(text: str) -> str:
    stem, suffix = os.path.splitext(text)
    return stem if SUFFIX.fullmatch(suffix) else text
