"""Adherence: a model that does as it is told scores like real examples, one that does not like the floor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.small import TINY, tiny_model
from undiffuse.conditioning.spec import Condition, fit_condition
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation.adherence import CANDIDATES, adherence
from undiffuse.models.model import Model

COLOURS = ("black", "grey", "white")
DECLARED = {
    "colour": Condition(kind="class"),
    "side": Condition(kind="number"),
    "words": Condition(kind="text"),
    "code": Condition(kind="vector"),
    "marks": Condition(kind="tags"),
}


def squares(n=360, seed=0):
    """Squares of three colours and any width, at a corner; in words, and as a vector, too."""
    rng = np.random.default_rng(seed)
    colour, side = rng.integers(0, 3, n), rng.uniform(2, 8, n)
    values = np.full((n, 1, 8, 8), 60, dtype=np.float64)
    for k in range(n):
        edge = (np.arange(8) + 1 <= side[k]) + (np.arange(8) == int(side[k])) * (side[k] % 1)
        values[k, 0] += (np.array([0, 128, 255])[colour[k]] - 60) * np.outer(edge, edge)
    names = np.array(COLOURS)[colour]
    columns = {
        "colour": names,
        "side": side,
        "words": np.array([f"a {name} square" for name in names]),
        "code": np.eye(3)[colour] * 2 - 1,
    }
    columns["marks"] = np.array(
        [f"{'big' if s > 5 else '-'};{'dark' if c == 0 else '-'}" for s, c in zip(side, colour, strict=True)]
    )
    return Dataset("squares", values.round().astype(np.uint8), columns=columns)


@pytest.fixture
def told(monkeypatch):
    """A model whose samples are real pictures, those that were asked for or others."""
    data = squares()
    conditions = {
        name: fit_condition(
            declared, torch.tensor(data.columns[name]) if name == "code" else data.columns[name].tolist()
        )
        for name, declared in DECLARED.items()
    }
    model = tiny_model(conditions=conditions, network=TINY)

    def judged(obeys: bool):
        def sample(self, n, asked, **settings):
            rows = [int(np.flatnonzero(data.columns["side"] == side)[0]) for side in asked["side"]]
            rows = rows if obeys else np.random.default_rng(0).permutation(rows)
            return torch.from_numpy(data.values[rows]).float()

        monkeypatch.setattr(Model, "sample", sample)
        held_out = np.arange(0, len(data), 2)
        return {a.name: a for a in adherence(model, data, held_out, DECLARED, n=80, predictor_steps=200)}

    return judged


def test_a_model_that_obeys_reaches_the_ceiling(told):
    found = told(True)
    for a in found.values():
        assert a.samples > a.ceiling - 0.1
        assert a.samples > a.floor + 0.2
    assert found["colour"].ceiling > 0.95
    assert found["side"].ceiling > 0.8
    assert (found["colour"].measure, found["side"].measure, found["words"].measure) == (
        "accuracy",
        "R²",
        f"retrieval of {CANDIDATES}",
    )
    side = np.array(found["side"].requested), np.array(found["side"].read)
    assert 1 - ((side[0] - side[1]) ** 2).sum() / ((side[0] - side[0].mean()) ** 2).sum() == pytest.approx(
        found["side"].samples, abs=1e-5
    )
    assert 2 <= side[0].min() < side[0].max() <= 8  # in the data's units


def test_a_model_that_does_not_listen_scores_at_the_floor(told):
    found = told(False)
    assert all(abs(found[name].samples - found[name].floor) < 0.25 for name in ("colour", "words", "code"))
    assert abs(found["colour"].samples - 1 / 3) < 4 * (2 / 9 / 80) ** 0.5 + 0.02
    assert found["side"].samples < 0  # of independent numbers of one distribution R² is -1 on average


def test_what_cannot_be_judged_is_refused():
    data, model = squares(60), tiny_model()
    with pytest.raises(ValueError, match="none of this model's conditions"):
        adherence(model, data, np.arange(60), {})
    with pytest.raises(ValueError, match=r"hold out at least 40.*held_out=40 and another name"):
        adherence(model, data, np.arange(10), DECLARED)
    with pytest.raises(ValueError, match=r"predictors cannot be trained so: seed: .* 0"):
        adherence(model, data, np.arange(60), DECLARED, seed=-1)
    with pytest.raises(ValueError, match="predictors cannot be trained so: steps"):
        adherence(model, data, np.arange(60), DECLARED, predictor_steps=0)
