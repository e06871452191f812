"""Networks on the command line: chosen by kind, described by name, refused in a sentence; tables from an array to a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SMALL = {
    "unet": ("--width", "8", "--multipliers", "1,2", "--set", "network.groups=4"),
    "transformer": ("--width", "16", "--depth", "1", "--set", "network.heads=2"),
    "mlp": ("--width", "16", "--depth", "1", "--dropout", "0.1"),
    "autoencoder": ("--width", "8", "--multipliers", "1,2"),
}
NAMES = {"unet": "U-Net", "transformer": "transformer", "mlp": "MLP", "autoencoder": "autoencoder"}


@pytest.mark.parametrize("network", SMALL)
def test_each_network_is_trained_and_sampled_by_the_same_commands(run, network):
    settings = ("--name", "r", "--network", network, *SMALL[network], "--set", "sampling.steps=3", "--batch-size", "8")
    code, said = run("train", "digits", *settings, "--train-steps", "2")
    assert code == 0, said
    assert f"{NAMES[network]} of " in said
    code, said = run("train", "digits", *settings, "--train-steps", "3")
    assert (code, "resumed" in said) == (0, True), said
    code, said = run("sample", "runs/r", "-n", "2", "--class", "7")
    assert code == 0, said
    assert np.load("runs/r/sampled/001/samples.npy").shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--network", "gan"), "choose one of unet, transformer, mlp, autoencoder"),
        (
            ("--network", "mlp", "--multipliers", "1,2"),
            "there is no setting 'network.multipliers': choose one of kind, width, depth",
        ),
        (("--network", "transformer", "--attention", "2"), "there is no setting 'network.attention'"),
        (("--network", "transformer", "--set", "network.patch=16"), "do not fit into examples of 8×8"),
        (("--network", "autoencoder", "--multipliers", "1,1,1,1,1"), "halves its input 4 times"),
        (("--preset", "dit_s", "--set", "network.heads=7"), "equal heads"),
    ],
)
def test_what_a_network_has_not_is_refused_in_a_sentence(run, arguments, why):
    code, said = run("train", "digits", "--train-steps", "2", "--name", "r", *arguments)
    assert code == 2
    assert why in said
    assert "Traceback" not in said


def test_a_table_is_drawn_column_against_column(run, tmp_path):
    """Two columns with classes, and three without: trained, sampled, drawn on axes of the data, classified."""
    r = np.random.default_rng(0)
    np.savez(tmp_path / "points.npz", x=r.normal(size=(60, 2)), y=r.integers(0, 2, 60))
    np.save(tmp_path / "table.npy", r.normal(size=(60, 3)) * [1, 1e-3, 1e5])
    for name in ("points.npz", "table.npy"):
        code, said = run("train", name, "--train-steps", "2", *SMALL["mlp"], "--set", "sampling.steps=3")
        assert code == 0, said
        assert "read as NC" in said
        assert "MLP of" in said
        assert "examples of 2 (" in said or "examples of 3 (" in said
        folder = f"runs/{name.split('.')[0]}"
        code, said = run("sample", folder, "-n", "6", "--trajectory")
        assert code == 0, said
        samples = np.load(f"{folder}/sampled/001/samples.npy")
        columns = 2 if name == "points.npz" else 3
        assert samples.shape == (6, columns)  # as the table was given
        code, said = run("reconstruct", folder, f"{folder}/sampled/001/samples.npy", "--steps", "2")
        assert code == 0, said
        assert np.load(f"{folder}/edited/001/reconstructed.npy").shape == samples.shape
        pixels = np.asarray(Image.open(f"{folder}/sampled/001/grid.png"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # something is drawn
        assert (
            len(Path(f"{folder}/sampled/001/samples.csv").read_text(encoding="utf-8").splitlines()) == len(samples) + 1
        )
    code, said = run("classifier", "runs/points", "--train-steps", "2")
    assert code == 0, said
