"""A command in this process, which has torch already."""

from __future__ import annotations

import sys

import pytest

from undiffuse.cli import main as entry


def exit_code(*arguments: str) -> int:
    """Runs `undiffuse ARGUMENTS`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["undiffuse", *arguments])
        try:
            entry.main()
        except SystemExit as exit_:
            return exit_.code or 0
    return 0
