"""A run with the settings of others: frozen frequencies, another input and another clock are resumed, stored and carried over."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import undiffuse
from tests.small import images
from undiffuse.errors import UsageError

SETTINGS = {
    "network.width": 8,
    "network.multipliers": [1, 2],
    "network.depth": 1,
    "network.embedding_width": None,
    "network.timestep_embedding": "fourier",
    "network.encoder_type": "residual",
    "network.residual_resample": True,
    "network.resample_filter": [1, 3, 3, 1],
    "schedule.name": "ve",
    "prediction": "epsilon",
    "c_in": "one",
    "c_noise.of": "log_sigma",
    "c_noise.scale": 0.25,
    "training.batch_size": 8,
    "training.budget": None,
}


def trained(folder, name, steps, **more):
    settings = {"training.batch_size": 8} if more else SETTINGS
    undiffuse.train(str(folder / "x.npy"), name=name, runs=folder, steps=steps, settings=settings, layout="NHW", **more)
    return load_file(folder / name / "model.safetensors")


def test_a_run_is_resumed_stored_and_carried_over_with_its_frequencies_clock_and_input(tmp_path):
    np.save(tmp_path / "x.npy", images(24))
    whole = trained(tmp_path, "whole", 3)
    trained(tmp_path, "part", 1)
    resumed = trained(tmp_path, "part", 3)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert torch.equal(whole["online.network.fourier"], whole["ema.network.fourier"])
    assert whole["online.network.fourier"].std() > 5
    tuned = trained(tmp_path, "tuned", 1, start=tmp_path / "whole")
    assert torch.equal(tuned["ema.network.fourier"], whole["online.network.fourier"])
    model = undiffuse.load(tmp_path / "tuned", "cpu")
    assert (model.config.c_in, model.config.c_noise.of, model.config.c_noise.scale) == ("one", "log_sigma", 0.25)
    assert (
        model.with_schedule(model.config.schedule.model_copy(update={"name": "cosine"}))
        .sample(1, steps=2)
        .isfinite()
        .all()
    )
    with pytest.raises(UsageError, match="c_in: 'one' there, 'scaled' now"):
        undiffuse.train(
            str(tmp_path / "x.npy"),
            name="other",
            runs=tmp_path,
            steps=1,
            layout="NHW",
            start=tmp_path / "whole",
            settings={"c_in": "scaled"},
        )
