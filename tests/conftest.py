"""The whole suite runs offline, on one thread (so that results do not depend on how busy the machine is)."""

from __future__ import annotations

import gc
import signal
import socket

import pytest
import torch

import undiffuse.cli.main  # noqa: F401 - and with it everything that has a registry
from tests.commands import exit_code
from undiffuse.registry import Registry


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _interrupts_act():
    """As in a terminal; what a shell runs in the background ignores them, and so does what that runs."""
    if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a test tried to open a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture(scope="session")
def registries():
    return [each for each in gc.get_objects() if type(each) is Registry]


@pytest.fixture(autouse=True)
def _registries_stay_as_they_were(registries, monkeypatch):
    """What a test registers is gone after it, so that no test depends on which others its process ran before."""
    for registry in registries:
        monkeypatch.setattr(registry, "_known", dict(registry._known))
        monkeypatch.setattr(registry, "_owners", dict(registry._owners))


@pytest.fixture(autouse=True, scope="session")
def _cache_of_its_own(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDIFFUSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a command in tmp_path; returns (exit code, what it printed)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str):
        code = exit_code(*arguments)
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call
