"""Latents from the command line: one command trains both, sampling needs no flag, a classifier reads latents, wrong uses are sentences."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.small import TINY_SETTINGS

SMALL = {
    "latent.autoencoder.channels": [8],
    "latent.autoencoder.groups": 4,
    "latent.autoencoder.latent_channels": 3,
    "latent.training.batch_size": 16,
} | TINY_SETTINGS
SET = [f"--set={path}={json.dumps(value)}" for path, value in SMALL.items()]


def test_one_command_trains_both_and_the_rest_needs_no_flag(run, tmp_path):
    train = (
        "train",
        "digits",
        "--latent",
        "--latent-downsample",
        "2",
        "--latent-train-steps",
        "4",
        "--train-steps",
        "2",
        "--batch-size",
        "8",
        *SET,
    )
    code, out = run(*train)
    assert code == 0, out
    assert "latents of 3×4×4" in out
    for words in (
        "dB; no sample can be nearer",
        "Fréchet distance",
        "standard deviations of",
        "by latents of 3×4×4",
        "trained 2 steps",
    ):
        assert words in out, out
    assert (tmp_path / "runs/digits/autoencoder/reconstructions.png").exists()
    code, out = run(*train)
    assert code == 0, out
    assert "already trained" in out
    assert "autoencoder" not in out.split("run runs")[0]
    code, out = run("sample", "runs/digits", "-n", "4", "--steps", "2", "--trajectory")
    assert code == 0, out
    assert np.load(tmp_path / "runs/digits/sampled/001/samples.npy").shape == (4, 1, 8, 8)
    code, out = run("classifier", "runs/digits", "--train-steps", "2", "--batch-size", "8")
    assert code == 0, out
    code, out = run(
        "sample",
        "runs/digits",
        "-n",
        "2",
        "--steps",
        "2",
        "--class",
        "3",
        "--classifier",
        "runs/digits/classifier-class",
    )
    assert code == 0, out
    code, out = run("reconstruct", "runs/digits", "data:0", "--steps", "3")
    assert code == 0, out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--latent-train-steps", "5"), "train the autoencoder of --latent: add that"),
        (("--latent", "--autoencoder", "x"), "leave one out"),
        (("--latent", "--latent-downsample", "3"), "choose 2, 4 or 8"),
        (("--latent",), "leave nothing to diffuse in"),
        (("--autoencoder", "nowhere"), "there is no autoencoder in nowhere"),
    ],
)
def test_wrong_uses_are_told_in_a_sentence(run, arguments, words):
    code, out = run("train", "digits", "--train-steps", "2", *arguments)
    assert code == 2, out
    assert words in out
    assert "Traceback" not in out
