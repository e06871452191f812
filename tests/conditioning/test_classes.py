"""Classes: vocabulary, null token, dropping example by example, and nothing ignored."""

from __future__ import annotations

import pytest
import torch

from tests.small import tiny_model
from undiffuse.conditioning.classes import ClassCondition, ClassConfig
from undiffuse.conditioning.conditions import Conditions

NAMES = ("cat", "dog", "horse")


def conditions(dropout=0.25):
    return Conditions({"class": ClassConfig(names=NAMES, dropout=dropout)}, 6)


@pytest.mark.parametrize("count", [1, 2, 13, 1500])
def test_the_null_token_follows_the_vocabulary_whatever_its_size(count):
    module = ClassCondition(ClassConfig(names=tuple(f"c{i}" for i in range(count))), 4)
    assert module.null_token() == count
    assert module.table.weight.shape == (count + 1, 4)


def test_encoding_takes_one_value_for_all_or_one_each():
    c = conditions()
    assert c.encode({"class": "dog"}, 3)["class"].tolist() == [1, 1, 1]
    assert c.encode({"class": ["cat", None, "horse"]}, 3)["class"].tolist() == [0, 3, 2]
    assert c.encode({}, 2)["class"].tolist() == [3, 3]
    numbered = Conditions({"class": ClassConfig(names=("0", "1", "2"))}, 6)
    assert numbered.encode({"class": 2}, 1)["class"].tolist() == [2]
    assert numbered.encode({"class": torch.tensor([1, 0])}, 2)["class"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"class": "hrse"}, "did you mean horse"),
        ({"class": 3}, "cat, dog, horse"),
        ({"species": "cat"}, "its conditions are: class"),
        ({"class": ["cat", "dog"]}, "2 values"),
    ],
)
def test_what_cannot_be_understood_is_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        conditions().encode(asked, 3)


def test_a_model_that_never_dropped_its_condition_has_no_unconditional_mode():
    with pytest.raises(ValueError, match="without ever dropping"):
        conditions(dropout=0.0).encode({}, 1)


def test_dropping_is_per_example_at_the_asked_rate():
    n = 40_000
    c = conditions(dropout=0.25)
    dropped = c.dropped({"class": torch.arange(n) % 3}, torch.Generator().manual_seed(0))["class"]
    rate = (dropped == 3).double().mean().item()
    assert abs(rate - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5
    assert (dropped[dropped != 3] == (torch.arange(n) % 3)[dropped != 3]).all()
    # neighbours are dropped independently: never a whole batch at once
    hit = (dropped == 3).double()
    assert abs((hit[1:] * hit[:-1]).mean() - 0.0625) < 4 * (0.0625 / n) ** 0.5


def test_the_denoiser_hears_its_class_and_refuses_what_it_does_not_know():
    model = tiny_model()
    level = model.schedule(50.0)
    x = torch.randn(1, 1, 8, 8)

    def mean(k):
        return model.denoiser(x, level, {"class": torch.tensor([k])}).mean

    outputs = [mean(k) for k in range(4)]
    assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    with pytest.raises(ValueError, match="class"):
        model.denoiser(x, level, {})
    with pytest.raises(ValueError, match="class"):
        tiny_model(conditions={}).denoiser(x, level, {"class": torch.tensor([0])})


def test_the_pair_of_guidance_is_two_evaluations_in_one():
    model = tiny_model()
    level, x = model.schedule(40.0), torch.randn(3, 1, 8, 8)
    values = {"class": torch.tensor([0, 1, 2])}
    with torch.no_grad():
        told, untold = model.denoiser.batched([values, model.denoiser.conditions.without(values)])(x, level)
        torch.testing.assert_close(told.mean, model.denoiser(x, level, values).mean)
        torch.testing.assert_close(untold.mean, model.denoiser(x, level, {"class": torch.full((3,), 3)}).mean)
