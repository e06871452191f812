"""Batches are a function of (seed, step), whether they are kept encoded or gathered ahead, and in whatever order they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import AHEAD, Loader

RNG = np.random.default_rng(0)
KINDS = {
    "whole": RNG.integers(0, 256, (40, 3, 5, 4)).astype(np.uint8),
    "deep": RNG.integers(0, 2**16, (40, 1, 5, 4)).astype(np.uint16),
    "floats": RNG.normal(size=(40, 2, 9)).astype(np.float32),
    "wide": 1e9 + RNG.normal(size=(40, 2, 9)),
}
STEPS = [0, 1, 2, 3, 17, 16, 15, 15, 4, 400, 0]


class Counting(np.ndarray):
    """An array that remembers how often rows of it were taken."""

    taken = 0

    def __getitem__(self, rows):
        if isinstance(rows, np.ndarray):
            type(self).taken += 1
        return super().__getitem__(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [None, np.arange(3, 31)])
def test_batches_are_the_same_kept_or_gathered_in_any_order(monkeypatch, kind, rows):
    data = Dataset("x", KINDS[kind])
    codec = Codec(fitted_codec(data))
    kept = Loader(data, codec, 7, 5, torch.device("cpu"), rows=rows)
    monkeypatch.setattr(Loader, "KEPT_ENCODED", 0)
    gathered = Loader(data, codec, 7, 5, torch.device("cpu"), rows=rows)
    assert kept.encoded is not None
    assert gathered.encoded is None
    for step in STEPS:
        assert torch.equal(kept(step)[0], gathered(step)[0])


def test_no_batch_is_gathered_twice_and_few_are_in_advance(monkeypatch):
    monkeypatch.setattr(Loader, "KEPT_ENCODED", 0)
    monkeypatch.setattr(Counting, "taken", 0)
    data = Dataset("x", KINDS["whole"])
    codec = Codec(fitted_codec(data))
    loader = Loader(Dataset("x", KINDS["whole"].view(Counting)), codec, 7, 5, torch.device("cpu"))
    for step in range(20):
        loader(step)
    loader._reader.shutdown()
    assert 20 <= Counting.taken <= 20 + AHEAD


def test_a_fault_in_gathering_is_raised_where_the_batch_is_asked_for(monkeypatch):
    monkeypatch.setattr(Loader, "KEPT_ENCODED", 0)
    loader = Loader(
        Dataset("x", KINDS["whole"]), Codec(fitted_codec(Dataset("x", KINDS["whole"]))), 7, 5, torch.device("cpu")
    )
    loader(0)

    def gone(step):
        raise OSError("the disk is gone")

    loader._gathered = gone
    with pytest.raises(OSError, match="the disk is gone"):
        loader(10)
