"""What the README says works; tests/test_docs.py has what it says exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("block", PYTHON)
def test_python_blocks_run(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "steps=2000" in block
    names: dict = {}
    exec(block.replace("steps=2000", "steps=2"), names)
    assert names["images"].shape == (16, 1, 8, 8)
