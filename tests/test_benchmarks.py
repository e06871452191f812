"""Benchmarks run for long, so here only what breaks them unseen: they import (mypy checks the rest), and stored results can be read again."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from benchmarks import ablations, grids

from undiffuse.config import changed
from undiffuse.runs.presets import digits
from undiffuse.sampling.settings import SamplingConfig

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_imports(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert name in ("common", "memory_subjects", "rates") or callable(module.main)


def test_the_settings_of_the_ablations_are_settings():
    for options in ablations.variants().values():
        for network, settings in options.values():
            changed(digits(), ablations.TRAINING | settings | {"network": network.model_dump(mode="json")})


def test_the_stored_ablations_are_those_of_today(capsys):
    """A setting that was renamed would leave `--show` with empty tables."""
    runs = json.loads((FOLDER / "results" / "ablations.json").read_text(encoding="utf-8"))["runs"]
    seeds = 3
    for options in ablations.variants().values():
        for name, (network, settings) in options.items():
            assert all(ablations.key(network, settings, seed) in runs for seed in range(seeds)), name
    ablations.show(runs, seeds)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| ") for line in lines) > sum(map(len, ablations.variants().values()))


def test_the_settings_of_the_grids_are_settings():
    for setting in grids.SETTINGS:
        changed(SamplingConfig(), setting)
