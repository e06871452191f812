"""Held-out errors: how sure they are, how many examples that takes, and a choice that chance does not make."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm as normal
from scipy.stats import t as student

from tests.process.instances import SCHEDULES
from undiffuse.process.oracles import Mixture, fitted_gaussian
from undiffuse.process.posteriors import Posterior
from undiffuse.training.scores import CERTAIN, HeldOut, Scores, certain, log_ratio
from undiffuse.training.validation import Baseline, ValidationSet

LEVELS = 12


def drawn(n, spread, seed):
    """Errors of n examples whose true ratio to the baseline is 0.7 at every level: a common difficulty, a factor of their own."""
    generator = torch.Generator().manual_seed(seed)
    difficulty = torch.randn(n, 1, generator=generator).exp()
    scale = torch.linspace(0.01, 1, LEVELS, dtype=torch.float64)
    own = 0.7 * (1 + spread * (torch.rand(n, LEVELS, generator=generator) * 2 - 1))
    return (difficulty * own * scale).double(), (difficulty * scale).double()


def test_the_standard_error_is_that_of_many_repetitions():
    """Delta method against brute force: the scatter of log R over 400 data sets is its mean standard error, to 3 of its own errors."""
    found = [log_ratio(*drawn(60, 0.8, seed)) for seed in range(400)]
    values, errors = (torch.tensor([getattr(each, name) for each in found]) for name in ("value", "error"))
    scatter = values.std().item()
    assert (
        abs(errors.mean().item() - scatter) < 3 * scatter / math.sqrt(2 * 400) + 0.05 * scatter
    )  # of the first order in 1/sqrt(60)
    assert abs(values.mean().item() - math.log(0.7)) < 4 * scatter / math.sqrt(400) + 1 / 60 * 0.1
    # what makes an example hard for both cancels: unpaired, the error would be that of the difficulty, some ten times as large
    errors_, baseline = drawn(60, 0.1, 0)
    assert log_ratio(errors_, baseline).error < 0.1 * (errors_ / errors_.mean(0)).mean(1).std() / math.sqrt(60)


def test_raw_weights_are_chosen_where_they_are_better_and_not_by_chance():
    errors, baseline = drawn(60, 0.5, 0)
    assert Scores({"online": 0.8 * errors, "ema": errors}, baseline).best() == "online"
    assert Scores({"online": 1.2 * errors, "ema": errors}, baseline).best() == "ema"
    assert (
        Scores({"online": errors[:1] * 0.5, "ema": errors[:1]}, baseline[:1]).best() == "ema"
    )  # one example says nothing
    chosen = [
        Scores({"online": drawn(16, 0.8, s)[0], "ema": drawn(16, 0.8, s + 1000)[0]}, drawn(16, 0.8, s)[1]).best()
        for s in range(300)
    ]
    # equally good weights: chance chooses raw ones in one of some 40 cases (CERTAIN = 2), where the smaller number did in every second
    assert CERTAIN == 2.0
    assert (
        chosen.count("online") < 0.023 * 300 + 4 * math.sqrt(0.023 * 300) + 0.03 * 300
    )  # Student's tails of 16 examples are heavier


def held_out(n, size=16):
    """Held-out examples of a Gaussian in 4 numbers."""
    x = torch.randn(n, 1, 4, generator=torch.Generator().manual_seed(0))
    training = torch.randn(500, 1, 4, generator=torch.Generator().manual_seed(1))
    found = HeldOut(n, lambda first, last: (x[first:last], {}), (1, 4), SCHEDULES["vp"], Baseline.of(training))
    found.size = size
    return found, x


def worse(bank):
    return bank.each(lambda x_t, level: Posterior(0.3 * x_t))


def test_as_many_examples_as_the_precision_takes():
    found, _ = held_out(2000)
    counts = []
    for precision in (0.2, 0.05, 0.02):
        scores = found.measured({"online": worse, "ema": worse}, precision=precision)
        relative = scores.relative("online")
        assert relative.error / relative.value <= precision
        assert len(scores) % 16 == 0
        counts.append(len(scores))
    assert counts == sorted(set(counts))
    assert (
        2.5 < counts[2] / counts[1] < 16
    )  # four times as many halve it: (5/2)² = 6.25, and the first estimate of few is uncertain
    few, _ = held_out(40)
    assert len(few.measured({"online": worse}, precision=1e-9)) == 40  # all there are
    assert len(found.measured({"online": worse}, seconds=-1.0, precision=1e-9)) == 16  # a part at least


def test_parts_are_the_whole():
    """Measured part by part, every example has the same noise as it has among all, so parts bound memory and change nothing."""
    found, x = held_out(70)
    scores = found.measured({"online": worse}, precision=0.0)
    whole = ValidationSet.of(x, {}, SCHEDULES["vp"])
    torch.testing.assert_close(scores.errors["online"], worse(whole), rtol=0, atol=0)
    torch.testing.assert_close(scores.baseline, found.baseline.each(whole), rtol=1e-12, atol=0)
    again = found.measured({"online": worse}, precision=0.0)
    assert torch.equal(again.errors["online"], scores.errors["online"])
    assert torch.equal(again.baseline, scores.baseline)


def test_the_baseline_itself_reads_one_without_error():
    found, _ = held_out(64)
    linear = found.baseline.linear

    def same(bank):
        return ValidationSet(bank.x.flatten(1).double(), {}, bank.eps.flatten(1).double(), bank.levels).each(linear)

    relative = found.measured({"online": same}).relative("online")
    assert relative.value == pytest.approx(1.0, abs=1e-12)
    assert relative.error == pytest.approx(0.0, abs=1e-12)


def test_a_covariance_is_factored_once_for_all_levels(monkeypatch):
    calls, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: calls.append(1) or eigh(matrix))
    x = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gaussian = fitted_gaussian(x)
    bank = ValidationSet.of(x[:10], {}, SCHEDULES["vp"])
    errors = bank.each(gaussian)
    assert len(calls) == 1
    # conditioning a Gaussian, written out: m + alpha S (alpha² S + sigma² I)^-1 (x_t - alpha m)
    m, S = x.mean(0), torch.cov(x.T)
    for row, (a, s) in enumerate(zip(bank.levels.alpha, bank.levels.sigma, strict=True)):
        x_t = a * bank.x + s * bank.eps
        mean = m + (x_t - a * m) @ torch.linalg.solve(a**2 * S + s**2 * torch.eye(6, dtype=torch.float64), a * S)
        torch.testing.assert_close(errors[:, row], ((mean - bank.x) ** 2).mean(1), rtol=1e-8, atol=1e-12)
    assert isinstance(gaussian, Mixture)


@pytest.mark.parametrize("n", [10, 11, 16, 50, 4096])
def test_certainty_of_few_examples_is_students(n):
    wanted = student.ppf(normal.cdf(CERTAIN), n - 1)
    assert certain(n) == pytest.approx(wanted, rel=3e-3)


def test_of_a_handful_of_examples_nothing_is_chosen():
    """Two equal sets of weights: with few examples the scatter is underrated, and chance would choose."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(4000, 2, 4, 3, generator=generator, dtype=torch.float64) + 0.5
    assert all(Scores({"online": raw, "ema": averaged}, averaged).best() == "ema" for raw, averaged in draws)
    # of 10 examples chance chooses raw weights as often as of very many: P(t < -t*) = P(z < -2) = 2.28 %, and 4 sd of 4000 trials are 0.95 %
    draws = 1 + 0.05 * torch.randn(4000, 2, 10, 3, generator=generator, dtype=torch.float64)
    chosen = sum(Scores({"online": raw, "ema": averaged}, averaged).best() == "online" for raw, averaged in draws)
    assert abs(chosen / 4000 - normal.cdf(-CERTAIN)) < 4 * (0.0228 * 0.9772 / 4000) ** 0.5
