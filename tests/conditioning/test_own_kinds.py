"""A kind of condition from outside the package: declared, trained, stored, loaded, asked for, in Python and by the commands."""

from __future__ import annotations

import csv
import json
import math
from typing import Literal

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.conditioning.base import ConditionModule, ConditionSettings
from undiffuse.conditioning.conditions import CONDITIONS, ConditionConfig, Conditions
from undiffuse.conditioning.fitting import Column, Fitting
from undiffuse.errors import UsageError

SHORT = {"steps": 4, "batch_size": 16, "held_out": 0.25}


class Angle(ConditionSettings):
    """A direction in degrees, of which 0 and 360 are one."""

    kind: Literal["angle"] = "angle"
    examples: int

    @classmethod
    def fit(cls, column: Column, how: Fitting) -> Angle:
        values = column.present()
        return cls(examples=len(values), **how.common(len(values) < len(column)))

    @classmethod
    def parse(cls, text: str, config: Angle | None = None, fit: str = "crop") -> tuple[list, list[str]]:
        return [float(part) for part in text.split("+")], text.split("+")


class AngleCondition(ConditionModule):
    def __init__(self, config, width):
        super().__init__(config)
        self.linear = nn.Linear(3, width)

    def read(self, values):
        turns = torch.tensor([math.radians(float(value)) for value in values])
        return torch.stack([turns.sin(), turns.cos(), torch.ones_like(turns)], 1)

    def null_token(self):
        return torch.zeros(3)

    def forward(self, encoded):
        return self.linear(encoded)


@pytest.fixture(autouse=True)
def registered():
    undiffuse.register_condition("angle", Angle, AngleCondition)


@pytest.fixture
def data(tmp_path):
    """Pictures with a bright side, and where that lies."""
    angles = np.arange(48) * 7.5
    y, x = np.mgrid[-1:1:8j, -1:1:8j]
    turns = np.radians(angles)[:, None, None]
    pictures = 127 + 127 * (x * np.cos(turns) + y * np.sin(turns)) / 2**0.5
    path = tmp_path / "sides.npz"
    angles[:3] = np.nan
    np.savez(path, x=pictures.astype(np.uint8), wind=angles)
    return path


def test_a_kind_of_ones_own_trains_saves_loads_and_samples(data, tmp_path):
    declared = {"wind": undiffuse.Condition(kind="angle", dropout=0.2)}
    model = undiffuse.train(data, runs=tmp_path, conditions=declared, settings=TINY_SETTINGS, **SHORT)
    config = model.config.conditions["wind"]
    assert config == Angle(examples=45, dropout=0.2, missing=True)
    again = undiffuse.load(tmp_path / "sides")
    assert again.config == model.config
    made = [[*again.trajectory(1, {"wind": wind}, steps=3)][-1].x for wind in (90, 450.0, 270)]  # before any rounding
    torch.testing.assert_close(made[0], made[1])
    assert not torch.allclose(made[0], made[2])
    assert again.sample(1, {"wind": 90}, steps=3, guidance=3.0).isfinite().all()
    resumed = undiffuse.train(data, runs=tmp_path, conditions=declared, settings=TINY_SETTINGS, **SHORT)
    assert all(
        torch.equal(a, b) for a, b in zip(model.denoiser.parameters(), resumed.denoiser.parameters(), strict=True)
    )


def test_a_kind_of_ones_own_in_the_commands(run, data, tmp_path):
    size = [f"--set={key}={json.dumps(value)}" for key, value in TINY_SETTINGS.items()]
    code, out = run(
        "train",
        str(data),
        "--condition",
        "dir=angle:wind",
        "--train-steps",
        "3",
        "--batch-size",
        "8",
        "--name",
        "a",
        *size,
    )
    assert code == 0, out
    code, out = run("sample", "runs/a", "-n", "2", "--condition", "dir=90+270", "--steps", "2", "--out", "made")
    assert code == 0, out
    with open(tmp_path / "made" / "samples.csv", encoding="utf-8") as table:
        assert [row["dir"] for row in csv.DictReader(table)] == ["90", "270"]
    code, out = run("sample", "runs/a", "--condition", "wind=90")
    assert code == 2
    assert "dir" in out


def test_what_is_stored_of_a_kind_that_is_not_registered_is_refused_with_its_name(data, tmp_path, monkeypatch):
    undiffuse.train(
        data, runs=tmp_path, conditions={"wind": undiffuse.Condition(kind="angle")}, settings=TINY_SETTINGS, **SHORT
    )
    monkeypatch.setattr(CONDITIONS, "_known", {name: kind for name, kind in CONDITIONS.items() if name != "angle"})
    with pytest.raises(UsageError, match="there is no kind of condition 'angle'"):
        undiffuse.load(tmp_path / "sides")


def test_a_kind_is_registered_under_the_name_that_its_configuration_has():
    with pytest.raises(UsageError, match=r"kind: Literal\['direction'\]"):
        undiffuse.register_condition("direction", Angle, AngleCondition)
    with pytest.raises(UsageError, match=r"taken.*AngleCondition"):
        undiffuse.register_condition("angle", Angle, AngleCondition)


def test_a_kind_that_only_runs_make_cannot_be_declared():
    with pytest.raises(UsageError, match="a run makes"):
        undiffuse.Condition(kind="observation")
    with pytest.raises(UsageError, match="did you mean 'number'"):
        undiffuse.Condition(kind="nunber")


def test_the_schema_of_conditions_lists_every_kind():
    schema = TypeAdapter(ConditionConfig).json_schema()
    kinds = {
        definition["properties"]["kind"].get("const")
        for definition in [*schema.get("$defs", {}).values(), *schema["anyOf"]]
        if "kind" in definition.get("properties", {})
    }
    assert kinds >= set(CONDITIONS)


@pytest.mark.parametrize(
    ("method", "made", "words"),
    [
        ("read", lambda self, values: torch.zeros(1, 3), r"was read as \(1, 3\) for 4 values"),
        ("read", lambda self, values: None, "was read as NoneType"),
        ("read", lambda self, values: torch.zeros(len(values), 2), "its null token"),
        ("read", lambda self, values: torch.zeros(len(values), 3, dtype=torch.float64), "its null token"),
        (
            "forward",
            lambda self, encoded: self.linear(encoded)[:1],
            r"'wind' returned \(1, \d+\) of torch.float32 for 5 examples",
        ),
        ("forward", lambda self, encoded: None, "'wind' returned NoneType"),
        ("forward", lambda self, encoded: self.linear(encoded).long(), "of torch.int64 for 5 examples"),
        ("forward", lambda self, encoded: self.linear(encoded)[:, None], r"`forward` returns floats \(5, width\)"),
    ],
)
def test_what_a_kind_of_ones_own_returns_is_checked(method, made, words, monkeypatch):
    monkeypatch.setattr(AngleCondition, method, made)
    conditions = Conditions({"wind": Angle(examples=4, dropout=0.1, inject="embedding")}, 8)
    with pytest.raises(UsageError, match=words):
        conditions(conditions.encode({"wind": [1.0, 2.0, None, 3.0, 4.0]}, 5))
