"""Interrupts: the first is for the training to end by, the second acts as it would without one."""

from __future__ import annotations

import signal
import threading

import pytest

from undiffuse.training.interrupts import SIGNALS, stopping


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_acts_as_usual(number):
    usual = []
    before = signal.signal(number, lambda *_: usual.append("usual"))
    try:
        handler = signal.getsignal(number)
        with stopping() as received:
            signal.raise_signal(number)
            assert (received, usual) == ([number], [])
            signal.raise_signal(number)
            assert (received, usual) == ([number], ["usual"])
        assert signal.getsignal(number) is handler
        with stopping() as received:
            pass
        assert not received
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_another_thread_trains_without_hearing_signals():
    heard = []

    def train():
        with stopping() as received:
            heard.append(received)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert heard == [[]]
