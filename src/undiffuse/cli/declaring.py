"""Conditions as they are declared on the command line: --class COLUMN, --number NAME=COLUMN, --inject NAME=concat."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from undiffuse.errors import UsageError

if TYPE_CHECKING:
    from undiffuse.conditioning.spec import Condition

NOTHING: Mapping[str, str] = MappingProxyType({})


def declared(
    columns: Mapping[str, list[str] | None],
    inject: Mapping[str, str] = NOTHING,
    condition_dropout: Mapping[str, str] = NOTHING,
    encoder: str | None = None,
    pooling: str | None = None,
) -> dict[str, Condition]:
    """Conditions by name.

    columns: for each kind the columns, NAME, NAME=COLUMN or a file whose name then names the condition.   inject, condition_dropout: of
    conditions by name.
    """
    from undiffuse.conditioning.spec import Condition
    from undiffuse.config import parsed

    found: dict[str, Condition] = {}
    for kind, texts in columns.items():
        for text in texts or []:
            name, equals, column = text.partition("=")
            if not equals and name.lower().endswith(".npy"):
                name, column = Path(name).stem, name
            if name in found:
                raise UsageError(
                    f"the condition {name!r} is declared twice: give the second another name, as in --{kind} other={column or name}."
                )
            described: dict[str, Any] = {"kind": kind, "column": column or None, "inject": inject.get(name)}
            described |= {"dropout": share_of([condition_dropout[name]])} if name in condition_dropout else {}
            described |= {"encoder": encoder, "pooling": pooling} if kind == "text" else {}
            found[name] = parsed(Condition, described, f"the {kind} {name!r} cannot be declared so")
    for option, named in (("--inject", inject), ("--condition-dropout", condition_dropout)):
        unknown = [name for name in named if name not in found]
        if unknown:
            raise UsageError(
                f"{option} names {unknown[0]!r}, which is no condition that is declared: declare it, as in --class {unknown[0]}."
            )
    if (encoder or pooling) and not columns.get("text"):
        raise UsageError(
            "--encoder and --pooling are for texts, and no --text is declared: leave them out, or declare one."
        )
    return found


def share_of(texts: list[str]) -> float | None:
    """The last of some shares, from 0 to less than 1."""
    if not texts:
        return None
    try:
        share = float(texts[-1])
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(
            f"--condition-dropout {texts[-1]!r} is no share of the examples: write one from 0 to less than 1, such as 0.1."
        )
    return share
