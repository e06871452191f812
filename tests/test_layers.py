"""The arrows between the rooms (docs/explanation/architecture.md), and what may never appear in the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "undiffuse"
FILES = sorted(SOURCE.rglob("*.py"))

# The rooms from the ground floor up, each with those that it may import.  Any may import the ground floor.
GROUND = {"config", "errors", "formats", "registry", "rng", "system"}
ALLOWED = {
    "errors": set(),
    "registry": set(),
    "rng": set(),
    "config": set(),
    "formats": set(),
    "system": set(),
    "data": set(),
    "networks": set(),
    "process": set(),
    "sampling": {"process"},
    "conditioning": {"data", "process"},
    "models": {"conditioning", "data", "networks", "process", "sampling"},
    "training": {"conditioning", "models", "process"},
    "pictures": {"data", "process", "sampling"},
    "runs": {"conditioning", "data", "models", "networks", "pictures", "process", "sampling", "training"},
    "evaluation": {"conditioning", "data", "models", "networks", "process", "runs", "sampling", "training"},
    "api": {"conditioning", "data", "evaluation", "models", "runs", "sampling", "training"},
}
# The engine: of a model it knows how x̂ is asked for, and nothing of files, solvers, pictures or where data is from.
ONLY = {
    ("training", "models"): {"undiffuse.models.denoiser"},
    ("conditioning", "process"): {"undiffuse.process.operators"},
}
OUTSIDE = {
    "process": {"torch", "pydantic"},
    "networks": {"torch", "pydantic"},
    "sampling": {"torch", "pydantic"},
    "conditioning": {"torch", "pydantic", "numpy", "safetensors"},
}
STANDARD_ONLY = {
    "__future__",
    "abc",
    "array",
    "base64",
    "collections",
    "contextvars",
    "contextlib",
    "dataclasses",
    "difflib",
    "functools",
    "importlib",
    "inspect",
    "hashlib",
    "itertools",
    "json",
    "struct",
    "math",
    "numbers",
    "os",
    "pathlib",
    "re",
    "types",
    "typing",
    "warnings",
    "zlib",
}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names |= (
                {f"undiffuse.{a.name}" for a in node.names if a.name[0] != "_"}
                if node.module == "undiffuse"
                else {node.module}
            )
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_rooms_only_know_the_rooms_below_them(path):
    here = room(path)
    if here in ("cli", "__init__", "__main__"):
        return
    ours = {name for name in imports(path) if name.startswith("undiffuse.")}
    unknown = {name.split(".")[1] for name in ours} - ALLOWED[here] - {here} - GROUND
    assert not unknown, f"{here} may not import {sorted(unknown)}"
    for (room_, other), names in ONLY.items():
        if room_ == here:
            assert {name for name in ours if name.split(".")[1] == other} <= names
    if here in OUTSIDE:
        outside = {name.split(".")[0] for name in imports(path) if not name.startswith("undiffuse")}
        assert outside <= OUTSIDE[here] | STANDARD_ONLY


def test_training_knows_no_solver():
    for path in (SOURCE / "training").glob("*.py"):
        assert not any("sampling" in name for name in imports(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_is_unpickled_or_executed(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | (
                {node.module} if isinstance(node, ast.ImportFrom) else set()
            )
            assert not names & {"pickle", "marshal", "shelve", "dill", "joblib", "urllib", "requests", "socket"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load", "torch.save", "compile", "__import__", "os.system")
            if called.endswith("np.load"):
                assert any(k.arg == "allow_pickle" and k.value.value is False for k in node.keywords)
            if called.endswith("load_state_dict"):
                assert not any(k.arg == "strict" for k in node.keywords)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_read_in_one_sitting_and_say_what_they_are(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    assert path.name == "__init__.py" or ast.get_docstring(ast.parse(text)), path
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)


def test_no_solver_schedule_or_loss_hides_its_settings():
    for folder in ("process", "sampling"):
        for path in (SOURCE / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef):
                    assert node.args.kwarg is None, f"{path}: {node.name}"


def test_nothing_concrete_is_subclassed():
    classes = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = [ast.unparse(base) for base in node.bases]
    bases = {base for of in classes.values() for base in of if base in classes}
    for name in bases:
        assert "ABC" in classes[name] or name == "Config", f"{name} is subclassed but not abstract"


def test_random_numbers_come_from_the_one_place_that_numbers_their_streams():
    """Generators are made and seeded in rng.py alone; noise of examples names its stream; only networks draw from the global generator."""
    drawing = {
        f"torch.{name}"
        for name in (
            "rand",
            "randn",
            "randint",
            "randperm",
            "normal",
            "bernoulli",
            "multinomial",
            "rand_like",
            "randn_like",
        )
    }
    for path in FILES:
        if path.name == "rng.py":
            continue
        tree, where = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(SOURCE)
        inside = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.With)
            for node in ast.walk(block)
            if any(ast.unparse(item.context_expr).startswith("drawing(GeneratorStream.") for item in block.items)
        }
        assert "random" not in imports(path), where
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            what = f"{where}:{node.lineno}: {called}"
            assert not re.search(
                r"manual_seed|torch\.Generator|np\.random|default_rng|RandomState|torch\.seed", called
            ), what
            if called in drawing:
                assert "generator" in given or where.parts[0] in ("networks", "conditioning"), what
            if re.search(r"(pca|svd)_lowrank", called):
                assert id(node) in inside, what
            if called.endswith("standard_normal"):
                stream = node.args[4] if len(node.args) > 4 else given.get("stream")
                assert not isinstance(stream, ast.Constant | None), what
            if called in ("generator", "seed_of", "seed_global", "drawing", "permuted"):
                assert ast.unparse(node.args[0]).startswith("GeneratorStream."), what
