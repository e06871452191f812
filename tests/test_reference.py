"""docs/reference/python.md: it lists every public name, and its examples run, one after another."""

from __future__ import annotations

import re
from pathlib import Path

import undiffuse

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
TEXT = re.sub(r"^```.*?^```", "", PAGE, flags=re.S | re.M)
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)


def test_every_public_name_is_listed():
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", TEXT))))
    missing = {name for name in undiffuse.__all__ if name not in named and not name.startswith("register_")}
    assert not missing
    assert "register_…" in PAGE


def test_the_examples_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 5
    for block in BLOCKS:
        exec(compile(block, "docs/reference/python.md", "exec"), {"__name__": "__main__"})
