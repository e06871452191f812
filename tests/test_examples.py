"""The examples run as they stand, each as a program of its own in an empty folder, and are short."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import undiffuse

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
LINES = 40


def test_there_is_an_example_of_every_own_part():
    assert {path.stem for path in EXAMPLES} == {
        f"own_{part}" for part in ("network", "dataset", "condition", "solver", "hook")
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short_and_begins_with_what_it_shows(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < LINES
    assert lines[0].startswith('"""Your own ')


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each example prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(undiffuse.__file__).parents[1]), "OMP_NUM_THREADS": "1"}

    def run(name):
        path, folder = next(path for path in EXAMPLES if path.stem == name), tmp_path_factory.mktemp(name)
        found = subprocess.run(
            [sys.executable, "-W", "ignore", path], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr
        return found.stdout

    return run


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]


def test_own_network_learns_what_bright_is(said):
    dark, bright = numbers(said("own_network"))
    assert bright > dark + 1  # 2 in the data


def test_own_dataset_trains(said):
    assert "torch.Size([2, 1, 32])" in said("own_dataset")


def test_own_condition_knows_that_a_turn_is_a_circle(said):
    values = numbers(said("own_condition").split("tensor")[1])
    assert values[2:4] == pytest.approx(values[4:6], abs=1e-3)


def test_own_solver_takes_the_steps_of_ddim(said):
    assert numbers(said("own_solver").split(":")[-1])[0] <= 1  # of values 0 … 16, rounded


def test_own_hook_is_called_and_an_error_in_one_ends_nothing(said):
    out = said("own_hook")
    assert [int(step) for step in re.findall(r"step (\d+)", out)] == [10, 20, 30]
    assert "Model(" in out
