"""What several commands share: reading durations and sizes, notes with flags, commands to be pasted."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import typer

from undiffuse.errors import UsageError
from undiffuse.training import cadence

N = TypeVar("N", int, float)
FLAGS: dict[str, str] = {}  # of the command that runs, by setting
NETWORK_FLAG = "--network-class"  # of every command
NETWORK_CLASS: str | None = None  # its value


def seconds(text: str) -> float:
    """ "90s", "15m", "2h", "1.5d" or a plain number of seconds → seconds."""
    try:
        return cadence.parse_duration(text)
    except UsageError:
        raise typer.BadParameter(f"takes a duration, such as 90s, 15m, 2h or 1d, not {text!r}") from None


def size(text: str) -> tuple[int, int]:
    """ "64" or "48x80" (height × width) → (height, width)."""
    match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", text.strip())
    if not match:
        raise typer.BadParameter(f"takes a size, 64 or height×width as 48x80, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


seconds.__name__, size.__name__ = "DURATION", "SIZE"  # what the help shows for a value


def number_list(text: str, number: Callable[[str], N], example: str) -> list[N]:
    """ "1,2,2" → [1, 2, 2].   number: reads one.   example: how they are written. Raises UsageError."""
    try:
        return [number(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r} is no list of numbers: write them like {example}.") from None


def two_numbers(
    metavar: str, example: str, fit: Callable[[float, float], bool]
) -> Callable[[str], tuple[float, float]]:
    """What reads "0.3,5".   example: what is expected, and how it is written.   fit: whether two numbers are that."""

    def read(text: str) -> tuple[float, float]:
        """The two numbers. Raises typer.BadParameter."""
        try:
            first, last = (float(part) for part in text.split(","))
            if fit(first, last):
                return first, last
        except ValueError:
            pass
        raise typer.BadParameter(f"takes {example}, not {text!r}")

    read.__name__ = metavar
    return read


span = two_numbers(
    "LOW,HIGH", "the lowest and the highest value, such as 0,255", lambda low, high: -math.inf < low < high < math.inf
)
interval = two_numbers(
    "LOW,HIGH", "the lowest and highest sigma/alpha, such as 0.3,5", lambda low, high: 0 <= low < math.inf and high >= 0
)
rates = two_numbers(
    "FIRST,LAST",
    "the first and the last beta of 1000 steps, such as 0.0001,0.02",
    lambda first, last: min(first, last) > 0,
)


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """["age=30"] → {"age": "30"}."""
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"{option} takes NAME=VALUE, not {text!r}.")
        found[name] = value
    return found


def note(text: str, err: bool = False) -> None:
    """Prints a note, with the command's flags.   err: to standard error."""
    typer.echo(f"note: {with_flags(text)}", err=err)


def with_flags(text: str, flags: Mapping[str, str] | None = None) -> str:
    """A sentence of the library, with the command's flag after the first mention of a setting in backquotes: `range` (--range).

    flags: of the command, by setting; of the one that runs when None.  Other settings are reached by --set, and marked so where the command has that.
    """
    flags = FLAGS if flags is None else flags

    def flagged(match: re.Match[str]) -> str:
        name = match[1]
        if name in flags:
            return f"{name} ({flags[name]})"
        return f"{name} (--set {name}=…)" if "--set" in flags.values() and "." in name else name

    return re.sub(r"`([\w.]+)`", flagged, text)


def command(*parts: object) -> str:
    """A command as it can be pasted into a shell: every part is quoted that needs it."""
    own = [] if NETWORK_CLASS is None else [NETWORK_FLAG, NETWORK_CLASS]
    return shlex.join(["undiffuse", *(str(part) for part in parts), *own])


def again(*more: object) -> str:
    """The command as it was typed, without --out and with `more` options in place of its own, to be pasted."""
    texts = [str(part) for part in more]
    pairs_ = zip(texts, texts[1:], strict=False)
    valued = {"--out", *(text for text, value in pairs_ if text.startswith("-") and not value.startswith("-"))}
    kept, parts = list[str](), iter(sys.argv[1:])
    for part in parts:
        name, equals, _ = part.partition("=")
        if name not in valued:
            kept.append(part)
        elif not equals:
            next(parts, None)  # its value
    return command(*kept, *texts)
