"""Folders with text encoders, made once."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    from tests.conditioning.encoders import MADE

    root = tmp_path_factory.mktemp("encoders")
    with torch.random.fork_rng(devices=[]):
        return {name: make(root / name) for name, make in MADE.items()}


@pytest.fixture(params=["bert", "gpt"])
def folder(request, folders):
    return folders[request.param]
