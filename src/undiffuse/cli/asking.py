"""What the commands ask of a model: --class cat, --number age=30, --text "…", for any condition by name, one value or several."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undiffuse.cli.options import opt
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
    kind: Annotated[list[str] | None, opt(text, "Conditions", f"--{kind}")] for kind, text in KINDS.items()
}
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
    model: Model, options: Mapping[str, list[str] | None], also: Mapping[str, Any] | None = None, fit: str = "crop"
) -> Asking:
    """What the options of each kind ask for, and `--condition NAME=VALUE` of any.

    also: what a classifier reads, by name, which the model need not be told.   fit: how to resize pictures.
    Raises UsageError for a condition that is not there, or a value that cannot be understood.
    """
    from undiffuse.conditioning.conditions import CONDITIONS

    known = _known(model) | {name: target.kind for name, target in (also or {}).items()}
    values: dict[str, list[Any]] = {}
    shown: dict[str, list[str]] = {}
    for option, text in ((option, text) for option, texts in options.items() for text in texts or []):
        name, value = _named(option, text, [n for n, k in known.items() if option in (k, ANY)], known)
        found, as_read = CONDITIONS[known[name]].config.parse(value, model.config.conditions.get(name), fit)
        values.setdefault(name, []).extend(found)
        shown.setdefault(name, []).extend(as_read)
    return Asking(values, shown, frozenset(name for name in values if CONDITIONS[known[name]].config.numeric))


def _known(model: Model) -> dict[str, str]:
    """The kind of each condition that an option can ask for: none that is retired, or that is made of the example itself."""
    kinds = {name: model.config.conditions[name].kind for name in model.denoiser.conditions.settable}
    return {name: kind for name, kind in kinds.items() if kind != "observation"}


def _named(kind: str, text: str, names: Sequence[str], known: Mapping[str, str]) -> tuple[str, str]:
    """(the condition that is meant, what is asked of it)."""
    from undiffuse.conditioning.conditions import CONDITIONS

    name, equals, value = text.partition("=")
    listed = ", ".join(names)
    if equals and name in names:
        return name, value
    if kind == ANY:
        wrong = f"--condition takes NAME=VALUE with a condition of the model ({listed or 'none'}), not {text!r}"
    elif not known:
        wrong = f"this model is unconditional, so it cannot be told any {kind}: leave --{kind} out"
    elif not names:
        wrong = (
            f"this model is told no {kind}: its conditions are {', '.join(f'{n} (--{k})' for n, k in known.items())}"
        )
    elif len(names) > 1:
        which = f"say which is meant, as in --{kind} {names[0]}={text}, of {listed}"
        wrong = f"this model is told several of that kind: {which}"
    elif equals and CONDITIONS[kind].config.numeric:
        wrong = f"this model cannot be told {name!r}: its --{kind} is {listed}"
    else:
        return names[0], text
    raise UsageError(f"{wrong}.")


def negative(model: Model, texts: Sequence[str]) -> dict[str, Any]:
    """["class=cat"] → what to be guided away from."""
    options: dict[str, list[str] | None] = {}
    known = _known(model)
    for text in texts:
        kind = known.get(text.partition("=")[0]) if "=" in text else None
        if kind is None:
            takes = f"NAME=VALUE with a condition of the model ({', '.join(known) or 'none'})"
            raise UsageError(f"--negative takes {takes}, not {text!r}.")
        options[kind] = [*(options.get(kind) or []), text]
    found = read_conditions(model, options).values
    for name, values in found.items():
        if len(values) > 1:
            one = "and one is kept away from at a time: give one"
            raise UsageError(f"--negative gives {name!r} several values, {one}.")
    return {name: values[0] for name, values in found.items()}


def scales(text: str) -> tuple[list[float], dict[str, float]]:
    """ "2" or "1,2,4" → the strengths, for all conditions; "class=3,age=1" → of each."""
    parts = [part.partition("=") for part in text.split(",")]
    if "=" in text:
        return [], {name: _scale(value) for name, _, value in parts}
    return [_scale(part) for part, _, _ in parts], {}


def _scale(text: str) -> float:
    try:
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    how = "write 2, or class=3,age=1 for one of each, or 1,2,4 with --compare"
    raise typer.BadParameter(f"takes a guidance scale, not {text!r}: {how}")


scales.__name__ = "SCALE"  # what the help shows for a value
