"""Conditions as options: columns in training, --class COLUMN; values in other commands, --class cat, --number age=30, one or several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undiffuse.cli.options import opt, parameter
from undiffuse.cli.shared import pairs
from undiffuse.conditioning.condition_grid import ConditionGrid
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.spec import Condition
    from undiffuse.models.model import Model

Texts = list[str] | None
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
CONDITION_VALUES = [  # an option of each kind; class is a word of Python
    parameter(f"{kind}_", Annotated[Texts, opt(text, "Conditions", f"--{kind}")]) for kind, text in KINDS.items()
]


def read_conditions(
    model: Model, options: Mapping[str, Texts], also: Mapping[str, Any] | None = None, fit: str = "crop"
) -> ConditionGrid:
    """The values of the options of each kind, and of `--condition NAME=VALUE` of any.

    also: what a classifier reads, by name, which the model need not have.   fit: how to resize pictures.
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
    return ConditionGrid(values, shown, frozenset(name for name in values if CONDITIONS[known[name]].config.numeric))


def _known(model: Model) -> dict[str, str]:
    """The kind of each condition that an option can set: none that is retired, or that is made of the example itself."""
    kinds = {name: model.config.conditions[name].kind for name in model.denoiser.conditions.settable}
    return {name: kind for name, kind in kinds.items() if kind != "observation"}


def _named(kind: str, text: str, names: Sequence[str], known: Mapping[str, str]) -> tuple[str, str]:
    """(the name of the condition, the value requested)."""
    from undiffuse.conditioning.conditions import CONDITIONS

    name, equals, value = text.partition("=")
    listed = ", ".join(names)
    if equals and name in names:
        return name, value
    if kind == ANY:
        wrong = f"--condition takes NAME=VALUE with a condition of the model ({listed or 'none'}), not {text!r}"
    elif not known:
        wrong = f"this model is unconditional, so it has no {kind}: leave --{kind} out"
    elif not names:
        wrong = f"this model has no condition of the kind {kind}: its conditions are {', '.join(f'{n} (--{k})' for n, k in known.items())}"
    elif len(names) > 1:
        which = f"say which is meant, as in --{kind} {names[0]}={text}, of {listed}"
        wrong = f"this model has several conditions of that kind: {which}"
    elif equals and CONDITIONS[kind].config.numeric:
        wrong = f"this model has no condition {name!r}: its --{kind} is {listed}"
    else:
        return names[0], text
    raise UsageError(f"{wrong}.")


def read_negative(model: Model, texts: Sequence[str]) -> dict[str, Any]:
    """["class=cat"] → what to be guided away from."""
    options: dict[str, Texts] = {}
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


def guidance_scales(text: str) -> tuple[list[float], dict[str, float]]:
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


guidance_scales.__name__ = "SCALE"  # what the help shows for a value


def declared(
    columns: Mapping[str, Texts],
    others: Texts = None,
    inject: Texts = None,
    dropout: Mapping[str, float] | None = None,
    encoder: str | None = None,
    pooling: str | None = None,
) -> dict[str, Condition]:
    """Conditions by name.

    columns: for each kind the columns, NAME, NAME=COLUMN or a file whose name then names the condition.   others: NAME=KIND or
    NAME=KIND:COLUMN.   inject: NAME=WAY.   dropout: of conditions by name.
    """
    from undiffuse.conditioning.spec import Condition
    from undiffuse.config import parsed

    listed = [(kind, text) for kind, texts in columns.items() for text in texts or []]
    for name, kind in pairs(others, "--condition").items():
        kind, _, column = kind.partition(":")
        listed.append((kind, f"{name}={column or name}"))
    ways, dropout = pairs(inject, "--inject"), dropout or {}
    found: dict[str, Condition] = {}
    for kind, text in listed:
        name, equals, column = text.partition("=")
        if not equals and name.lower().endswith(".npy"):
            name, column = Path(name).stem, name
        if name in found:
            raise UsageError(
                f"the condition {name!r} is declared twice: give the second another name, as in --{kind} other={column or name}."
            )
        described: dict[str, Any] = {"kind": kind, "column": column or None, "inject": ways.get(name)}
        described |= {"dropout": dropout.get(name)} | (
            {"encoder": encoder, "pooling": pooling} if kind == "text" else {}
        )
        found[name] = parsed(Condition, described, f"the {kind} {name!r} cannot be declared so")
    for option, named in (("--inject", ways), ("--condition-dropout", dropout)):
        if unknown := [name for name in named if name not in found]:
            raise UsageError(
                f"{option} names {unknown[0]!r}, which is no condition that is declared: declare it, as in --class {unknown[0]}."
            )
    if (encoder or pooling) and not any(kind == "text" for kind, _ in listed):
        raise UsageError(
            "--encoder and --pooling are for texts, and no --text is declared: leave them out, or declare one."
        )
    return found


def shares(texts: Texts) -> tuple[float | None, dict[str, float]]:
    """["0.1", "age=0.2"] → (the share of all conditions, the last that is there; those of single ones by name), each in [0, 1)."""
    texts = texts or []
    own = pairs([text for text in texts if "=" in text], "--condition-dropout")
    return (
        [None, *(_share(text) for text in texts if "=" not in text)][-1],
        {n: _share(text) for n, text in own.items()},
    )


def kinds_of_columns(texts: list[str] | None) -> dict[str, str] | None:
    """What columns of a table are, by name, of "zip=category". Raises UsageError for anything else."""
    found = {}
    for text in texts or []:
        name, equals, kind = text.rpartition("=")
        if not equals or not name:
            raise UsageError(f"--column {text!r} says not what a column is: write NAME=KIND, such as zip=category.")
        found[name] = kind
    return found or None


def balanced(text: str) -> dict[str, object]:
    """Settings of training, of a share, "0.5", or of a class and its share, "species=0.5"."""
    name, equals, share = text.rpartition("=")
    try:
        if equals and not name:
            raise ValueError
        chosen: dict[str, object] = {"training.balance": float(share)}
    except ValueError:
        raise UsageError(
            f"--balance {text!r} is no share: write 0 to 1, such as 1, or NAME=1 for one class of several."
        ) from None
    return chosen | ({"training.balance_by": name} if equals else {})


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(
            f"--condition-dropout {text!r} is no share of the examples: write one from 0 to less than 1, such as 0.1."
        )
    return share
