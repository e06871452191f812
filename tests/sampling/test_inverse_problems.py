"""Inverse problems on Gaussian data, where p(x | y) is a Gaussian that linear algebra writes down."""

from __future__ import annotations

import math

import pytest
import torch

from tests.process.test_operators import matrix
from undiffuse.process.betas import BETAS
from undiffuse.process.chains import Chain
from undiffuse.process.levels import Level
from undiffuse.process.operators import Blur, Downsample, Grey, Mask
from undiffuse.process.oracles import Mixture
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import Posterior
from undiffuse.process.schedules import CONTINUOUS
from undiffuse.sampling.grids import make_grid, resampled
from undiffuse.sampling.guidance import cfg_plus_plus
from undiffuse.sampling.inverse_problems import DAMPING, DPS, Measurement, RePaint, moment_matching, replacement
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.solvers.ancestral import DDIM, Ancestral
from undiffuse.sampling.solvers.exponential import Heun

d = torch.float64
SCHEDULE = CONTINUOUS["vp"]()
SHAPE = (2, 4)  # channels, length
N = 8
MASK = Mask(torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1]], dtype=torch.bool))
OPERATORS = {"mask": MASK, "downsample": Downsample(2), "grey": Grey((0.7, 0.3)), "blur": Blur(0.4)}
each = pytest.mark.parametrize("A", OPERATORS.values(), ids=OPERATORS.keys())


def covariance(seed=0):
    """Eigenvalues from 0.1 to 0.9, in random directions."""
    Q, _ = torch.linalg.qr(torch.randn(N, N, dtype=d, generator=torch.Generator().manual_seed(seed)))
    return Q @ torch.diag(torch.linspace(0.1, 0.9, N, dtype=d)) @ Q.T


MEAN, S = torch.linspace(-0.5, 0.7, N, dtype=d), covariance()
PRIOR = Mixture.gaussian(MEAN, S)


def shaped(mixture, shape=SHAPE):
    """An exact denoiser of vectors, for examples of a shape."""

    def denoise(x_t, level):
        return Posterior(mixture(x_t.flatten(1), level).mean.reshape(-1, *shape))

    return denoise


def given_y(A, y, noise, mean=MEAN, covariance=S):
    """The mean (B, N) and covariance of p(x | y), y flat (B, M) in the range of A."""
    rows = matrix(A, SHAPE)
    gain = (
        covariance
        @ rows.T
        @ torch.linalg.pinv(rows @ covariance @ rows.T + noise**2 * torch.eye(len(rows), dtype=d), rtol=1e-9)
    )
    return mean + (y - rows @ mean) @ gain.T, covariance - gain @ rows @ covariance


def seen_of(A, n, noise=0.0, seed=5):
    """What is seen of n draws, or of one example n times."""
    x = PRIOR.sample(1, torch.Generator().manual_seed(seed)).reshape(1, *SHAPE)
    return Measurement(A, A(x + noise).expand(n, *A.shape_of(SHAPE)), noise)


def points(n=6, seed=1):
    return torch.randn(n, *SHAPE, dtype=d, generator=torch.Generator().manual_seed(seed))


@each
@pytest.mark.parametrize("noise", [0.05, 0.5])
@pytest.mark.parametrize("t", [0.02, 0.3, 0.9])
def test_the_exact_method_answers_the_exact_conditional_mean(A, noise, t):
    """E[x | x_t, y]: x_t is one more thing seen of x, through alpha I with the noise sigma."""
    level, x_t, seen = SCHEDULE(t), points(), seen_of(A, 6, noise)
    found = moment_matching(shaped(PRIOR), seen, N, damping=0)(x_t, level).mean
    precision = torch.linalg.inv(S) + level.alpha**2 / level.sigma**2 * torch.eye(N, dtype=d)
    belief = torch.linalg.inv(precision)
    mean = PRIOR(x_t.flatten(1), level).mean
    rows = matrix(A, SHAPE)
    gain = belief @ rows.T @ torch.linalg.inv(rows @ belief @ rows.T + noise**2 * torch.eye(len(rows), dtype=d))
    expected = mean + (seen.y.flatten(1) - mean @ rows.T) @ gain.T
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-6, atol=1e-6)


@each
@pytest.mark.parametrize("method", ["replace", "pigdm"])
def test_the_cheap_methods_are_exact_for_white_data(A, method):
    """With S = prior · I, V is r² I, as they say it is."""
    prior, level, x_t, seen = 0.7, SCHEDULE(0.4), points(), seen_of(A, 6, 0.3)
    white = shaped(Mixture.gaussian(MEAN, prior * torch.eye(N, dtype=d)))
    found = replacement(white, seen, prior) if method == "replace" else moment_matching(white, seen, 0, prior, 0)
    exact = moment_matching(white, seen, N, prior, 0)
    torch.testing.assert_close(found(x_t, level).mean, exact(x_t, level).mean, rtol=1e-9, atol=1e-9)


@each
def test_without_noise_what_is_seen_is_obeyed(A):
    """By replace to rounding; by exact to its doubt, relative to the smallest eigenvalue of A V Aᵀ in its range."""
    level, x_t, seen = SCHEDULE(0.4), points(), seen_of(A, 6)
    torch.testing.assert_close(A(replacement(shaped(PRIOR), seen)(x_t, level).mean), seen.y, rtol=1e-9, atol=1e-9)
    before, after = (
        seen.residual(f(x_t, level).mean).norm() for f in (shaped(PRIOR), moment_matching(shaped(PRIOR), seen, N))
    )
    rows = matrix(A, SHAPE)
    V = torch.linalg.inv(torch.linalg.inv(S) + level.snr * torch.eye(N, dtype=d))
    smallest = min(e for e in torch.linalg.eigvalsh(rows @ V @ rows.T).tolist() if e > 1e-9)
    assert after < DAMPING * level.sigma**2 / (level.alpha**2 + level.sigma**2) / smallest * before


@each
@pytest.mark.parametrize("solver", [Heun(), Ancestral()], ids=["heun", "ancestral"])
def test_samples_of_the_exact_method_have_the_posteriors_mean_and_covariance(A, solver):
    """Within 4 standard errors of n draws, and what 60 or 150 steps leave: 0.01."""
    n, noise = 4000, 0.2
    seen, index = seen_of(A, n, noise), torch.arange(n)
    levels = make_grid(SCHEDULE, "logsnr", 60 if isinstance(solver, Heun) else 150)
    x = standard_normal(SHAPE, 0, index).double() * levels.sigma[0]
    end = final(
        trajectory(x, moment_matching(shaped(PRIOR), seen, N, damping=0), levels, solver, seed=0, index=index)
    ).flatten(1)
    mean, covariance = given_y(A, seen.y[:1].flatten(1), noise)
    assert ((end.mean(0) - mean[0]).abs() < 4 * (covariance.diagonal() / n).sqrt() + 0.01).all()
    variances = covariance.diagonal()
    error = ((covariance**2 + variances[:, None] * variances) / n).sqrt()  # of a sample covariance
    assert ((torch.cov(end.T) - covariance).abs() < 4 * error + 0.01).all()


def test_examples_do_not_see_each_other():
    """Conjugate gradients take a step size for each."""
    level, x_t = SCHEDULE(0.3), points(3)
    y = torch.cat([MASK(points(2, 3)), MASK(x_t[:1]) * 50])
    known = torch.stack([MASK.known, ~MASK.known, MASK.known])
    seen = Measurement(Mask(known), torch.where(known, y, 0), 0.1)
    together = moment_matching(shaped(PRIOR), seen, 2)(x_t, level).mean
    for k in range(3):
        alone = moment_matching(shaped(PRIOR), seen.rows(slice(k, k + 1)), 2)(x_t[k : k + 1], level).mean
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-9, atol=1e-9)


def test_a_network_without_curvature_is_left_alone():
    """dx̂/dx_t = -I is the covariance of nothing."""
    level, x_t, seen = SCHEDULE(0.3), points(), seen_of(MASK, 6, 0.01)
    torch.testing.assert_close(
        moment_matching(lambda x, level: Posterior(-x), seen)(x_t, level).mean, -x_t, rtol=0, atol=0
    )


@pytest.mark.parametrize(
    "make",
    [moment_matching, lambda denoise, seen: moment_matching(denoise, seen, 0), replacement],
    ids=["exact", "pigdm", "replace"],
)
def test_pure_noise_and_points_are_finite(make):
    """Where nothing is known of x, and where everything is (V = 0)."""
    x_t, seen = points(), seen_of(MASK, 6)
    noise = Level(*(torch.tensor(v, dtype=d) for v in (0.0, 1.0, 999.0)))
    assert make(shaped(PRIOR), seen)(x_t, noise).mean.isfinite().all()
    sure = shaped(Mixture.gaussian(MEAN, 0 * S))
    assert make(sure, seen)(x_t, SCHEDULE(0.3)).mean.isfinite().all()


def test_kept_noise_moves_along():
    """(x̂, eps) reproduce x_t as far off as they did before."""
    level, x_t, seen = SCHEDULE(0.4), points(), seen_of(MASK, 6)
    pair = cfg_plus_plus(lambda x, level: (shaped(PRIOR)(x, level), Posterior(0 * x)), 0.5)

    def rebuilt(posterior):
        return level.alpha * posterior.mean + level.sigma * posterior.eps(x_t, level)

    torch.testing.assert_close(
        rebuilt(moment_matching(pair, seen)(x_t, level)), rebuilt(pair(x_t, level)), rtol=1e-9, atol=1e-9
    )


@each
def test_dps_goes_down_the_gradient_of_the_distance(A):
    """Chung et al. 2023, Algorithm 1: x_s' - zeta/|r| grad |r|², with the matrix of a Gaussian's x̂ written out."""
    levels = make_grid(SCHEDULE, "logsnr", 6)
    x_t, seen = points(), seen_of(A, 6, 0.1)
    plain, rows = DDIM(0.0), matrix(A, SHAPE)
    pulled = DPS(plain, seen, 0.3)
    for here, before, after in zip(levels.rows(), plain.plan(levels), pulled.plan(levels), strict=False):
        jacobian = here.alpha * S @ torch.linalg.inv(here.alpha**2 * S + here.sigma**2 * torch.eye(N, dtype=d))
        r = seen.y.flatten(1) - PRIOR(x_t.flatten(1), here).mean @ rows.T
        gradient = -2 * r @ rows @ jacobian
        expected = (
            plain.step(x_t, shaped(PRIOR), before, None, None).x.flatten(1)
            - 0.3 / r.norm(dim=1, keepdim=True) * gradient
        )
        found = pulled.step(x_t, shaped(PRIOR), after, None, None).x
        torch.testing.assert_close(found.flatten(1), expected, rtol=1e-9, atol=1e-9)


# RePaint --------------------------------------------------------------------------------------------------------------


def test_known_numbers_are_those_of_the_level_just_reached():
    """Not of the level that was left (an off-by-one of several codes): mean alpha_s y and deviation sigma_s."""
    n = 4000
    levels, index, seen = Chain(BETAS["cosine"](10)).levels, torch.arange(n), seen_of(MASK, n)
    x = standard_normal(SHAPE, 0, index).double()
    there = levels.rows()[1:]
    for moment in trajectory(x, shaped(PRIOR), levels, RePaint(Ancestral(), seen), seed=0, index=index):
        known, level = moment.x[:, MASK.known], there[moment.row]
        assert (
            (known.mean(0) - level.alpha * seen.y[0, MASK.known]).abs() <= 4 * level.sigma / math.sqrt(n) + 1e-12
        ).all()
        assert ((known.std(0) - level.sigma).abs() <= 4 * level.sigma / math.sqrt(2 * n) + 1e-12).all()
    assert torch.equal(moment.x[:, MASK.known], seen.y[:, MASK.known])


def test_resampling_brings_the_hidden_numbers_nearer_to_their_posterior():
    n = 4000
    index, seen = torch.arange(n), seen_of(MASK, n)
    mean, _ = given_y(MASK, seen.y[:1].flatten(1), 0.0)
    hidden, distance = ~MASK.known.flatten(), []
    for times in (1, 10):
        levels = resampled(Chain(BETAS["cosine"](40)).levels, 1, times)
        x = standard_normal(SHAPE, 0, index).double()
        end = final(trajectory(x, shaped(PRIOR), levels, RePaint(Ancestral(), seen), seed=0, index=index)).flatten(1)
        distance.append((end.mean(0) - mean[0])[hidden].norm().item())
    assert distance[1] < distance[0] / 2


@pytest.mark.parametrize(
    ("T", "length", "times"), [(10, 2, 3), (25, 10, 10), (7, 3, 2), (5, 1, 4), (6, 10, 5), (12, 4, 1)]
)
def test_the_jumps_are_those_of_the_released_code(T, length, times):
    """RePaint's get_schedule_jump: a counter of jumps left at each time, walked down and up one by one, ends at -1."""
    left = dict.fromkeys(range(0, T - length, length), times - 1)
    t, walked = T, []
    while t >= 1:
        t -= 1
        walked.append(t)
        if left.get(t, 0) > 0:
            left[t] -= 1
            t += length
            walked.append(t)  # the released code lists the steps in between, which make one jump
    levels = Chain(BETAS["cosine"](T)).levels
    assert resampled(levels, length, times).timestep.tolist() == [*walked, -1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RePaint(Ancestral(), seen_of(Downsample(2), 1)), "mask"),
        (lambda: RePaint(Ancestral(), seen_of(MASK, 1, 0.1)), "exactly"),
        (lambda: resampled(Chain(BETAS["cosine"](10)).levels, 0, 2), "1 or more"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
