"""Conditions as they are declared on the command line: --class COLUMN, --number NAME=COLUMN, --inject NAME=concat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undiffuse.cli.shared import pairs
from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.spec import Condition

Texts = list[str] | None


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
