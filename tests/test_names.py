"""One name, one meaning: no public name is defined twice in the package."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from undiffuse.cli.main import app

SOURCE = Path(__file__).parents[1] / "src" / "undiffuse"


def defined(tree: ast.Module) -> Iterator[str]:
    """The names that the top level of a module defines."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (
                each.id
                for target in targets
                for each in ast.walk(target)
                if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)
            )


def places_of(files: list[Path]) -> dict[str, list[str]]:
    """Public names, and the modules that define them."""
    found = defaultdict(list)
    for path in files:
        for name in set(defined(ast.parse(path.read_text(encoding="utf-8")))):
            if not name.startswith("_"):
                found[name].append(str(path.relative_to(SOURCE)))
    return found


def test_public_names_are_defined_once():
    """A command may be named as the function that it calls; nothing else of the command line may."""
    commands = {each.callback.__name__ for each in app.registered_commands}
    twice = {name: where for name, where in places_of(sorted(SOURCE.rglob("*.py"))).items() if len(where) > 1}
    assert not {
        name: where
        for name, where in twice.items()
        if name not in commands or len([path for path in where if not path.startswith("cli")]) != 1 or len(where) != 2
    }


def test_the_names_are_found():
    names = list(defined(ast.parse("A, b = 1, 2\nc: int = 3\nclass D: e = 1\ndef f(): g = 1\nh.i = 4\n")))
    assert names == ["A", "b", "c", "D", "f"]
