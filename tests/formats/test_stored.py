"""Files that an older version stored: they load, sample what they sampled there, and their runs go on.

`0.1/` was made by the code of commit ef98c79, on tiny networks, and `expected.npz` holds what that code sampled.  These
numbers are no proof that sampling is right; the laws elsewhere are.  They prove that a user's file means the same today.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from undiffuse.models import restoration
from undiffuse.models.classifier import load_classifier
from undiffuse.models.file import load

HERE = Path(__file__).parent / "0.1"
STORED = HERE / "stored"
DATA = np.load(HERE / "data.npz")["images"]
# Convolutions sum in another order on another processor: 5 to 8 steps of float32, on values of 0 … 255.
TOLERANCE = 255 * 1e-6


@pytest.fixture(scope="module")
def expected():
    with np.load(HERE / "expected.npz") as content:
        return {name: torch.from_numpy(content[name]) for name in content.files}


def sampled(name, n, conditions, adapters=None, **sampling):
    return load(STORED / name, device="cpu", adapters=adapters).sample(n, conditions, seed=5, **sampling)


PICTURE = torch.from_numpy(255 - DATA[:1].astype(np.float32))
MIXED = {"species": "cat", "age": 3.5, "words": ("red",), "caption": "a cat asleep", "map": PICTURE}
SAMPLES = {
    "classes": lambda: sampled("classes", 3, {"class": ["cat", "7", None]}),
    "guided": lambda: sampled("classes", 3, {"class": "dog"}, guidance=2.0, steps=6),
    "ddpm": lambda: sampled("classes", 2, {"class": "dog"}, solver="ddpm", grid="trailing", steps=8),
    "adapters": lambda: sampled("classes", 2, {"class": "cat"}, STORED / "tuned" / "adapters"),
    "tuned": lambda: sampled("tuned", 2, {"class": "cat"}),
    "mixed": lambda: sampled("mixed", 2, MIXED),
    "latents": lambda: sampled("latents", 2, {"class": "dog"}),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_stored_model_samples_what_it_sampled_there(name, expected):
    assert (SAMPLES[name]() - expected[name]).abs().max() < TOLERANCE


def test_a_stored_model_for_tasks_restores_what_it_restored_there(expected):
    model = load(STORED / "tasks", device="cpu")
    small = torch.nn.functional.avg_pool2d(torch.from_numpy(DATA[:1, None].astype(np.float32)), 2)
    restored = restoration.restore(model, restoration.observe(model, small, "upscale:2"), seed=5)
    assert (restored.values - expected["restored"]).abs().max() < TOLERANCE


def test_a_stored_classifier_reads_what_it_read_there(expected):
    classifier = load_classifier(STORED / "classes" / "classifier-class")
    x = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8)
    with torch.no_grad():
        answer = classifier(x, classifier.config.schedule.build()(torch.tensor(50.0, dtype=torch.float64)))
    assert (answer - expected["classifier"]).abs().max() < 1e-5


@pytest.mark.parametrize(("name", "trained"), [("classes", 20), ("latents", 12)])
def test_a_stored_run_goes_on(name, trained, run, tmp_path):
    shutil.copytree(STORED / name, tmp_path / "runs" / name)
    shutil.copy(HERE / "data.npz", tmp_path)
    network = json.loads((STORED / name / "config.json").read_text())["design"]["network"]
    kept = ("width", "multipliers", "depth", "groups", "embedding_width")
    options = [f"--set=network.{key}={json.dumps(network[key])}" for key in kept]
    options += ["--set", "training.batch_size=8"]
    if name == "latents":
        options += [
            "--latent",
            "--latent-downsample",
            "2",
            "--set",
            "latent.training.steps=6",
            "--set",
            "latent.training.batch_size=8",
        ]
        options += ["--set", "latent.autoencoder.channels=[4,8]", "--set", "latent.autoencoder.groups=2"]
    code, told = run(
        "train", "data.npz", "--name", name, "--train-steps", str(trained + 2), "--device", "cpu", *options
    )
    assert code == 0, told
    assert f"step {trained}" in told or f"trained {trained + 2} steps" in told
    checkpoint = tmp_path / "runs" / name / "state" / f"step-{trained + 2:08d}.safetensors"
    assert checkpoint.exists()
    assert load(tmp_path / "runs" / name, device="cpu").config.provenance["training"]["steps"] == trained + 2
