"""Weights that a user has parametrized himself are trained, stored and loaded as what they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import undiffuse


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def doubled(layer):
    return parametrize.register_parametrization(layer, "weight", Doubled())


class Network(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.first, self.last = made(nn.Linear(2, 8)), nn.Linear(9, 2)

    def forward(self, x, t):
        hidden = torch.relu(self.first(x.flatten(1)))
        return self.last(torch.cat([hidden, t.reshape(-1, 1).float()], 1)).reshape(x.shape)


@pytest.mark.parametrize(
    "made", [parametrizations.spectral_norm, parametrizations.orthogonal, parametrizations.weight_norm, doubled]
)
def test_a_parametrized_network_is_stored_and_loaded(made, tmp_path):
    data = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    model = undiffuse.Trainer(Network(made), data, runs=tmp_path, name="a", steps=3, batch_size=8).fit()
    again = undiffuse.load(tmp_path / "a", network=Network(made))
    torch.testing.assert_close(again.sample(3, seed=1), model.sample(3, seed=1))
