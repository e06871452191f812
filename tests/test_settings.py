"""Settings explain themselves: every field of every configuration has a description."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from pydantic import BaseModel

import undiffuse
from undiffuse.config import changed
from undiffuse.errors import UsageError
from undiffuse.runs.design import Design
from undiffuse.training.settings import TrainingConfig


def every_configuration() -> list[type[BaseModel]]:
    for module in pkgutil.walk_packages(undiffuse.__path__, "undiffuse."):
        if module.name != "undiffuse.__main__":
            importlib.import_module(module.name)
    found, new = {}, [BaseModel]
    while new:
        new = [below for kind in new for below in kind.__subclasses__() if below not in found]
        found |= dict.fromkeys(new)
    return [kind for kind in found if kind.__module__.startswith("undiffuse.")]


@pytest.mark.parametrize("kind", every_configuration(), ids=lambda kind: kind.__name__)
def test_every_field_is_described_in_a_sentence(kind):
    for name, field in kind.model_fields.items():
        text = field.description or ""
        assert len(text) >= 10, f"{kind.__name__}.{name}: {text!r}"
        assert text[-1] == ".", f"{kind.__name__}.{name}: {text!r}"


DESIGN = Design(training=TrainingConfig(steps=1))


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**400, 1e39, -1e300])
@pytest.mark.parametrize("path", ["training.warmup", "training.bias", "network.width"])
def test_numbers_that_no_tensor_holds_are_refused_by_their_path(path, value):
    with pytest.raises(UsageError, match=f"{path} is too large a number") as refused:
        changed(DESIGN, {path: value})
    assert len(str(refused.value)) < 200
