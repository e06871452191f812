"""What the commands ask of a model: --class cat, --number age=30, --text "…", for any condition by name, one value or several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.models.model import Model

ANY = "condition"  # the option for conditions of any kind
KINDS = {
    "class": "A class, or several: 3,5,7; NAME=3 where several conditions are classes.",
    "number": "A number: NAME=30, several as 20,30, or a range low:high:count.",
    "tags": "Tags, separated by ; and - for none; may be repeated for several examples.",
    "text": "A text; may be repeated.",
    "vector": "An .npy file of one vector, or one in each row.",
    "image": "A picture that is a condition; may be repeated.",
    "task": "A task, of a condition of that kind.",
    ANY: "NAME=VALUE of any condition; may be repeated.",
}
OPTIONS: dict[str, Any] = {
    kind: Annotated[list[str] | None, Option(f"--{kind}", help=text, rich_help_panel="Conditions")]
    for kind, text in KINDS.items()
}
Several = list[str] | None
MOST_LABEL = 34  # characters


@dataclass(frozen=True)
class Asking:
    """The conditions of a command.

    values: of each condition that is asked for, those that were listed.   shown: the same, as people read them.
    numbers: the conditions whose values say nothing without their name.
    """

    values: dict[str, list[Any]]
    shown: dict[str, list[str]]
    numbers: frozenset[str] = frozenset()

    def combinations(self) -> list[dict[str, Any]]:
        """Every choice of one value for each condition, the first condition changing slowest; one empty choice for nothing."""
        return [dict(zip(self.values, choice, strict=True)) for choice in itertools.product(*self.values.values())]

    def labels(self) -> list[str]:
        """What tells the combinations apart, for each of them."""
        varying = [name for name, values in self.values.items() if len(values) > 1]
        choices = itertools.product(*self.shown.values())
        each = [dict(zip(self.shown, choice, strict=True)) for choice in choices]
        bare = {name for name in varying if len(varying) == 1 and name not in self.numbers}
        return [", ".join(c[n] if n in bare else f"{n} {c[n]}" for n in varying)[:MOST_LABEL] for c in each]

    def cells(self) -> list[list[str]]:
        """The shown values of each combination, for a table."""
        return [list(choice) for choice in itertools.product(*self.shown.values())]


def read_conditions(
    model: Model, options: Mapping[str, Several], also: Mapping[str, Any] | None = None, fit: str = "crop"
) -> Asking:
    """What the options of each kind ask for, and `--condition NAME=VALUE` of any.

    also: what a classifier reads, by name, which the model need not be told.   fit: how to resize pictures.
    Raises UsageError for a condition that is not there, or a value that cannot be understood.
    """
    from undiffuse.conditioning.conditions import CONDITIONS

    known = _known(model)
    known |= {name: target.kind for name, target in (also or {}).items()}
    values: dict[str, list[Any]] = {}
    shown: dict[str, list[str]] = {}
    for option, texts in options.items():
        for text in texts or []:
            name, value = _named(option, text, [n for n, k in known.items() if option in (k, ANY)], known)
            kind = CONDITIONS[known[name]].config
            found, as_read = kind.parse(value, model.config.conditions.get(name), fit)
            values.setdefault(name, []).extend(found)
            shown.setdefault(name, []).extend(as_read)
    return Asking(values, shown, frozenset(name for name in values if CONDITIONS[known[name]].config.numeric))


def _known(model: Model) -> dict[str, str]:
    """The kind of each condition that an option can ask for: none that is retired, or that is made of the example itself."""
    conditions = model.config.conditions
    return {
        name: conditions[name].kind
        for name in model.denoiser.conditions.settable
        if conditions[name].kind != "observation"
    }


def _named(kind: str, text: str, names: Sequence[str], known: Mapping[str, str]) -> tuple[str, str]:
    """(the condition that is meant, what is asked of it)."""
    from undiffuse.conditioning.conditions import CONDITIONS

    name, equals, value = text.partition("=")
    if equals and name in names:
        return name, value
    if kind == ANY:
        raise UsageError(
            f"--condition takes NAME=VALUE with a condition of the model ({', '.join(names) or 'none'}), not {text!r}."
        )
    if not known:
        raise UsageError(f"this model is unconditional, so it cannot be told any {kind}: leave --{kind} out.")
    if not names:
        has = ", ".join(f"{n} (--{k})" for n, k in known.items())
        raise UsageError(f"this model is told no {kind}: its conditions are {has}.")
    if len(names) > 1:
        raise UsageError(
            f"this model is told several of that kind: say which is meant, as in --{kind} {names[0]}={text}, of {', '.join(names)}."
        )
    if equals and CONDITIONS[kind].config.numeric:
        raise UsageError(f"this model cannot be told {name!r}: its --{kind} is {names[0]}.")
    return names[0], text


def negative(model: Model, texts: Sequence[str]) -> dict[str, Any]:
    """["class=cat"] → what to be guided away from."""
    options: dict[str, list[str]] = {}
    for text in texts:
        name, equals, _ = text.partition("=")
        known = _known(model)
        if not equals or name not in known:
            raise UsageError(
                f"--negative takes NAME=VALUE with a condition of the model ({', '.join(known) or 'none'}), not {text!r}."
            )
        options.setdefault(known[name], []).append(text)
    found = read_conditions(model, options).values
    several = [name for name, values in found.items() if len(values) > 1]
    if several:
        raise UsageError(
            f"--negative gives {several[0]!r} several values, and one is kept away from at a time: give one."
        )
    return {name: values[0] for name, values in found.items()}


def scales(text: str) -> tuple[list[float], dict[str, float]]:
    """ "2" or "1,2,4" → the strengths, for all conditions; "class=3,age=1" → of each."""
    if "=" not in text:
        return [_scale(part) for part in text.split(",")], {}
    pairs = [part.partition("=") for part in text.split(",")]
    return [], {name: _scale(value) for name, _, value in pairs}


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(
            f"takes a guidance scale, not {text!r}: write 2, or class=3,age=1 for one of each, or 1,2,4 with --compare"
        )
    return value
