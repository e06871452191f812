"""Options of commands, made of the fields of the settings: name, type, range, default and help are written once, there.

Every value is read by `reader`, which refuses what it cannot read in one sentence.  What an option means is the same in every
command (reference.MEANINGS; a test compares).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import typer

from undiffuse.cli.reference import settings, type_text
from undiffuse.errors import UsageError, nearest

MODELS_OWN = "the model's own"


def opt(
    help: str,
    panel: str | None = None,
    *flags: str,
    parse: Callable[[str], Any] | None = None,
    metavar: str | None = None,
    default: str | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """An option of a command, for Annotated.

    panel: of the help, the first when None.   flags: in place of the parameter's name.   parse: reads the text; raises typer.BadParameter.
    metavar: what the help shows for a value, the name of `parse` when None.
    default: what the help says to hold when it is left out, where that is not the parameter's default.   choices: that a shell completes.
    """
    extra: dict[str, Any] = {} if default is None else {"show_default": default or False}
    if parse is not None:
        extra |= {"parser": parse, "metavar": metavar or parse.__name__}
    if choices:
        extra["autocompletion"] = lambda incomplete: [each for each in choices if each.startswith(incomplete)]
    return typer.Option(*flags, help=help, rich_help_panel=panel, **({"metavar": metavar} | extra))


def parameter(name: str, annotation: Any, default: Any = None) -> Parameter:
    """An option that several commands have: the name of the argument, and its type with `opt`."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def reader(field: Mapping[str, Any]) -> Callable[[str], Any]:
    """What reads the text of an option as a value of a field, given as JSON schema. It raises typer.BadParameter."""
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    choices = choices_of(field)
    expected = type_text({"anyOf": kinds}).replace("`", "")
    article = "one of " if choices else "a " if expected[0] in "wnlt" and expected[:7] != "number," else ""
    lists = [kind for kind in kinds if kind.get("type") == "array"]
    lengths = [len(kind.get("prefixItems", ())) for kind in lists]
    example = "".join(", such as " + {2: "0.3,5", 3: "0.06,0.3,2"}.get(n, "1,2,2") for n in lengths[:1])

    def read(text: str) -> Any:
        for kind in kinds:
            value = _value(text, kind)
            if value is not None:
                return value
        raise typer.BadParameter(f"takes {article}{expected}{example}, not {text!r}{nearest(text, choices)}")

    plain = {"integer": "INTEGER", "number": "NUMBER"}.get(kinds[0].get("type", ""), "TEXT")
    read.__name__ = "|".join(choices) or ("A,B,…" if lists else plain)
    return read


def choices_of(field: Mapping[str, Any]) -> list[str]:
    """The texts that a field, given as JSON schema, may be; none where it may be any."""
    return [choice for kind in field.get("anyOf", [field]) for choice in kind.get("enum", [])]


def _value(text: str, kind: Mapping[str, Any]) -> Any:
    """The value of a text, None where it is none of that kind."""
    if "enum" in kind:
        return text if text in kind["enum"] else None
    if kind.get("type") == "array":
        parts = text.split(",")
        items = kind.get("prefixItems") or [kind["items"]] * len(parts)
        values = [_value(part, item) for part, item in zip(parts, items, strict=False)]
        return None if None in values or len(parts) != len(items) else values
    if kind.get("type") not in ("integer", "number"):
        return text if kind.get("type") == "string" else None
    try:
        value = int(text) if kind["type"] == "integer" else float(text)
    except ValueError:
        return None
    inside = kind.get("minimum", -math.inf) <= value <= kind.get("maximum", math.inf)
    above, below = kind.get("exclusiveMinimum", math.nan), kind.get("exclusiveMaximum", math.nan)
    return value if inside and not value <= above and not value >= below else None


def option(
    kind: str, name: str, flag: str | None = None, panel: str | None = None, default: str | None = None, as_: str = ""
) -> Parameter:
    """The option of one field of a class of settings; its value is None where it is not given.

    flag: in place of the field's name.   panel: of the help, the first when None.   default: what the help says to hold when it is left out, the
    field's own default when None.   as_: name of the parameter, the field's when empty.
    """
    field = settings()[kind]["properties"][name]
    if default is None:
        default = "" if field.get("default") is None else json.dumps(field["default"]).strip('"')
    flag = flag or f"--{name.replace('_', '-')}"
    kind_, read = (bool, None) if field.get("type") == "boolean" else (str, reader(field))
    made = opt(field["description"], panel, flag, parse=read, default=default, choices=choices_of(field))
    return parameter(as_ or name, Annotated[kind_ | None, made])


def options_of(kind: str, panels: Mapping[str | None, Iterable[str]], default: str | None = None) -> list[Parameter]:
    """The options of several fields.   panels: the fields of each panel of the help, of the first under None."""
    return [option(kind, name, panel=panel, default=default) for panel, names in panels.items() for name in names]


def with_options(command: Callable[..., None], options: Iterable[Parameter]) -> None:
    """Gives a command that takes **options these, after its own."""
    own = [p for p in signature(command, eval_str=True).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
    own = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own]
    command.__signature__ = Signature([*own, *options])  # type: ignore[attr-defined]


def not_none(settings_: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not None."""
    return {name: value for name, value in settings_.items() if value is not None}


def flags_of(app: typer.Typer, command: str) -> dict[str, str]:
    """The options of a command by the names of the settings that they set, without the groups that these are in: {"range": "--range"}."""
    known = getattr(typer.main.get_command(app), "commands", {}).get(command)
    options = [each for each in (known.params if known else ()) if each.param_type_name == "option"]
    found: dict[str, str] = {}
    for each in sorted(options, key=lambda each: "__" in each.name):  # a command's own name before that of a group
        found.setdefault(each.name.rpartition("__")[2].rstrip("_"), max(each.opts, key=len))
    return found


def assignments(texts: Iterable[str] | None) -> dict[str, Any]:
    """["clip=0.5"] → {"clip": 0.5}: JSON where it is that, else text. Raises UsageError."""
    found: dict[str, Any] = {}
    for text in texts or ():
        path, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes SETTING=VALUE, such as training.clip=0.5, not {text!r}.")
        try:
            found[path] = json.loads(value)
        except ValueError:
            found[path] = value
    return found
