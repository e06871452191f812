"""Inversion against the Gaussian's closed flow, recorded noise, the sphere, and noise levels that are known."""

from __future__ import annotations

import math

import pytest
import torch

from tests.process.instances import CHAINS
from undiffuse.process.levels import broadcast_to
from undiffuse.process.oracles import Mixture
from undiffuse.process.philox import standard_normal
from undiffuse.process.schedules import CONTINUOUS
from undiffuse.sampling.ddpm_inversion import ddpm_inversion
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.inversion import at_lowest_noise, invert, slerp
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.noise_estimates import by_likelihood, by_wavelet
from undiffuse.sampling.solvers.ancestral import Ancestral
from undiffuse.sampling.solvers.registry import SOLVERS as REGISTRY
from undiffuse.sampling.solvers.registry import Settings, make_solver

COSINE = CONTINUOUS["cosine_continuous"]()
SOLVERS = {"ddim": "euler", "heun": "heun"}


# 35 dB of a range of 2 are an error of 0.036: a chain whose cleanest level has more noise than this cannot come nearer.
FINE = [
    *(name for name, chain in CHAINS.items() if len(chain) >= 100 and chain.levels.sigma_edm[-2] < 0.036),
    *CONTINUOUS,
]


def solver(name):
    return make_solver(SOLVERS[name], Settings(), COSINE)


def gaussian(mean, deviation, d=1):
    return Mixture.gaussian(
        torch.full((d,), mean, dtype=torch.float64), deviation**2 * torch.eye(d, dtype=torch.float64)
    )


def drawn(n, d, seed=0):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def top_of(x, denoise, levels, solver):
    moments = list(invert(x, denoise, levels, solver))
    assert len(moments) == len(levels) - 2
    return moments[-1].x


# Inversion ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("heun", 2)])
def test_inversion_converges_to_the_flow_of_a_gaussian(name, order):
    """The flow of N(m, s²) keeps (x_t - alpha m)/sqrt(alpha² s² + sigma²). Twice the steps, 2^order less error."""
    m, s = 0.7, 0.3
    x = torch.linspace(-1.5, 2.5, 9, dtype=torch.float64)[:, None]

    def error(steps):
        levels = make_grid(COSINE, "uniform", steps)
        low, high = levels[-2], levels[0]
        spread = [torch.sqrt(level.alpha**2 * s**2 + level.sigma**2) for level in (low, high)]
        truth = high.alpha * m + spread[1] / spread[0] * (low.alpha * x - low.alpha * m)
        return (top_of(x, gaussian(m, s), levels, solver(name)) - truth).abs().max()

    coarse, fine = error(100), error(200)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", ["ddim", "heun"])
@pytest.mark.parametrize("which", FINE)
def test_round_trip_of_at_least_35_dB_at_100_steps(name, which):
    """On the grids that editing.py takes: a chain's own levels, and Karras's for other schedules."""
    schedule = CHAINS[which] if which in CHAINS else CONTINUOUS[which]()
    means = torch.tensor([[-0.7, 0.2, 0.5], [0.6, -0.4, 0.1]], dtype=torch.float64)
    mixture = Mixture(
        torch.tensor([0.4, 0.6], dtype=torch.float64), means, 0.04 * torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    )
    x = mixture.sample(64, torch.Generator().manual_seed(0))
    levels = make_grid(schedule, "uniform" if which in CHAINS else "karras", 100)
    walk = make_solver(SOLVERS[name], Settings(), schedule)
    back = final(trajectory(top_of(x, mixture, levels, walk), mixture, levels, walk, seed=0, index=torch.arange(64)))
    psnr = -10 * ((back - x).square().mean() / 2**2).log10()  # of data on [-1, 1]
    assert psnr >= 35


def test_inversion_of_a_stochastic_solver_is_refused():
    with pytest.raises(ValueError, match="deterministic"):
        next(invert(drawn(1, 1), gaussian(0.0, 1.0), make_grid(COSINE, "uniform", 4), Ancestral()))


def test_moments_go_up_from_the_lifted_example():
    levels, x = make_grid(COSINE, "uniform", 6), drawn(2, 3)
    moments = list(invert(x, gaussian(0.0, 0.5, 3), levels, solver("heun")))
    assert torch.equal(moments[0].x_t, at_lowest_noise(x, levels))
    assert [m.level.timestep.item() for m in moments] == levels.timestep[1:-1].flip(0).tolist()
    for before, after in zip(moments, moments[1:], strict=False):
        assert torch.equal(before.x, after.x_t)


# Recording ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["independent", "trajectory"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_recording_replays_the_example(path, dtype):
    """Recording and replay do the same arithmetic, so what is left is the rounding of x - y + y."""
    mixture = Mixture(
        torch.ones(2, dtype=torch.float64),
        torch.tensor([[-0.6, 0.3], [0.5, 0.1]], dtype=torch.float64),
        0.02 * torch.eye(2, dtype=torch.float64).repeat(2, 1, 1),
    )
    levels, x, index = make_grid(CHAINS["cosine-1000"], "uniform", 30), 0.5 * drawn(8, 2).to(dtype), torch.arange(8)
    recording = ddpm_inversion(x, mixture, levels, path=path, seed=3, index=index)
    back = (
        final(trajectory(recording.top, mixture, levels, Ancestral(), seed=9, index=index, noise=recording))
        + recording.rest
    )
    assert (back - x).abs().max() <= 2 * torch.finfo(dtype).eps * x.abs().max()


def test_the_noise_of_a_forward_trajectory_is_white_for_an_exact_model():
    """Data N(0, I): p(x_s | x_t) is q(x_s | x_t), so z are independent standard normals, as sampling draws them."""
    levels, n = make_grid(CHAINS["cosine-1000"], "uniform", 6), 20_000
    z = torch.stack(
        ddpm_inversion(drawn(n, 1), gaussian(0.0, 1.0), levels, path="trajectory", seed=1, index=torch.arange(n)).noises
    )[..., 0]
    assert z.mean(1).abs().max() < 4.5 / n**0.5
    assert (z @ z.T / n - torch.eye(5)).abs().max() < 4.5 * (2 / n) ** 0.5


def test_independent_levels_need_larger_noise():
    """Data N(0, I), variance preserving: x_s given x_t is N(r x_t, 1 - r²), r = alpha_t/alpha_s, but jumps of their own
    have covariance alpha_s alpha_t, so Var z = (1 + r² - 2 r alpha_s alpha_t)/(1 - r²)."""
    levels, n = make_grid(CHAINS["cosine-1000"], "uniform", 6), 20_000
    noises = ddpm_inversion(
        drawn(n, 1), gaussian(0.0, 1.0), levels, path="independent", seed=1, index=torch.arange(n)
    ).noises
    for z, here, there in zip(noises, levels.rows(), levels.rows()[1:], strict=False):
        r = here.alpha / there.alpha
        expected = (1 + r**2 - 2 * r * here.alpha * there.alpha) / (1 - r**2)
        assert z.var() == pytest.approx(expected.item(), rel=4.5 * (2 / n) ** 0.5)


# The sphere -----------------------------------------------------------------------------------------------------------


def test_slerp_keeps_to_the_sphere():
    a, b = drawn(4, 12), 2 * drawn(4, 12, seed=1)
    a, b = a.reshape(4, 3, 2, 2), b.reshape(4, 3, 2, 2)

    def angle(u, v):
        return torch.acos(torch.cosine_similarity(u.flatten(1), v.flatten(1)))

    def norm(x):
        return x.flatten(1).norm(dim=1)

    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, b, 0.3), slerp(b, a, 0.7))
    for share in (0.2, 0.5, 0.9):
        x = slerp(a, b, share)
        torch.testing.assert_close(angle(a, x), share * angle(a, b))
        torch.testing.assert_close(norm(x), (1 - share) * norm(a) + share * norm(b))
        torch.testing.assert_close(slerp(a[1:2], b[1:2], share), x[1:2])


def test_slerp_of_parallel_and_of_empty_noises_is_the_line():
    a = drawn(2, 5)
    torch.testing.assert_close(slerp(a, 3 * a, 0.25), 1.5 * a)
    torch.testing.assert_close(slerp(0 * a, a, 0.25), 0.25 * a)


# Noise levels ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4096), (2, 64, 64), (1, 16, 16, 16)])
def test_wavelet_estimate_of_white_noise(shape):
    """The median of |d| has a relative deviation of 1.17/sqrt(n) for n independent coefficients; every second one along
    each axis are independent, and the others only help."""
    eps = 0.3 * standard_normal(shape, 0, torch.arange(4))
    independent = math.prod(shape) / 2 ** (len(shape) - 1)
    assert (by_wavelet(eps) / 0.3 - 1).abs().max() < 4 * 1.17 / independent**0.5


def test_wavelet_estimate_does_not_see_ramps():
    ramp = torch.linspace(-1, 1, 64)[:, None] + torch.linspace(0, 3, 64)
    assert by_wavelet(ramp[None, None]).item() < 1e-6
    with pytest.raises(ValueError, match="by likelihood"):
        by_wavelet(torch.zeros(1, 1, 1, 8))


@pytest.mark.parametrize(
    "schedule", [COSINE, CONTINUOUS["edm"](), CHAINS["cosine-1000"]], ids=["cosine", "edm", "chain"]
)
def test_likelihood_estimate_is_the_gaussians_closed_form(schedule):
    """y ~ N(0, s² + u²) is likeliest at u² = |y|²/d - s², whatever y.  With p = u²/(s² + u²) there, equation (2) has the
    slope -2 d p² in log u and the curvature -4 d p² (3 - 4p), so a line between levels h apart misses by h² |3 - 4p|/4."""
    s, d = 0.4, 20
    y = torch.stack([drawn(1, d, seed=k)[0] * scale for k, scale in enumerate((0.6, 1.0, 3.0))])
    truth = (y.square().mean(1) - s**2).sqrt()
    for steps in (64, 128):
        levels = make_grid(schedule, "logsnr", steps)[:-1]
        h = (levels.sigma_edm[0] / levels.sigma_edm[1]).log().item()
        torch.testing.assert_close(by_likelihood(y, gaussian(0.0, s, d), levels), truth, rtol=3 / 4 * h**2, atol=0)


def test_likelihood_estimate_without_noise_is_the_cleanest_level():
    """Too little variation for the model itself: the likelihood falls with u from the start."""
    levels = make_grid(COSINE, "logsnr", 32)[:-1]
    u = by_likelihood(0.1 * drawn(1, 20), gaussian(0.0, 0.4, 20), levels)
    assert u.item() == pytest.approx(levels.sigma_edm[-1].item())


def test_likelihood_estimate_of_a_mixture_is_unbiased():
    """White noise of d coordinates is known to 1/sqrt(2 d) of itself, n examples to sqrt(n) better; what the mixture hides
    is another few percent of this."""
    d, n, u = 32, 64, 0.5
    means = torch.stack([torch.full((d,), value, dtype=torch.float64) for value in (-0.8, 0.1, 0.9)])
    mixture = Mixture(
        torch.ones(3, dtype=torch.float64), means, 0.01 * torch.eye(d, dtype=torch.float64).repeat(3, 1, 1)
    )
    y = mixture.sample(n, torch.Generator().manual_seed(2)) + u * drawn(n, d, seed=3)
    levels = make_grid(COSINE, "logsnr", 64)[:-1]
    found = by_likelihood(y, mixture, levels)
    assert found.mean().item() == pytest.approx(u, rel=4 / (2 * d * n) ** 0.5 + 1 / (4 * d))
    assert (found / u - 1).std().item() == pytest.approx(1 / (2 * d) ** 0.5, rel=4 / (2 * n) ** 0.5)


def test_meeting_the_first_level_of_pure_noise():
    """At alpha = 0 the inversion of x is its noise alone, finite for both methods."""
    levels = make_grid(CHAINS["linear-zero"], "uniform", 50)
    for name in SOLVERS:
        x = top_of(
            drawn(3, 2), gaussian(0.1, 0.5, 2), levels, make_solver(SOLVERS[name], Settings(), CHAINS["linear-zero"])
        )
        assert x.isfinite().all()
        assert broadcast_to(levels.alpha[0], x) == 0


DETERMINISTIC = [name for name in REGISTRY if not make_solver(name, Settings(), COSINE).stochastic]


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("schedule", [CONTINUOUS["flow"](), CHAINS["linear-zero"]], ids=["flow", "linear-zero"])
def test_every_deterministic_solver_inverts_up_to_pure_noise(schedule, name):
    """Gaussian data: (x - m)/s is what the flow keeps, so at alpha = 0 x_T is sigma/s of x - m.  First order, 100 steps: 4 percent."""
    m, s = 0.2, 0.5
    levels, x = make_grid(schedule, "angle", 100), m + s * drawn(6, 2)
    assert levels.alpha[0] == 0
    low = levels[-2]
    truth = (low.alpha * x - low.alpha * m) / torch.sqrt(low.alpha**2 * s**2 + low.sigma**2)
    found = top_of(x, gaussian(m, s, 2), levels, make_solver(name, Settings(), schedule))
    torch.testing.assert_close(found, truth, rtol=0.04, atol=0.04)
