"""The codec: there and back exactly, for every kind of values, and never quietly outside its range."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.dataset import Dataset
from undiffuse.data.loader import Loader, batch_indices
from undiffuse.data.sources import open_digits


def codec_for(values, **options):
    return Codec(fitted_codec(Dataset("test", values, **options)))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int64])
def test_integers_round_trip_exactly(dtype):
    top = {np.uint8: 255, np.uint16: 65535}.get(dtype, 1000)
    values = np.linspace(0, top, 4000).round().astype(dtype).reshape(10, 4, 10, 10)
    codec = codec_for(values)
    x = codec.encode(values)
    assert (x.min(), x.max()) == (-1, 1)
    assert np.array_equal(codec.decode(x).numpy().astype(dtype), values)
    assert codec.config.bins == top + 1


def test_digits_use_their_own_range():
    codec = Codec(fitted_codec(open_digits()))
    assert codec.config.bins == 17
    x = codec.encode(open_digits().values)
    torch.testing.assert_close(x, torch.from_numpy(open_digits().values).float() / 8 - 1)


def test_floats_are_scaled_by_channel_and_limited_to_what_was_seen():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(500, 2, 30)) * [[[300], [0.01]]] + [[[1000], [-3]]]).astype(np.float32)
    codec = codec_for(values)
    x = codec.encode(values)
    torch.testing.assert_close(x.mean((0, 2)), torch.zeros(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(x.std((0, 2)), torch.full((2,), 0.5), rtol=1e-3, atol=0)
    np.testing.assert_allclose(codec.decode(x).numpy(), values, rtol=1e-5, atol=1e-5)
    far = codec.decode(torch.full((1, 2, 30), 50.0))
    torch.testing.assert_close(far[0, :, 0], torch.from_numpy(values.max((0, 2))))
    low, high = codec.limits(torch.device("cpu"))
    torch.testing.assert_close(high.squeeze(), x.amax((0, 2)))
    torch.testing.assert_close(low.squeeze(), x.amin((0, 2)))
    assert codec.config.bins is None


def test_data_in_another_range_or_shape_is_refused_with_both_ranges():
    codec = Codec(fitted_codec(open_digits()))
    with pytest.raises(ValueError, match=r"\[0, 255\].*\[0, 16\]"):
        codec.encode(np.linspace(0, 255, 64).reshape(1, 1, 8, 8))
    with pytest.raises(ValueError, match="shape"):
        codec.encode(np.zeros((1, 3, 8, 8)))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((3, 1, 4), np.nan, dtype=np.float32), "NaN"),
        (np.zeros((3, 1, 4), dtype=np.float32), "same value"),
        (np.zeros((3, 1, 4), dtype=np.int32), "nothing to learn"),
    ],
)
def test_data_with_nothing_in_it_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        codec_for(values)


def test_batches_are_a_function_of_seed_and_step_and_every_epoch_sees_everything_once():
    stream = np.concatenate([batch_indices(10, 4, 7, step) for step in range(15)])
    for epoch in range(6):
        assert sorted(stream[10 * epoch : 10 * epoch + 10].tolist()) == list(range(10))
    assert not np.array_equal(stream[:10], stream[10:20])
    assert np.array_equal(batch_indices(10, 4, 7, 11), stream[44:48])
    assert not np.array_equal(batch_indices(10, 4, 8, 0), stream[:4])
    # a batch split among two readers is the same global order, and a batch may be larger than the data
    assert np.array_equal(np.concatenate([batch_indices(10, 2, 7, k) for k in (6, 7)]), batch_indices(10, 4, 7, 3))
    assert len(batch_indices(3, 64, 0, 5)) == 64


def test_the_global_random_state_is_neither_used_nor_changed():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = batch_indices(50, 8, 0, 3)
    np.random.seed(1)  # noqa: NPY002
    assert np.array_equal(batch_indices(50, 8, 0, 3), first)
    np.random.seed(0)  # noqa: NPY002
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_what_is_trained_on_is_the_encoded_data(monkeypatch):
    data, codec = open_digits(), Codec(fitted_codec(open_digits()))
    labels = {"class": torch.from_numpy(data.labels)}
    kept = Loader(data, codec, 16, 0, torch.device("cpu"), labels)
    monkeypatch.setattr(Loader, "KEPT_ENCODED", 0)
    streamed = Loader(data, codec, 16, 0, torch.device("cpu"), labels)
    rows = batch_indices(1797, 16, 0, 4)
    for loader in (kept, streamed):
        x, values = loader(4)
        assert torch.equal(x, codec.encode(data.values[rows]))
        assert values["class"].tolist() == data.labels[rows].tolist()
