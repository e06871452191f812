"""A checkpoint is what was written, or it is refused in a sentence that says how to go on."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.test_loop import batches, training_loop
from undiffuse.errors import UsageError
from undiffuse.training.checkpoints import newest, path_of, save_checkpoint

NUMBERS = {"step": 3, "seconds": 1.5, "rate_scale": 1.0, "ema_updates": 3, "skipped": 0, "in_a_row": 0, "rollbacks": 0}
TENSORS = {
    "online.a": torch.arange(6.0).reshape(2, 3),
    "ema.a": torch.zeros(2, 3, dtype=torch.bfloat16),
    "adam_step": torch.tensor(3.0),
}


def test_what_was_written_is_read(tmp_path):
    save_checkpoint(tmp_path, TENSORS, NUMBERS)
    tensors, numbers = newest(tmp_path)
    assert numbers == NUMBERS
    assert all(
        torch.equal(tensors[name], value) and tensors[name].dtype == value.dtype for name, value in TENSORS.items()
    )


@pytest.mark.parametrize("place", [0.5, 0.9, 0.999])
def test_every_byte_that_is_another_is_noticed(tmp_path, place):
    path = save_checkpoint(tmp_path, {"online.a": torch.zeros(500)}, NUMBERS)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"is damaged .*remove it to go on from the one before"):
        newest(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -5},
        {"rate_scale": 0},
        {"rate_scale": None},
        {"seconds": "long"},
        {"skipped": True},
        {"ema_updates": float("nan")},
        None,
        [],
    ],
)
def test_numbers_that_can_be_none_are_refused_also_without_a_hash(tmp_path, changes):
    numbers = NUMBERS | changes if isinstance(changes, dict) else changes
    save_file(TENSORS, path_of(tmp_path, 3), {"format": "2", "numbers": json.dumps(numbers)})
    with pytest.raises(UsageError, match="is damaged"):
        newest(tmp_path)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_is_missing_is_refused(tmp_path, name):
    numbers = {key: value for key, value in NUMBERS.items() if key != name}
    save_file(TENSORS, path_of(tmp_path, 3), {"format": "2", "numbers": json.dumps(numbers)})
    with pytest.raises(UsageError, match=f"is damaged .*{name}"):
        newest(tmp_path)


def test_what_is_no_file_is_refused(tmp_path):
    path_of(tmp_path, 1).mkdir()
    with pytest.raises(UsageError, match="is damaged"):
        newest(tmp_path)
    path_of(tmp_path, 2).write_bytes(b"")
    with pytest.raises(UsageError, match="is damaged"):
        newest(tmp_path)


def test_a_checkpoint_without_its_metadata_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, TENSORS, NUMBERS)
    save_file(load_file(path), path)
    with pytest.raises(UsageError, match="is damaged"):
        newest(tmp_path)


@pytest.mark.parametrize("change", ["shorter", "missing", "half"])
def test_moments_of_adam_are_those_of_the_network_or_nothing_changes(change):
    loop = training_loop(6)
    for _ in zip(range(3), loop.updates(batches), strict=False):
        pass
    tensors, numbers = {name: value.clone() for name, value in loop.tensors().items()}, loop.numbers()
    name = next(key for key in tensors if key.startswith(("exp_avg_sq.", "exp_avg.")))
    if change == "missing":
        del tensors[name]
    elif change == "shorter":
        tensors[name] = tensors[name].flatten()[:1]
    else:
        tensors = {key: value.half() if key.startswith("online.") else value for key, value in tensors.items()}
    other = training_loop(6)
    before = {key: value.clone() for key, value in other.tensors().items()}
    with pytest.raises(UsageError, match="the checkpoint"):
        other.resume(tensors, numbers)
    assert all(torch.equal(value, before[key]) for key, value in other.tensors().items())
