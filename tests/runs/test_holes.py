"""Runs on examples with holes: what is missing reaches nothing, and what is learned is the distribution of complete examples."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import undiffuse
from tests.small import TINY_SETTINGS, images
from undiffuse.conditioning.known import KNOWN, KnownConfig
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import DataConfig
from undiffuse.data.dataset import Dataset
from undiffuse.errors import UsageError
from undiffuse.process.posteriors import Posterior
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals
from undiffuse.training.learners import AS_WHOLE, TOLD_WHOLE, DenoiserLearner
from undiffuse.training.objectives import Simple, snr_weight

NETWORKS = {
    "unet": TINY_SETTINGS,
    "transformer": {"network": {"kind": "transformer", "width": 16, "depth": 1, "heads": 2, "patch": 2}},
    "mlp": {"network": {"kind": "mlp", "width": 16, "depth": 1}},
}
OBJECTIVES = {
    "simple": {},
    "bound": {"training.objective": "bound", "schedule.name": "cosine", "variance_type": "fixed_small"},
    "hybrid": {"training.objective": "hybrid", "schedule.name": "cosine", "variance_type": "learned_range"},
}


def holed(hidden: float, n: int = 24, share: float = 0.4) -> Dataset:
    """Images with a share missing, where `hidden` stands instead."""
    values = images(n)[:, None].astype(np.float32)
    known = np.random.default_rng(1).random(values.shape) >= share
    return Dataset("holed", np.where(known, values, np.float32(hidden)), known=known)


def prepared(data: Dataset, folder, conditions=None, **settings):
    chosen = {"training.steps": 3, "training.budget": None, "training.batch_size": 8} | settings
    return prepare(
        DataConfig(source="python:holed"), folder, settings=chosen, conditions=conditions, watch=Intervals(1e9, 1e9), dataset=data
    ).run()  # fmt: skip


def weights(run) -> torch.Tensor:
    for _ in run.updates():
        pass
    return run.loop.flat.parameter.detach().clone()


# What is missing reaches nothing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("network", NETWORKS)
def test_what_stands_at_missing_places_changes_no_bit(tmp_path, network, objective):
    settings = NETWORKS[network] | OBJECTIVES[objective]
    runs = [prepared(holed(hidden), tmp_path / str(k), **settings) for k, hidden in enumerate((0.0, 1e6, np.nan))]
    first, *others = map(weights, runs)
    assert first.isfinite().all()
    for run, other in zip(runs[1:], others, strict=True):
        assert torch.equal(first, other)
        assert run.measurements.scores() == runs[0].measurements.scores()


def test_no_gradient_comes_from_what_is_missing(tmp_path):
    """The objective's gradient with respect to x̂ and to the variance is 0 there and nowhere else."""
    run = prepared(holed(0.0), tmp_path / "r", **TINY_SETTINGS, **OBJECTIVES["hybrid"])
    x, values = run.batch(0)
    seen: list[torch.Tensor] = []
    denoiser = run.model.denoiser
    original = denoiser.forward

    def watched(x_t, level, given=None):
        posterior = original(x_t, level, given)
        for each in (posterior.mean, posterior.variance.v):
            each.retain_grad()
            seen.append(each)
        return posterior

    denoiser.forward = watched
    run.loop._gradient(x, values)
    known = values[KNOWN]
    for each in seen:
        assert not each.grad[~known].any()
        assert each.grad[known].any()


@pytest.mark.parametrize("changes", [{"augment.rotate": 20}, {"augment.shift": 2}, {"augment.brightness": 0.3}])
def test_holes_move_along_and_nothing_of_them_gets_out(tmp_path, changes):
    batches = []
    for k, hidden in enumerate((0.0, 1e6)):
        settings = TINY_SETTINGS | {"augment.probability": 1.0, "augment.shift": 0} | changes
        run = prepared(holed(hidden), tmp_path / str(k), **settings)
        x, values = run.prepared.augmented(
            *run.loader(0), run.config.design.augment, run.codec, torch.Generator().manual_seed(0)
        )
        assert not x[~values[KNOWN]].any()
        assert x[values[KNOWN]].all()  # no hole has become a number
        assert 0.2 < values[KNOWN].float().mean() < 0.8
        batches.append((x, run.batch(0)[0]))
    plain = prepared(holed(0.0), tmp_path / "p", **TINY_SETTINGS).loader(0)[0]
    for before, after in zip(*batches, strict=True):
        assert torch.equal(before, after)
    if "augment.brightness" not in changes:
        assert not torch.equal(plain, batches[0][0])
        for before, after in zip(plain, batches[0][0], strict=True):  # every value is one that was there, or 0
            assert set(after.flatten().tolist()) <= {*before.flatten().tolist(), 0.0}


def test_a_run_on_complete_data_is_told_nothing(tmp_path):
    whole = Dataset("holed", images()[:, None].astype(np.float32))
    assert KNOWN not in prepared(whole, tmp_path / "r", **TINY_SETTINGS).prepared.conditions
    config = prepared(holed(0.0), tmp_path / "h", **TINY_SETTINGS).prepared.conditions[KNOWN]
    assert config == KnownConfig(shape=(1, 8, 8))


def test_errors_are_of_what_is_known(tmp_path):
    """An answer that is right there and nowhere else has no error, and that of the mean is the variance of the known numbers."""
    run = prepared(holed(1e6), tmp_path / "r", **TINY_SETTINGS)
    bank = run.measurements.validation
    found = bank.each(lambda x_t, level: Posterior(torch.where(bank.known, bank.x, 7.0)))
    assert not found.any()
    x, known = bank.x.double(), bank.known
    trivial = run.measurements.held_out.baseline.trivial(bank)[:, 0]
    training = run.prepared.training
    data = run.prepared.data
    mean = np.where(data.known, data.values, 0)[training].sum(0) / data.known[training].sum(0)
    mean = torch.from_numpy((mean - run.codec.config.offset[0]) / run.codec.config.scale[0])
    expected = [((row - mean)[k] ** 2).mean() for row, k in zip(x, known, strict=True)]
    assert torch.allclose(trivial, torch.stack(expected), rtol=1e-4)


def test_a_run_with_holes_goes_on_bit_for_bit(tmp_path):
    once = weights(prepared(holed(0.0), tmp_path / "once", **TINY_SETTINGS))
    stopped = prepared(holed(0.0), tmp_path / "twice", **TINY_SETTINGS)
    next(stopped.updates())
    stopped.save()
    run = prepared(holed(0.0), tmp_path / "twice", **TINY_SETTINGS)
    assert torch.equal(once, weights(run))


def test_samples_are_complete_and_the_file_is_enough(tmp_path):
    weights(prepared(holed(np.nan), tmp_path / "r", **TINY_SETTINGS))
    model = undiffuse.load(tmp_path / "r")
    assert model.sample(3, steps=2).isfinite().all()
    assert model.denoiser.conditions.null(2)[KNOWN].all()
    with pytest.raises(UsageError, match="no condition 'known'"):
        model.sample(1, {"known": np.ones((1, 8, 8))})


def test_a_model_of_complete_data_goes_on_with_holes_and_back(tmp_path):
    whole = Dataset("holed", images()[:, None].astype(np.float32))
    weights(prepared(whole, tmp_path / "whole", **TINY_SETTINGS))
    steps = {"training.steps": 2, "training.budget": None, "training.batch_size": 8}
    for before, name, data in (("whole", "holes", holed(0.0)), ("holes", "back", whole)):
        run = prepare(
            DataConfig(source="python:holed"), tmp_path / name, settings=steps, start=tmp_path / before, dataset=data,
            watch=Intervals(1e9, 1e9),
        ).run()  # fmt: skip
        weights(run)
        assert KNOWN in run.prepared.conditions
        assert run.batch(0)[1][KNOWN].all() == (name == "back")


def test_what_needs_whole_examples_is_refused(tmp_path):
    cases = [
        ({"conditions": {KNOWN: Condition(kind="number", column="c")}}, "makes a condition 'known' itself"),
        ({"degradations": {"a": {"kind": "denoise"}}}, "a `degradation` is made from whole ones"),
        ({"latent": {}}, "an autoencoder needs whole ones"),
    ]
    for k, (settings, words) in enumerate(cases):
        with pytest.raises(UsageError, match=words):
            prepared(holed(0.0), tmp_path / str(k), **settings)


# Known truth --------------------------------------------------------------------------------------------------------------

RHO, SHARE, N_GAUSSIAN, N_SAMPLES = 0.8, 0.4, 2000, 8000
MEAN, COVARIANCE = np.array([2.0, -1.0]), np.array([[1.0, RHO], [RHO, 1.0]])


def moments(values: np.ndarray, folder) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of samples of a model that is trained on rows of two numbers for a few seconds."""
    small = {"network.width": 64, "network.depth": 2, "training.ema_decay": 0.99}
    how = {"steps": 800, "batch_size": 256, "held_out": 0, "preview_every": 1e6, "checkpoint_every": 1e6}
    model = undiffuse.train(values, name=folder.name, runs=folder.parent, network="mlp", settings=small, **how)
    samples = model.sample(N_SAMPLES, clip="none").numpy().reshape(-1, 2).astype(np.float64)
    return samples.mean(0), np.cov(samples.T)


def test_samples_have_the_moments_of_complete_examples(tmp_path):
    """A Gaussian with 40 % of its numbers missing completely at random (Rubin 1976), and the same with zeros there.

    Of n rows (1 - s) n say a number and (1 - s)² n a pair of them; the error of a mean is sqrt(S/n), that of a covariance
    sqrt((S_ii S_jj + S_ij²)/n).  Four of both errors, the data's and the samples', are allowed.
    """
    draws = np.random.default_rng(0)
    values = draws.multivariate_normal(MEAN, COVARIANCE, N_GAUSSIAN).astype(np.float32)
    hole = draws.random(values.shape) < SHARE
    kept = (1 - SHARE) * N_GAUSSIAN
    pairs = kept * np.where(np.eye(2), 1, 1 - SHARE)
    of_mean = np.sqrt(1 / kept + 1 / N_SAMPLES)
    variance = np.outer(np.diag(COVARIANCE), np.diag(COVARIANCE)) + COVARIANCE**2
    of_covariance = np.sqrt(variance / pairs + variance / N_SAMPLES)
    mean, covariance = moments(np.where(hole, np.nan, values).astype(np.float32), tmp_path / "holes")
    assert (np.abs(mean - MEAN) < 4 * of_mean).all()
    assert (np.abs(covariance - COVARIANCE) < 4 * of_covariance).all()
    mean, covariance = moments(np.where(hole, 0, values).astype(np.float32), tmp_path / "zeros")
    assert (np.abs(mean - MEAN) > 8 * of_mean).all()
    assert (np.abs(covariance - COVARIANCE)[0, 1] > 8 * of_covariance[0, 1]).all()


# What is never known ------------------------------------------------------------------------------------------------------


def test_places_that_no_example_knows_are_marked_in_samples_and_stay_out_of_the_network(tmp_path):
    """Land on a map of the sea: x̂ is 0 there, in training as in sampling, and samples hold NaN."""
    land = np.zeros((1, 8, 8), bool)
    land[:, 2:5, 3:] = True
    data = holed(0.0)
    data = Dataset("holed", data.values, known=data.known & ~land)
    run = prepared(data, tmp_path / "r", **TINY_SETTINGS)
    assert not run.batch(0)[0][:, land].any()
    weights(run)
    model = undiffuse.load(tmp_path / "r")
    assert np.array_equal(model.config.conditions[KNOWN].ever().numpy(), ~land)
    samples = model.sample(3, steps=2)
    assert samples[:, land].isnan().all()
    assert samples[:, ~land].isfinite().all()
    assert not any(step.x0[:, land].any() for step in model.trajectory(2, steps=2))
    given = np.where(data.known[:2], data.values[:2], np.nan)
    answers = undiffuse.restore(model, given, steps=3).values
    assert answers[:, :, land].isnan().all()
    assert answers[:, :, ~land].isfinite().all()


def test_some_examples_are_told_as_samples_are_and_judged_by_what_is_known(tmp_path):
    """A share of them, which is drawn for each step; their missing numbers are out of the loss as ever. Ends of sequences are told as they are."""
    run = prepared(holed(0.0, 400), tmp_path / "r", **TINY_SETTINGS | {"training.batch_size": 400})
    learner, told = run.loop.learner, []
    original = learner.denoiser.conditions.forward
    learner.denoiser.conditions.forward = lambda given: told.append(given) or original(given)
    x, values = run.batch(0)
    given = learner.prepared(values, torch.Generator().manual_seed(0))
    level = run.model.schedule(torch.full((400,), 0.5, dtype=torch.float64))
    losses = learner.losses(x, torch.zeros_like(x), level, given, run.loop._computing)
    assert losses.isfinite().all()
    whole = told[0][KNOWN].flatten(1).all(1)
    assert set(told[0]) == set(values)
    assert abs(int(whole.sum()) - 400 * TOLD_WHOLE) < 5 * (400 * TOLD_WHOLE * (1 - TOLD_WHOLE)) ** 0.5
    assert torch.equal(told[0][KNOWN][~whole], values[KNOWN][~whole])
    again = learner.prepared(values, torch.Generator().manual_seed(1))
    assert not torch.equal(given[AS_WHOLE], again[AS_WHOLE])
    sequences = [np.random.default_rng(k).normal(size=(1, 8 + k % 5)).astype(np.float32) for k in range(30)]
    padded = undiffuse.train(sequences, runs=tmp_path, name="s", steps=1, batch_size=4, network="unet")
    values = {KNOWN: torch.ones(4, 1, 12, dtype=torch.bool), "length": torch.zeros(4, 2)}
    learner = DenoiserLearner(padded.denoiser, Simple(snr_weight()))
    assert AS_WHOLE not in learner.prepared(values, torch.Generator().manual_seed(0))
