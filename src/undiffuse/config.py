"""What every configuration is: frozen, strict, unknown keys are errors, written as JSON.  Parsed, changed, compared, refused.

Contradictions between settings are refused when a configuration is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from undiffuse.errors import UsageError, explained, unknown_setting
from undiffuse.formats import FORMAT, migrate, version_of
from undiffuse.registry import Registry


class Config(BaseModel):
    """A strict, frozen configuration: unknown settings are refused, and nothing is converted silently."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Kind(Protocol):
    """What a registry of configurations holds: an entry with the configuration of its name."""

    @property
    def config(self) -> Any:
        """The class of the configuration."""


def kind_of(config: type[BaseModel]) -> str | None:
    """The name that the configurations of a class are recognised by in stored files: the value of their entry "kind"."""
    field = config.model_fields.get("kind")
    return None if field is None or not isinstance(field.default, str) else field.default


class OneOf:
    """In `Annotated[Base, OneOf(registry)]`: a configuration of any of the registered kinds, recognised by its entry "kind"."""

    def __init__(self, kinds: Registry[Any]) -> None:
        self.kinds = kinds

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Validates by the class of the kind, and writes whatever that class has."""
        return core_schema.with_info_wrap_validator_function(self._validated, core_schema.any_schema())

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(
            core_schema.union_schema([entry.config.__pydantic_core_schema__ for entry in self.kinds.values()])
        )

    def _validated(self, value: Any, handler: Any, info: ValidationInfo) -> BaseModel:
        kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
        if not isinstance(kind, str):
            raise UsageError(f"say which {self.kinds.what} it is, by its entry 'kind': one of {', '.join(self.kinds)}")
        config: type[BaseModel] = self.kinds[kind].config
        if info.mode == "json":
            return config.model_validate_json(json.dumps(value))
        return config.model_validate(value)


C = TypeVar("C", bound=BaseModel)
LARGEST_WHOLE, LARGEST_NUMBER = 2**63 - 1, (2 - 2**-23) * 2.0**127  # int64 and float32, which tensors are made of


def parsed(kind: type[C], content: Any, what: str) -> C:
    """A configuration from plain data, JSON's lists for tuples. Raises UsageError: one sentence, the first problem."""
    _refuse_too_large(content, what)
    try:
        return kind.model_validate_json(json.dumps(content, default=_plain))
    except ValidationError as error:
        raise UsageError(f"{what}: {explained(error)}") from None


def _plain(value: Any) -> Any:
    """What JSON has no form for: numbers and arrays of NumPy and torch, and paths. Raises UsageError for anything else."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    raise UsageError(f"{value!r} is no value of a setting: give a number, a text, or a list of these.")


def _refuse_too_large(content: Any, what: str, path: str = "") -> None:
    """Raises UsageError for a number that no tensor holds. Infinities may mean something; the fields say where."""
    if isinstance(content, Mapping | list | tuple):
        items = content.items() if isinstance(content, Mapping) else enumerate(content)
        for key, value in items:
            _refuse_too_large(value, what, f"{path}.{key}" if path else str(key))
    elif isinstance(content, int | float) and not isinstance(content, bool) and abs(content) != math.inf:
        largest = LARGEST_WHOLE if isinstance(content, int) else LARGEST_NUMBER
        if abs(content) > largest:
            raise UsageError(f"{what}: {path} is too large a number: none can be above {largest:.4g}.")


def changed(config: C, settings: Mapping[str, Any], what: str = "these settings do not work") -> C:
    """A copy with settings replaced by dotted path, {"training.steps": 2000}, validated as a whole."""
    content = config.model_dump(mode="json")
    for path, value in settings.items():
        *parents, last = path.split(".")
        place = content
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                raise UsageError(f"there is no setting {path!r}: {parent!r} is none of {', '.join(place)}.")
            place = place[parent]
        if last not in place:
            raise UsageError(unknown_setting(last, place, ".".join([*parents, ""])))
        place[last] = value
    return parsed(type(config), content, what)


def differences(old: BaseModel, new: BaseModel) -> dict[str, tuple[Any, Any]]:
    """The settings in which two configurations differ, by dotted path: (old, new)."""

    def flat(content: Any, prefix: str = "") -> dict[str, Any]:
        if isinstance(content, dict) and content:
            return {
                path: v
                for key, value in content.items()
                for path, v in flat(value, f"{prefix}.{key}" if prefix else key).items()
            }
        return {prefix: content}

    before, after = flat(old.model_dump(mode="json")), flat(new.model_dump(mode="json"))
    paths = sorted(before.keys() | after.keys())
    return {path: (before.get(path), after.get(path)) for path in paths if before.get(path) != after.get(path)}


def stored(path: Path, kind: type[C], fix: str) -> C | None:
    """The configuration in a file, None where there is none. Raises UsageError for one that cannot be read.   fix: what to do then."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is damaged ({error}): {fix}.") from None
    version = version_of(content, str(path))
    if isinstance(content, dict):
        content = migrate({key: value for key, value in content.items() if key != "format"}, version)
    return parsed(kind, content, f"{path} has settings this version cannot use")


def as_file(config: BaseModel) -> str:
    """The text of a config.json: the format, then the configuration."""
    return json.dumps({"format": FORMAT} | json.loads(config.model_dump_json()), indent=2) + "\n"


def refuse_other(
    path: Path,
    now: BaseModel,
    fix: str,
    free: tuple[str, ...] = (),
    overridable: tuple[str, ...] = (),
    override: bool = False,
    fixed: tuple[str, ...] = (),
    told: Mapping[str, str] | None = None,
) -> None:
    """Raises UsageError where a configuration written at `path` is not the one of now, with a list of what differs.

    fix: what to do then.   free: beginnings of settings that may differ.   overridable: of those that may where `override` says so, but
    for those of `fixed`.   told: what more is said of a setting that differs.
    """
    before = stored(path, type(now), fix)
    if before is None:
        return
    other = {p: v for p, v in differences(before, now).items() if not p.startswith(free)}
    never = [p for p in other if p.startswith(fixed) or not p.startswith(overridable)]
    if other and (never or not override):
        texts = {p: _difference(p, before, now, *values) for p, values in list(other.items())[:6]}
        listed = "; ".join(f"{text}: {told[p]}" if told and p in told else text for p, text in texts.items())
        also = "" if never or not overridable else ", or go on with the new ones by `change_settings`"
        fixed_ = (
            f", and {', '.join(never)} cannot change later, also not by `change_settings`" if never and override else ""
        )
        raise UsageError(f"{path.parent} was made with another configuration ({listed}){fixed_}: {fix}{also}.")


def begun_before(path: Path) -> bool:
    """Whether a configuration written at `path`, if any, is of code that did not say what it measures, and measured all (`measured_on`)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # whoever reads the configuration says what is wrong
        return False
    return isinstance(content, dict) and content.get("measured_on", "all") == "all"


def _difference(path: str, before: BaseModel, now: BaseModel, old: Any, new: Any) -> str:
    if path != "fingerprint":
        return f"{path}: {old!r} there, {new!r} now"
    counts = getattr(before, "examples", None), getattr(now, "examples", None)
    if None in counts:
        return "the data has changed"
    same = f"the same number of examples, {counts[0]:,}, with other values or other labels"
    return (
        f"the data has changed: {same if counts[0] == counts[1] else f'{counts[0]:,} examples then, {counts[1]:,} now'}"
    )


def finite(value: Any) -> Any:
    """Plain data for strict JSON, which has neither infinity nor NaN: None instead."""
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
