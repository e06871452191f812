"""The settings as JSON schema: taken from the fields of the configurations, and kept beside this file for the command line.

Options and their help are made of settings.json, so that `--help` need not import torch, which the configurations do.

    python -m undiffuse.cli.reference FOLDER      writes settings.json, and FOLDER/settings.md, the page for people

A test says that both are what the code says.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
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
MEANINGS = {
    "--steps": "sampler steps; training updates are `--train-steps`",
    "--train-steps": "training updates, of a model, a classifier or a predictor; sampler steps are `--steps`",
    "--noise": "standard deviation of the noise in the images given, in their own unit",
    "--noise-sampler": "how stochastic solvers draw their noise: `independent` or `brownian`",
    "--variance": "number from 0 (small) to 1 (large): variance of ancestral steps; its kind in training is `--variance-type`",
    "--variance-type": "what the reverse variance is in training: `fixed_small`, `fixed_large`, `learned_range` or `learned`",
    "--upscaler": "a trained second stage; how many times it enlarges is `--upscale-factor`, in training",
    "--upscale-factor": "train a second stage that makes examples so many times larger",
    "--degradation": "what is to be restored: `inpaint`, `upscale:4`, `colorize`, `deblur:1.5` or `denoise`; several in training",
    "--task": "a condition of kind task; what can be restored is a `--degradation`",
    "--class, --tags, --number, --text, --vector, --image, --task": "a condition: its column in `train` and `classifier`, "
    "its value in every other command",
    "--guidance": "guidance scale: 1 plain conditional, 0 unconditional",
    "--batch-size": "examples per update",
    "--start-index": "index of the first sample of a seed",
    "--held-out": "examples kept for validation: a share below 1, or a whole number",
    "--weights": "`ema` or `online` weights",
    "--seed": "seed of everything random in the command",
    "--out": "folder or file to write to",
    "-n": "how many: samples, or answers for each image",
}


def schema_of_code() -> dict[str, Any]:
    """The JSON schema of all that can be set, by class: {"$defs": {"SamplingConfig": {…}, …}}."""
    from pydantic.json_schema import models_json_schema

    from undiffuse.conditioning.spec import Condition
    from undiffuse.data.config import DataConfig
    from undiffuse.runs.design import Design

    _, schema = models_json_schema([(kind, "validation") for kind in (DataConfig, Condition, Design)])
    return {"$defs": dict(sorted(schema["$defs"].items()))}


@cache
def settings() -> dict[str, Any]:
    """The classes of settings by name, each as JSON schema."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["$defs"]
    return found


def group_name(kind: str) -> str:
    """SamplingConfig → sampling, KLAutoencoderConfig → kl_autoencoder."""
    bare = kind.removesuffix("Config").replace("UNet", "Unet")
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", bare).lower()


def type_text(field: dict[str, Any]) -> str:
    """The type and range of a field in a few words."""
    if kinds := field.get("anyOf", field.get("oneOf")):
        return " or ".join(dict.fromkeys(type_text(each) for each in kinds))
    if "$ref" in field:
        name = group_name(field["$ref"].rpartition("/")[2])
        return f"[{name}](#{name})"
    if "const" in field or "enum" in field:
        return ", ".join(f"`{_json(value)}`" for value in field.get("enum", [field.get("const")]))
    kind, items = field.get("type", "any"), field.get("prefixItems")
    if kind == "array":
        each = [type_text(item) for item in items or [field.get("items", {})]]
        if items and len(set(each)) > 1:
            return ", ".join(each)
        several = re.sub(r"^(whole number|number)", r"\1s", each[0])
        return f"{len(each) if items else 'list of'} {several}"
    if kind == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"{type_text(field['additionalProperties'])} by name"
    text = {"integer": "whole number", "null": "none", "boolean": "true or false", "string": "text"}.get(kind, kind)
    ranges = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
    return " ".join([text, *(f"{sign} {field[key]:g}" for key, sign in ranges if key in field)])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).strip('"')


def default_text(field: dict[str, Any]) -> str:
    """The default of a field, as it is written in JSON; for a group of settings, that it is its own."""
    if "default" not in field:
        return "" if "$ref" in field or field.get("type") == "object" else "must be given"
    value = field["default"]
    if isinstance(value, dict):
        return f"`{value['kind']}`" if "kind" in value else "as there"
    return "none" if value is None else f"`{_json(value)}`"


def markdown() -> str:
    """The page."""
    pages = [HEAD + _table("option | meaning", [(f"`{option}`", meaning) for option, meaning in MEANINGS.items()])]
    known = settings()
    for kind in sorted(known, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        described = " ".join(known[kind].get("description", "").split("\n\n")[0].split())
        fields = known[kind].get("properties", {})
        rows = [(f"`{n}`", type_text(f), default_text(f), f.get("description", "")) for n, f in fields.items()]
        pages.append(f"## {group_name(kind)}\n\n{described}\n\n{_table('setting | type | default | meaning', rows)}")
    return "\n\n".join(pages) + "\n"


def _table(head: str, rows: Iterable[Iterable[str]]) -> str:
    line = "|".join("---" for _ in head.split("|"))
    return "\n".join([f"| {head} |", f"|{line}|", *(f"| {' | '.join(row)} |" for row in rows)])


def write_reference(folder: Path) -> None:
    """Writes settings.json here and settings.md in `folder`, from the code."""
    FILE.write_text(json.dumps(schema_of_code(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    settings.cache_clear()
    (folder / "settings.md").write_text(markdown(), encoding="utf-8")


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
