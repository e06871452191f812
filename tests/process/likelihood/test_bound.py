"""The bound against closed forms, quadrature that is exact for its integrand, enumeration and the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from undiffuse.process import betas as B
from undiffuse.process.bridges import Bridge
from undiffuse.process.chains import Chain
from undiffuse.process.forward import add_noise
from undiffuse.process.likelihood.bound import (
    LOG_2,
    Bins,
    Density,
    chain_bound,
    normal_kl,
    prior_term,
    step_term,
    tanh_normal_cdf,
)
from undiffuse.process.oracles import FiniteSet, Mixture
from undiffuse.process.posteriors import FixedVariance, Posterior, Transition, transition

d = torch.float64


def hermite_pairs(nodes=4):
    """(x-like, eps-like) standard normal pairs and weights whose sums are exact for cubic times cubic integrands."""
    z, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    first, second = np.meshgrid(z, z, indexing="ij")
    return torch.tensor(first.ravel()), torch.tensor(second.ravel()), torch.tensor(np.outer(w, w).ravel())


@pytest.mark.parametrize("T", [2, 10, 100])
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.3, 0.5), (-1.0, 2.0)])
def test_the_bound_is_tight_on_gaussian_data_with_the_optimal_variance(T, name, mean, deviation):
    """-ELBO = entropy + KL(q(x_T) || N(0, 1)) for every T, schedule and Gaussian: all terms at once.

    Every term is quadratic in (x_0, eps), so four-point Gauss-Hermite integrates it exactly.
    """
    chain = Chain(B.BETAS[name](T) if name == "cosine" or T > 20 else torch.linspace(0.05, 0.6, T, dtype=d))
    exact = Mixture.gaussian(torch.tensor([mean], dtype=d), torch.tensor([[deviation**2]], dtype=d))
    z, eps, w = hermite_pairs()
    x = (mean + deviation * z)[:, None]
    bound = chain_bound(exact, x, chain.levels, [eps[:, None]] * T, Density())
    negative_elbo = (w * bound.total).sum()
    entropy = 0.5 * math.log(2 * math.pi * math.e * deviation**2)
    a, s = chain.levels.alpha[0], chain.levels.sigma[0]
    variance = a**2 * deviation**2 + s**2
    mismatch = 0.5 * (variance + (a * mean) ** 2 - 1 - variance.log())
    assert negative_elbo.item() == pytest.approx((entropy + mismatch).item(), abs=1e-9)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0.570), (1.0, 0.115)])
def test_the_gap_of_fixed_variances(fraction, expected):
    """T = 1000 linear, s = 0.5: the published gaps, 0.570 nats/dim for small and 0.115 for large.

    The gap over the optimal variance is sum_t [log(v/v*) - 1 + v*/v]/2, the decoder's term with the borrowed variance.
    """
    chain = Chain(B.linear_betas(1000))
    exact = Mixture.gaussian(torch.tensor([0.0], dtype=d), torch.tensor([[0.25]], dtype=d))
    z, eps, w = hermite_pairs()
    x = 0.5 * z[:, None]
    noises = [eps[:, None]] * 1000

    def mean_steps(denoise):
        return (w * chain_bound(denoise, x, chain.levels, noises, Density()).steps).sum()

    gap = mean_steps(lambda x_t, level: Posterior(exact(x_t, level).mean, FixedVariance(fraction))) - mean_steps(exact)
    a, s = chain.levels.alpha[:-1], chain.levels.sigma[:-1]
    alpha_bar = a**2
    before = chain.levels.alpha[1:] ** 2
    beta = 1 - alpha_bar / before
    tilde = beta * (1 - before) / (1 - alpha_bar)
    optimal = tilde + (before.sqrt() * beta / (1 - alpha_bar)) ** 2 * 0.25 * s**2 / (alpha_bar * 0.25 + s**2)
    v = beta.clone() if fraction else tilde.clone()
    v[-1] = tilde[-2]
    closed = 0.5 * ((v / optimal).log() - 1 + optimal / v).sum()
    assert gap.item() == pytest.approx(closed.item(), abs=1e-9)
    assert closed.item() == pytest.approx(expected, abs=5e-4)


def test_each_kl_equals_numerical_integration():
    q, p = (0.3, 0.2), (-0.1, 0.5)
    x = np.linspace(-8, 8, 200_001)
    density = stats.norm(q[0], q[1] ** 0.5).pdf(x)
    by_integral = np.trapezoid(
        density * (stats.norm(q[0], q[1] ** 0.5).logpdf(x) - stats.norm(p[0], p[1] ** 0.5).logpdf(x)), x
    )
    as_transition = [Transition(torch.tensor(m, dtype=d), torch.tensor(v, dtype=d).log()) for m, v in (q, p)]
    assert normal_kl(*as_transition).item() == pytest.approx(by_integral, abs=1e-9)


def test_the_decoder_of_bins_is_a_distribution_and_both_forms_are_what_they_say():
    values = torch.linspace(-1, 1, 17, dtype=d)
    p = Transition(torch.tensor(0.13, dtype=d), torch.tensor(-3.0, dtype=d))
    half, scale = 1 / 16, math.exp(-1.5)
    edges = np.linspace(-1 - half, 1 + half, 18)
    edges[0], edges[-1] = -np.inf, np.inf
    exact = np.diff(stats.norm(0.13, scale).cdf(edges))
    ours = Bins(17, form="exact")(values, p).exp().reciprocal()
    np.testing.assert_allclose(ours.numpy(), np.maximum(exact, 1e-12), rtol=1e-9)
    approximate = Bins(17, form="tanh")(values, p).exp().reciprocal()
    assert approximate.sum().item() == pytest.approx(1, abs=1e-9)
    assert 1e-6 < (approximate - ours).abs().max() < 1e-3  # visibly another number: that is why both are named
    z = torch.tensor(0.7, dtype=d)
    assert tanh_normal_cdf(z).item() == pytest.approx(
        0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (0.7 + 0.044715 * 0.343)))
    )


def test_bins_fit_any_number_of_values_not_only_256():
    """The last value of 17 and of 65,536 gets the whole tail."""
    for count in (2, 17, 256, 65_536):
        p = Transition(torch.tensor(1.0, dtype=d), torch.tensor(2 * math.log(10.0), dtype=d))
        width = 2 / (count - 1)
        expected = 1 - stats.norm(1, 10).cdf(1 - width / 2)
        assert Bins(count, form="exact")(torch.tensor(1.0, dtype=d), p).item() == pytest.approx(
            -math.log(expected), rel=1e-9
        )


def test_no_probability_is_below_the_published_floor():
    p = Transition(torch.tensor(-1.0, dtype=d), torch.tensor(-20.0, dtype=d))
    assert Bins(256)(torch.tensor(0.5, dtype=d), p).item() == pytest.approx(-math.log(1e-12))


def test_the_bound_of_quantised_data_is_above_its_entropy_and_falls_with_T():
    """One pixel with four grey levels: -E log p >= entropy for every T (Gibbs), and more steps are tighter."""
    values = torch.tensor([[-1.0], [-1 / 3], [1 / 3], [1.0]], dtype=d)
    probability = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=d)
    entropy = -(probability * probability.log()).sum() / LOG_2
    exact = Mixture(probability, values, torch.full((4, 1, 1), 1e-12, dtype=d))
    generator = torch.Generator().manual_seed(0)
    n = 4000
    x = values[torch.multinomial(probability, n, replacement=True, generator=generator)]
    bits = []
    for T in (10, 50, 200):
        chain = Chain(B.cosine_betas(T))
        noises = (torch.randn(n, 1, dtype=d, generator=generator) for _ in range(T))
        bits.append(
            chain_bound(
                lambda x_t, level: Posterior(exact(x_t, level).mean), x, chain.levels, noises, Bins(4, form="exact")
            ).bits.mean()
        )
    assert bits[0] > bits[1] > bits[2] > entropy


@pytest.mark.parametrize("spread", [None, 0.0, 1.0])
def test_for_each_value_the_bound_is_at_least_the_chains_own_probability(spread):
    """-log P(value) of the reverse chain itself, its Gaussians multiplied and integrated over a grid, transition by transition.

    The trapezium rule is exact to rounding here, as every Gaussian spans many points of the grid: P adds up to 1.
    """
    values = torch.linspace(-1, 1, 9, dtype=d)[:, None]
    data = Mixture(
        torch.tensor([0.4, 0.6], dtype=d),
        torch.tensor([[-0.6], [0.5]], dtype=d),
        torch.tensor([[[0.05]], [[0.1]]], dtype=d),
    )
    chain, decoder = Chain([0.1, 0.2, 0.3, 0.5, 0.9]), Bins(9, form="exact")

    def denoise(x_t, level):
        posterior = data(x_t, level)
        return posterior if spread is None else Posterior(posterior.mean, FixedVariance(spread))

    grid = torch.linspace(-7, 7, 1401, dtype=d)[:, None]
    density, bridges = torch.from_numpy(stats.norm.pdf(grid.numpy())), Bridge.table(chain.levels)
    for row in range(5):
        p = transition(denoise(grid, chain.levels[row]), grid, bridges[row])
        if row < 4:
            deviation = (p.log_variance / 2).exp().expand_as(grid)
            density = (
                torch.from_numpy(stats.norm.pdf(grid.T.numpy(), p.mean.numpy(), deviation.numpy())).T @ density * 0.01
            )
    P = torch.stack([(decoder(value, p).neg().exp() * density).sum() * 0.01 for value in values])
    assert P.sum().item() == pytest.approx(1, abs=1e-9)
    z, w = np.polynomial.hermite_e.hermegauss(40)
    eps, w = torch.from_numpy(z).repeat(9)[:, None], torch.from_numpy(w / w.sum())
    bound = (
        chain_bound(denoise, values.repeat_interleave(40, 0), chain.levels, [eps] * 5, decoder).total.reshape(9, 40) @ w
    )
    gap = bound + P.log()
    assert (gap > 0).all()
    assert gap.min() < 0.3  # a bound, not any large number


def test_terms_equal_the_published_codes_formulas_in_float64():
    """L_{t-1} and L_T for one network output, from the formulas of Ho et al. written out in NumPy."""
    betas = B.linear_betas(1000).numpy()
    ab = np.cumprod(1 - betas)
    chain = Chain(torch.tensor(betas))
    bridges = Bridge.table(chain.levels)
    rng = np.random.default_rng(0)
    x, eps, x_hat = rng.normal(size=(3, 1, 5))
    for t in (1, 17, 500, 999):
        x_t = np.sqrt(ab[t]) * x + np.sqrt(1 - ab[t]) * eps
        c1 = betas[t] * np.sqrt(ab[t - 1]) / (1 - ab[t])
        v = betas[t] * (1 - ab[t - 1]) / (1 - ab[t])
        kl = 0.5 * (-1 + np.log(betas[t] / v) + v / betas[t] + (c1 * (x - x_hat)) ** 2 / betas[t]).mean()
        row = 999 - t
        posterior = Posterior(torch.tensor(x_hat), FixedVariance(1.0))
        term = step_term(
            lambda *_, p=posterior: p, torch.tensor(x), torch.tensor(x_t), chain.levels[row], bridges[row], Bins(256)
        )
        assert term.item() == pytest.approx(kl, rel=1e-10)
        assert add_noise(torch.tensor(x), chain.levels[row], torch.tensor(eps)).numpy() == pytest.approx(x_t, rel=1e-12)
    prior = 0.5 * (-1 - np.log(1 - ab[-1]) + (1 - ab[-1]) + ab[-1] * x**2).mean()
    assert prior_term(torch.tensor(x), chain.levels[0]).item() == pytest.approx(prior, rel=1e-9)


def test_the_copier_of_the_training_set_has_a_finite_bound_on_it():
    points = torch.randn(5, 3, dtype=d, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    chain = Chain(B.cosine_betas(50))
    generator = torch.Generator().manual_seed(1)
    noises = (torch.randn(5, 3, dtype=d, generator=generator) for _ in range(50))
    copier = FiniteSet(points)
    bound = chain_bound(lambda x_t, level: Posterior(copier(x_t, level).mean), points, chain.levels, noises, Bins(256))
    assert torch.isfinite(bound.steps).all()
