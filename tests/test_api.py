"""Python's own interface: what is public, what `train` takes, tells and does."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.errors import Failure, UsageError
from undiffuse.training.overrides import TrainingOverrides
from undiffuse.training.settings import TrainingConfig

SHORT = {"batch_size": 8, "settings": TINY_SETTINGS}


def test_training_overrides_are_the_fields_of_the_settings():
    fields = {
        name: kind for name, kind in get_type_hints(TrainingConfig).items() if name in TrainingConfig.model_fields
    }
    assert fields["budget"] == float | None
    assert get_type_hints(TrainingOverrides) == fields | {"budget": float | str | None}  # "90s" is read as 90.0
    assert not TrainingOverrides.__required_keys__


# What is public ---------------------------------------------------------------------------------------------------------


def test_every_public_name_is_found_and_says_what_it_is():
    for name in undiffuse.__all__:
        found = getattr(undiffuse, name)
        assert found.__name__ == name
        assert inspect.getdoc(found), name
        assert name in dir(undiffuse)


def test_public_names_are_the_ones_that_type_checkers_see():
    tree = ast.parse(Path(undiffuse.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"undiffuse.{home}" for name, home in undiffuse.HOMES.items()}
    assert sorted(undiffuse.__all__) == sorted(undiffuse.HOMES)


def test_no_public_function_takes_untyped_settings():
    for name in undiffuse.__all__:
        found = getattr(undiffuse, name)
        functions = (
            [found] if inspect.isfunction(found) else [f for _, f in inspect.getmembers(found, inspect.isfunction)]
        )
        for function in functions:
            if function.__module__.startswith("undiffuse") and not function.__name__.startswith("_"):
                for parameter in inspect.signature(function).parameters.values():
                    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                        assert get_type_hints(function)[parameter.name] is not Any, (name, function.__name__)


def test_importing_it_imports_nothing_heavy():
    code = "import sys, undiffuse; print([n for n in ('torch', 'numpy', 'pydantic', 'rich') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_none_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        _ = undiffuse.sampel


# train ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ({"learning_rat": 1e-3}, "learning_rate"),
        ({"condition": {}}, "conditions"),
        ({"step": 2}, "steps"),
        ({"lr": 0.1}, "learning_rate"),
    ],
)
def test_a_misspelt_setting_of_training_names_the_nearest(tmp_path, wrong, nearest):
    with pytest.raises(UsageError, match=f"did you mean '{nearest}'"):
        undiffuse.train("digits", runs=tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("training.clp", "training.clip"), ("training.lr", "training.learning_rate")]
)
def test_a_misspelt_path_names_the_nearest_path_which_then_works(tmp_path, wrong, nearest):
    with pytest.raises(UsageError, match=f"did you mean '{nearest}'"):
        undiffuse.train("digits", runs=tmp_path, settings={wrong: 0.5})
    undiffuse.train("digits", runs=tmp_path, steps=1, batch_size=8, settings=TINY_SETTINGS | {nearest: 0.5})


def test_it_logs_its_course_shows_a_bar_and_calls_hooks(tmp_path, caplog, capsys):
    called = []
    caplog.set_level(logging.INFO, "undiffuse")
    undiffuse.train(
        "digits",
        runs=tmp_path,
        steps=3,
        progress=True,
        hooks=[undiffuse.Every(steps=2)(lambda loop, update: called.append(update.step))],
        **SHORT,
    )
    assert called[0] == 2
    told = "\n".join(record.getMessage() for record in caplog.records if record.name == "undiffuse")
    for part in ("run ", "started in", "saved step 3", "drew", "trained 3 steps", "held-out"):
        assert part in told, part
    assert "training" in capsys.readouterr().out
    caplog.clear()
    undiffuse.train("digits", runs=tmp_path, steps=5, **SHORT)
    assert any("resumed in" in record.getMessage() and "step 3" in record.getMessage() for record in caplog.records)
    assert not capsys.readouterr().out  # no bar where none is asked for


def test_a_hook_that_is_none_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="a hook is a function"):
        undiffuse.train("digits", runs=tmp_path, steps=2, hooks=[3], **SHORT)
    assert not list(tmp_path.iterdir())


def test_resume_says_whether_a_run_has_to_be_there(tmp_path):
    with pytest.raises(UsageError, match="holds no run to resume"):
        undiffuse.train("digits", runs=tmp_path, steps=2, resume=True, **SHORT)
    undiffuse.train("digits", runs=tmp_path, steps=2, resume=False, **SHORT)
    with pytest.raises(UsageError, match="holds a run"):
        undiffuse.train("digits", runs=tmp_path, steps=4, resume=False, **SHORT)
    undiffuse.train("digits", runs=tmp_path, steps=4, resume=True, **SHORT)
    assert (tmp_path / "digits/state/step-00000004.safetensors").exists()


def test_settings_of_the_model_have_names_of_their_own(tmp_path):
    model = undiffuse.train(
        "digits",
        runs=tmp_path,
        steps=2,
        schedule="cosine",
        prediction="v",
        condition_dropout=0.25,
        conditions={},
        **SHORT,
    )
    assert (model.config.schedule.name, model.config.prediction, model.classes) == ("cosine", "v", ())


def test_data_in_memory_trains_as_if_from_a_file(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "values.npy", values)
    common = SHORT | {"steps": 2, "held_out": 8, "range": (0, 255)}
    from_file = undiffuse.train(tmp_path / "values.npy", runs=tmp_path, name="file", **common)
    for name, data in (
        ("array", values),
        ("tensor", torch.from_numpy(values)),
        ("list", list(torch.from_numpy(values))),
    ):
        model = undiffuse.train(data, runs=tmp_path, name=name, **common)
        assert torch.equal(model.sample(2, steps=2), from_file.sample(2, steps=2)), name
    again = undiffuse.train(values, runs=tmp_path, name="array", **common)
    assert torch.equal(again.sample(2, steps=2), from_file.sample(2, steps=2))
    with pytest.raises(UsageError, match="are for images"):
        undiffuse.train(values, runs=tmp_path, name="other", size=4, **common)


def test_a_second_stage_is_a_degradation_of_its_own(tmp_path):
    with pytest.raises(UsageError, match="leave degradation out"):
        undiffuse.train("digits", runs=tmp_path, steps=2, degradation="inpaint", upscale_factor=2, **SHORT)
    model = undiffuse.train("digits", runs=tmp_path, steps=2, upscale_factor=2, **SHORT)
    assert list(model.config.degradations) == ["upscale:2"]


def texts_of(path: Path) -> set[str]:
    """The texts of a module that are no docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None
    }
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {node.value for node in found if id(node) not in documented}


def test_the_library_names_settings_and_leaves_flags_to_the_command_line():
    source = Path(undiffuse.__file__).parent
    flags, texts = {}, 0
    for path in sorted(source.rglob("*.py")):
        if "cli" not in path.relative_to(source).parts:
            found = texts_of(path)
            texts += len(found)
            flags |= {text: path.name for text in found if re.search(r"(^|[\s'(\[`])--[a-z]|\w --$", text)}
    assert texts > 1000
    assert not flags


def test_errors_are_of_two_kinds():
    assert issubclass(UsageError, ValueError)
    assert issubclass(Failure, RuntimeError)
    assert (undiffuse.UsageError, undiffuse.Failure) == (UsageError, Failure)
