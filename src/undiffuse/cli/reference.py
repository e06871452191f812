"""The settings as JSON schema: taken from the fields of the configurations, and kept beside this file for the command line.

Options and their help are made of settings.json, so that `--help` need not import torch, which the configurations do.

    python -m undiffuse.cli.reference FOLDER      writes settings.json, and FOLDER/settings.md, the page for people

A test says that both are what the code says.
"""

from __future__ import annotations

import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("settings.json")
ORDER = ("DataConfig", "Condition", "Design", "TrainingConfig", "SamplingConfig", "ScheduleConfig")
HEAD = """# Settings

Every setting of the data, the design of a model, its training and its sampling, with its type, its range and its default. This page is
made from the code: `undiffuse schema` prints the same as JSON schema, `undiffuse schema --markdown` prints this page.

A setting is reached by its path: `undiffuse train digits --set training.clip=0.5`, or in Python
`undiffuse.train("digits", settings={"training.clip": 0.5})`. The command line has options of their own for those that are changed often.
In commands that use a model, `--set churn=5` changes a setting of its sampling.

## One meaning a word

What an option means is the same in every command that has it:

"""


def schema_of_code() -> dict[str, Any]:
    """The JSON schema of all that can be set, by class: {"$defs": {"SamplingConfig": {…}, …}}."""
    from pydantic.json_schema import models_json_schema

    from undiffuse.conditioning.spec import Condition
    from undiffuse.data.sources import DataConfig
    from undiffuse.runs.design import Design

    _, schema = models_json_schema([(kind, "validation") for kind in (DataConfig, Condition, Design)])
    found: dict[str, Any] = {}
    for name, kind in schema["$defs"].items():
        found[name] = {key: _named(value, found) for key, value in kind.items()}
    return {"$defs": dict(sorted(found.items()))}


def _named(part: Any, found: dict[str, Any]) -> Any:
    """A part of a schema in which classes that are written out, as those of a registry, are put into `found` and named."""
    if isinstance(part, list):
        return [_named(each, found) for each in part]
    if not isinstance(part, dict):
        return part
    named = {key: _named(value, found) for key, value in part.items()}
    if not (part.get("type") == "object" and isinstance(part.get("title"), str) and "properties" in part):
        return named
    found[part["title"]] = named
    return {"$ref": f"#/$defs/{part['title']}"}


@cache
def settings() -> dict[str, Any]:
    """The classes of settings by name, each as JSON schema."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["$defs"]
    return found


def name_of(kind: str) -> str:
    """SamplingConfig → sampling, KLAutoencoderConfig → kl_autoencoder."""
    bare = kind.removesuffix("Config").replace("UNet", "Unet")
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", bare).lower()


def type_text(field: dict[str, Any]) -> str:
    """The type and range of a field in a few words."""
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(type_text(each) for each in field["anyOf"]))
    if "oneOf" in field:
        return " or ".join(type_text(each) for each in field["oneOf"])
    if "$ref" in field:
        name = name_of(field["$ref"].rpartition("/")[2])
        return f"[{name}](#{name})"
    if "const" in field or "enum" in field:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in field.get("enum", [field.get("const")]))
    kind = field.get("type", "any")
    if kind == "array":
        each = [type_text(item) for item in field.get("prefixItems") or [field.get("items", {})]]
        several = [re.sub(r"^(whole number|number)", r"\1s", text) for text in dict.fromkeys(each)]
        if "prefixItems" in field and len(set(each)) > 1:
            return ", ".join(each)
        return f"{len(each)} {several[0]}" if "prefixItems" in field else f"list of {several[0]}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"{type_text(field['additionalProperties'])} by name"
    text = {"integer": "whole number", "null": "none", "boolean": "true or false", "string": "text"}.get(kind, kind)
    ranges = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    return " ".join([text, *(f"{sign} {field[key]:g}" for key, sign in ranges if key in field)])


def default_text(field: dict[str, Any]) -> str:
    """The default of a field, as it is written in JSON; for a group of settings, that it is its own."""
    if "default" not in field:
        return "" if "$ref" in field or field.get("type") == "object" else "must be given"
    value = field["default"]
    if isinstance(value, dict):
        return f"`{value['kind']}`" if "kind" in value else "as there"
    return "none" if value is None else f"`{json.dumps(value, ensure_ascii=False).strip(chr(34))}`"


def markdown(meanings: dict[str, str]) -> str:
    """The page.   meanings: of options, by name."""
    lines = [f"| `{option}` | {meaning} |" for option, meaning in meanings.items()]
    pages = [HEAD + "\n".join(["| option | meaning |", "|---|---|", *lines])]
    known = settings()
    for kind in sorted(known, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        described = " ".join(known[kind].get("description", "").split("\n\n")[0].split())
        rows = [
            f"| `{name}` | {type_text(field)} | {default_text(field)} | {field.get('description', '')} |"
            for name, field in known[kind].get("properties", {}).items()
        ]
        table = "\n".join(["| setting | type | default | meaning |", "|---|---|---|---|", *rows])
        pages.append(f"## {name_of(kind)}\n\n{described}\n\n{table}")
    return "\n\n".join(pages) + "\n"


def write(folder: Path) -> None:
    """Writes settings.json here and settings.md in `folder`, from the code."""
    from undiffuse.cli.options import MEANINGS

    FILE.write_text(json.dumps(schema_of_code(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    settings.cache_clear()
    (folder / "settings.md").write_text(markdown(MEANINGS), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
