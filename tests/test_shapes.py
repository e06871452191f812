"""Points, tables, signals and volumes, from an array to samples with the statistics of the data, by the networks for them.

Trained briefly: benchmarks/shapes.py does the same for longer.  What is compared with is known without any network.
"""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.shapes import SHAPES, trained

BRIEFLY = {"sampling.steps": 8, "training.warmup": 20, "training.ema_decay": 0.98, "training.learning_rate": 4e-3}


def learned(name, network, folder, n, **settings):
    """The run, and the laws of n samples of the model as loaded from its file."""
    run, model = trained(SHAPES[name], network, folder, settings=BRIEFLY | settings)
    samples = model.sample(n).numpy()
    assert samples.shape == (n, *run.training_data.shape)
    return min(score["relative"] for score in run.measurements.scores().values()), SHAPES[name].laws(samples)


def test_a_table_keeps_the_scale_of_each_column(tmp_path):
    """Means within a tenth of a deviation, deviations within 15 %, correlations within 0.2, of columns from 1e-3 to 1e4.

    400 draws of the truth miss by 0.05, 0.035 and 0.05, one standard error.  The data are Gaussian: nothing beats the linear denoiser.
    """
    relative, laws = learned(
        "table", "mlp", tmp_path, 400, **{"training.steps": 300, "network.width": 64, "network.depth": 2}
    )
    assert 0.95 < relative < 1.15
    assert laws["largest error of a mean"] < 0.2
    assert laws["of a deviation"] < 0.15
    assert laws["of a correlation"] < 0.2


def test_points_lie_on_their_curve(tmp_path):
    """Nearer to the two half circles than draws of the Gaussian of the same mean and covariance, by a third at least."""
    _, laws = learned(
        "points", "mlp", tmp_path, 400, **{"training.steps": 500, "network.width": 64, "network.depth": 3}
    )
    real = SHAPES["points"].make(4000, 1)
    gaussian = np.random.default_rng(0).multivariate_normal(real.mean(0), np.cov(real.T), 4000)
    assert laws["distance to the circles"] < 2 / 3 * SHAPES["points"].laws(gaussian)["distance to the circles"]
    assert abs(laws["share on the upper one"] - 0.5) < 0.1  # 0.025 is one standard error


SIGNALS: dict[str, dict] = {
    "unet": {"network.width": 12, "network.multipliers": [1, 2, 2], "training.steps": 120},
    "transformer": {
        "network.width": 48,
        "network.depth": 3,
        "network.heads": 3,
        "network.patch": 8,
        "training.steps": 600,
        "training.learning_rate": 3e-3,
    },
}


@pytest.mark.parametrize("network", SIGNALS)
def test_signals_are_sines(network, tmp_path):
    """The Gaussian of the same covariance leaves about a third of its variance beside the nearest sine; sines nothing.

    Half as much is asked of the U-Net, and two thirds of the transformer, which learns more slowly from so little.
    """
    _, laws = learned("signals", network, tmp_path, 200, **SIGNALS[network] | {"training.batch_size": 32})
    real = SHAPES["signals"].make(4000, 1)
    gaussian = np.random.default_rng(0).multivariate_normal(real.mean(0), np.cov(real.T), 400)
    assert (
        laws["beside the sine"]
        < {"unet": 0.5, "transformer": 0.67}[network] * SHAPES["signals"].laws(gaussian)["beside the sine"]
    )
    assert abs(laws["periods"] - 2.5) < 0.4  # 0.06 is one standard error
    assert 0.6 < laws["their deviation"] < 1.1


VOLUMES = {
    "unet": {
        "network.width": 8,
        "network.multipliers": [1, 2],
        "training.steps": 40,
        "training.batch_size": 8,
        "sampling.steps": 4,
    },
    "transformer": {
        "network.width": 48,
        "network.depth": 3,
        "network.heads": 3,
        "network.patch": 4,
        "training.steps": 100,
    },
}


@pytest.mark.parametrize("network", VOLUMES)
def test_volumes_are_learned_beyond_their_covariance(network, tmp_path):
    relative, laws = learned("volumes", network, tmp_path, 24, **{"training.batch_size": 16} | VOLUMES[network])
    assert relative < 0.5
    assert abs(laws["centre"] - 5.5) < 1.0
