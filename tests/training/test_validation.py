"""The fixed bank and its reference curves."""

from __future__ import annotations

import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.oracles import FiniteSet, fitted_gaussian
from undiffuse.process.posteriors import Posterior
from undiffuse.training.validation import ValidationSet, baseline_errors, relative


def gaussian_data(n, generator):
    root = torch.randn(6, 6, generator=generator) / 3
    return (torch.randn(n, 6, generator=generator) @ root.T)[:, None]


GENERATOR = torch.Generator().manual_seed(0)
ALL = gaussian_data(1200, GENERATOR)
TRAINING, HELD_OUT = ALL[:1000], ALL[1000:]


def test_two_evaluations_are_identical_to_the_bit():
    bank = ValidationSet.of(HELD_OUT, {}, CHAINS["cosine-1000"])

    def denoise(x_t, level):
        return Posterior(x_t.sin())

    assert torch.equal(bank.errors(denoise), bank.errors(denoise))


def test_levels_span_noise_to_clean():
    for name in ("cosine-1000", "edm", "flow", "linear-1000"):
        levels = ValidationSet.of(HELD_OUT, {}, SCHEDULES[name]).levels
        assert len(levels) == 12
        assert (levels.logsnr.diff() > 0).all()
        assert levels.logsnr[0] < -7
        assert levels.logsnr[-1] > 7


def test_references_are_ordered_on_gaussian_data():
    bank = ValidationSet.of(HELD_OUT, {}, SCHEDULES["vp"])
    r = baseline_errors(bank, TRAINING)
    assert (r.linear <= r.trivial * 1.001).all()
    assert r.copying[-1] > 3 * r.linear[-1]  # at low noise the copier knows only its own points
    # the linear curve is the closed form: the mean over eigenvalues s of s sigma²/(alpha² s + sigma²)
    s = torch.linalg.eigvalsh(torch.cov(TRAINING[:, 0].double().T))
    a, n = bank.levels.alpha[:, None], bank.levels.sigma[:, None]
    closed = (s * n**2 / (a**2 * s + n**2)).mean(1)
    torch.testing.assert_close(r.linear, closed, rtol=0.25, atol=0)  # 200 held-out examples of 6 numbers


def test_relative_error_reads_one_for_the_linear_denoiser_and_nothing_learned_is_worse():
    bank = ValidationSet.of(HELD_OUT, {}, SCHEDULES["vp"])
    r = baseline_errors(bank, TRAINING)
    flat = ValidationSet(bank.x[:, 0].double(), {}, bank.eps[:, 0].double(), bank.levels)
    assert abs(relative(flat.errors(fitted_gaussian(TRAINING[:, 0])), r) - 1) < 1e-9
    assert relative(flat.errors(lambda x_t, level: Posterior(0 * x_t)), r) > 2
    assert relative(flat.errors(FiniteSet(TRAINING[:, 0])), r) > 1.2
