"""The whole suite runs offline, on one thread (so that results do not depend on how busy the machine is)."""

from __future__ import annotations

import socket

import pytest
import torch

from tests.commands import exit_code


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a test tried to open a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a command in tmp_path; returns (exit code, what it printed)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        code = exit_code(*arguments)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call
