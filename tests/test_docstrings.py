"""Every public function, class and method of the package says what it is.

A method may inherit its docstring from a class of this package, where its contract is written once; not from torch's or pydantic's.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "undiffuse"
MODULES = sorted(
    ".".join(("undiffuse", *path.relative_to(SOURCE).with_suffix("").parts))
    for path in SOURCE.rglob("*.py")
    if path.name not in ("__init__.py", "__main__.py")
)


def documented(owner: type, name: str) -> bool:
    """Whether a method has a docstring, in its class or in one of ours that it inherits from."""
    for base in owner.__mro__:
        if base.__module__.startswith("undiffuse") and name in vars(base):
            member = vars(base)[name]
            member = (
                getattr(member, "__func__", None)
                or getattr(member, "fget", None)
                or getattr(member, "func", None)
                or member
            )
            if inspect.getdoc(member) and member.__doc__:
                return True
    return False


def without_docstring(module_name: str) -> list[str]:
    module = importlib.import_module(module_name)
    found = []
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != module_name:
            continue
        if inspect.isfunction(member) and not member.__doc__:
            found.append(name)
        if inspect.isclass(member):
            if not member.__dict__.get("__doc__") or (member.__doc__ or "").startswith(f"{name}("):  # a dataclass's own
                found.append(name)
            for method, value in vars(member).items():
                callable_ = (
                    inspect.isfunction(value)
                    or isinstance(value, (property, staticmethod, classmethod))
                    or hasattr(value, "func")
                )
                if callable_ and not method.startswith("_") and not documented(member, method):
                    found.append(f"{name}.{method}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_says_what_it_is(module):
    assert not without_docstring(module)


PARAMETERS = re.compile(r"(?:^|\n|   )\s*([a-z_]\w*(?:, [a-z_]\w*)*): ")
OTHER = {  # what a docstring explains besides its own parameters: of the function that is handed over
    "register_objective": {"x", "eps"},
    "register_solver": {"else"},
}


def names_in(node: ast.AST) -> set[str]:
    """Every parameter, attribute and variable below a node of the syntax tree."""
    found = set()
    for each in ast.walk(node):
        if isinstance(each, ast.arg):
            found.add(each.arg)
        elif isinstance(each, ast.Name):
            found.add(each.id)
        elif isinstance(each, ast.Attribute):
            found.add(each.attr)
        elif isinstance(each, ast.FunctionDef):
            found.add(each.name)
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_docstrings_explain_parameters_that_are_there(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            explained = {
                name for group in PARAMETERS.findall(ast.get_docstring(node) or "") for name in group.split(", ")
            }
            stale = explained - names_in(node) - OTHER.get(node.name, set())
            assert not stale, f"{node.name}, line {node.lineno}"
