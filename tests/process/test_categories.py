"""Categories with Gaussian noise: the answer of a network that says nothing is Bayes' rule, and cross-entropy asks for the posterior."""

from __future__ import annotations

import pytest
import torch

from undiffuse.process.categories import Categories, CategoryBlock
from undiffuse.process.levels import Level

SHARES = ((0.5, 0.3, 0.2), (0.9, 0.1), tuple([0.001] * 1000))
STARTS = (1, 4, 7)
CHANNELS = 1 + 3 + 2 + 1 + 1000  # numbers at places 0 and 6
BLOCKS = Categories([CategoryBlock(start, shares) for start, shares in zip(STARTS, SHARES, strict=True)], CHANNELS)
DRAWS = torch.Generator().manual_seed(0)


def level(sigma: float) -> Level:
    """Variance-preserving, at a noise of sigma."""
    alpha = torch.tensor((1 - sigma**2) ** 0.5, dtype=torch.float64)
    return Level(alpha, torch.tensor(sigma, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))


def clean(places: torch.Tensor) -> torch.Tensor:
    """x_0 of rows of categories (n, 3): e_k - f in every block, 0 for numbers."""
    x = torch.zeros(len(places), CHANNELS, 1)
    for start, shares, k in zip(STARTS, SHARES, places.unbind(1), strict=True):
        x[:, start : start + len(shares), 0] = -torch.tensor(shares)
        x[torch.arange(len(k)), start + k, 0] += 1
    return x


def drawn(n: int) -> torch.Tensor:
    return torch.stack([torch.multinomial(torch.tensor(f), n, True, generator=DRAWS) for f in SHARES], 1)


@pytest.mark.parametrize("sigma", [0.02, 0.3, 0.8, 0.999])
def test_a_silent_network_answers_by_bayes_rule(sigma):
    """Against the densities of every category, one by one, in float64."""
    at, x_0 = level(sigma), clean(drawn(20))
    x_t = at.alpha * x_0.double() + at.sigma * torch.randn(x_0.shape, generator=DRAWS, dtype=torch.float64)
    log_p = BLOCKS.log_probabilities(torch.zeros(20, CHANNELS, 1), x_t.float(), at)
    x_hat = BLOCKS.means(log_p, torch.zeros(20, CHANNELS, 1))
    for start, shares in zip(STARTS, SHARES, strict=True):
        f, block = torch.tensor(shares, dtype=torch.float64), slice(start, start + len(shares))
        centres = torch.eye(len(f), dtype=torch.float64) - f
        distances = ((x_t[:, block, 0][:, None] - at.alpha * centres) ** 2).sum(2)
        exact = (f.log() - distances / (2 * sigma**2)).softmax(1)
        # logits of float32 are right to 2^-23 of their size, alpha/sigma² (|x_t| + 1)
        tolerance = 1e-5 + 2**-22 * float(at.alpha) / sigma**2 * 8
        assert torch.allclose(x_hat[:, block, 0].double(), exact - f, atol=tolerance)
    assert torch.equal(x_hat[:, [0, 6]], torch.zeros(20, 2, 1))


def test_probabilities_are_of_one_column_each_and_finite_at_every_level():
    x_t = 30 * torch.randn(5, CHANNELS, 1, generator=DRAWS)
    for sigma in (1e-4, 0.5, 0.9999999):
        log_p = BLOCKS.log_probabilities(torch.randn(5, CHANNELS, 1, generator=DRAWS), x_t, level(sigma))
        assert log_p.isfinite().all()
        assert torch.allclose(BLOCKS._sums(log_p.exp()), torch.ones(5, 3, 1), atol=1e-4)


def test_levels_may_be_one_for_each_example():
    x_t, F = (torch.randn(2, CHANNELS, 1, generator=DRAWS) for _ in range(2))
    each = Level.of_rows([level(0.3), level(0.9)])
    both = BLOCKS.log_probabilities(F, x_t, each)
    alone = [BLOCKS.log_probabilities(F[k : k + 1], x_t[k : k + 1], level(s)) for k, s in enumerate((0.3, 0.9))]
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)


def test_cross_entropy_asks_for_the_conditional_distribution():
    """Of F alone, free, at pure noise: its minimiser is the share of each category among the examples, whatever f says."""
    few = Categories([CategoryBlock(0, (0.5, 0.3, 0.2))], 3)
    x = (
        torch.eye(3)[torch.tensor([0] * 1 + [1] * 2 + [2] * 5)][:, :, None]
        - torch.tensor([0.5, 0.3, 0.2])[None, :, None]
    )
    F = torch.zeros(1, 3, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([F], max_iter=100, line_search_fn="strong_wolfe")
    nothing = torch.zeros(8, 3, 1)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        log_p = few.log_probabilities(F.expand(8, 3, 1), nothing, level(1 - 1e-12))
        value = few.error(log_p, nothing, x, torch.ones(8)).mean()
        value.backward()
        return value

    optimizer.step(loss)
    p = few.log_probabilities(F.detach(), nothing[:1], level(1 - 1e-12)).exp()[0, :, 0]
    assert torch.allclose(p, torch.tensor([1, 2, 5]) / 8, atol=1e-3)


def test_every_column_counts_alike_and_starts_at_one():
    """At pure noise the silent network's cross-entropy is the entropy of f, so each block's loss is 1; a number's is its weighted square."""
    n = 40_000
    x = clean(drawn(n))
    x[:, [0, 6]] = torch.randn(n, 2, 1, generator=DRAWS)
    nothing = torch.zeros(n, CHANNELS, 1)
    log_p = BLOCKS.log_probabilities(nothing, nothing, level(1 - 1e-12))
    loss = BLOCKS.error(log_p, x**2, x, torch.full((n,), 2.0))
    assert BLOCKS.columns == 5
    expected = (3 * 1 + 2 * 2 * 1) / 5
    assert loss.mean() == pytest.approx(expected, abs=5 * float(loss.std()) / n**0.5)
