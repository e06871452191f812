"""What the README says works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from undiffuse.cli import main as entry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = re.findall(r"^    undiffuse (\w+)(.*?)(?:  +#.*)?$", README, re.M)


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "steps=2000" in block
    names: dict = {}
    exec(block.replace("steps=2000", "steps=2"), names)
    assert names["images"].shape == (16, 1, 8, 8)


@pytest.mark.parametrize(("name", "arguments"), COMMANDS)
def test_commands_and_their_options_exist(name, arguments):
    command = typer.main.get_command(entry.app).commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    assert set(re.findall(r"(?<= )--?[a-z][\w-]*", arguments)) <= known


def test_files_it_links_to_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
