"""The continuous-time bound against closed forms on Gaussians, quadrature on mixtures, and Gibbs' inequality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from undiffuse.process import betas as B
from undiffuse.process.chains import Chain
from undiffuse.process.likelihood.bound import Bins, Density
from undiffuse.process.likelihood.continuous import LEAST_LOGSNR, continuous_bound, edges
from undiffuse.process.oracles import Mixture
from undiffuse.process.posteriors import Posterior
from undiffuse.process.schedules import EDM, VE, VP, Cosine, Flow, Laplace, Schedule

d = torch.float64
SCHEDULES: dict[str, Schedule] = {
    "linear": Chain(B.linear_betas(1000)),
    "cosine": Chain(B.cosine_betas(100)),
    "vp": VP(),
    "ve": VE(),
    "edm": EDM(),
    "flow": Flow(),
    "continuous cosine": Cosine(),
    "laplace": Laplace(),
}


def gaussian(mean: float, deviation: float) -> Mixture:
    return Mixture.gaussian(torch.tensor([mean], dtype=d), torch.tensor([[deviation**2]], dtype=d))


def nodes(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of a standard normal's expectation."""
    z, w = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(z), torch.from_numpy(w / w.sum())


def middles(strata: int, examples: int) -> list[torch.Tensor]:
    return [torch.full((examples,), 0.5)] * strata


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (0.3, 0.5), (-1.0, 2.0)])
def test_it_is_tight_on_gaussian_data(name, mean, deviation):
    """The integral is 1/2 log((1 + s² SNR_0)/(1 + s² SNR_T)), and the whole is entropy + KL(q(y_T) || N(0, 1)).

    Every term is quadratic in (x, eps), so four nodes each are exact.  Over lambda the middle rule errs by
    h²/24 [f'(b) - f'(a)] with f = s² SNR/(1 + s² SNR)/2 and f' <= 1/8; with h = (b - a)/400 < 0.1 that is below 6e-5.
    """
    schedule, strata = SCHEDULES[name], 400
    z, w = nodes(4)
    first, second = torch.meshgrid(z, z, indexing="ij")
    weight = (w[:, None] * w).ravel()
    x, eps = mean + deviation * first.reshape(-1, 1), second.reshape(-1, 1)
    bound = continuous_bound(
        gaussian(mean, deviation), schedule, x, middles(strata, 16), [eps] * (strata + 1), Density(), strata
    )
    low, high = edges(schedule, strata)[[0, -1]].exp()
    integral = 0.5 * ((1 + deviation**2 * high) / (1 + deviation**2 * low)).log()
    assert (weight * bound.steps[:-1].sum(0)).sum().item() == pytest.approx(integral.item(), abs=6e-5)
    share = low / (1 + low)  # alpha² / (alpha² + sigma²) at the noisiest level
    variance = share * deviation**2 + (1 - share)
    mismatch = 0.5 * (variance + share * mean**2 - 1 - variance.log())
    entropy = 0.5 * math.log(2 * math.pi * math.e * deviation**2)
    assert (weight * bound.total).sum().item() == pytest.approx((entropy + mismatch).item(), abs=6e-5)


MIXTURE = Mixture(
    torch.tensor([0.35, 0.65], dtype=d),
    torch.tensor([[-0.8], [0.5]], dtype=d),
    torch.tensor([[[0.04]], [[0.09]]], dtype=d),
)


def test_for_each_x_it_is_a_difference_of_divergences_and_at_least_the_true_value():
    """With the exact denoiser, for every single x,

        1/2 int E|x - x̂|² dSNR = KL(q(x_0'|x) || p(x_0')) - KL(q(x_T|x) || p(x_T)),

    x_0' and x_T being the ends of the schedule and p the mixture's own marginals: given x_0', the rest of the path is
    the same under both.  The right side is found by integration over a fine grid, and the whole bound is
    at least -log of what the decoder makes of p(x_0').
    """
    schedule, strata = VP(), 400
    points, (eps, w) = torch.linspace(-1.6, 1.4, 13, dtype=d), nodes(48)
    x = points.repeat_interleave(48)[:, None]
    noise = eps.repeat(13)[:, None]
    bound = continuous_bound(MIXTURE, schedule, x, middles(strata, len(x)), [noise] * (strata + 1), Density(), strata)

    def mean(terms):
        return terms.reshape(13, 48) @ w

    def divergence(level):
        """KL(q(x_t|x) || p(x_t)) by the trapezium rule, exact to rounding for smooth functions that vanish at both ends."""
        z = torch.linspace(-9, 9, 4001, dtype=d)
        x_t = level.alpha * points[:, None] + level.sigma * z
        q = torch.from_numpy(stats.norm.pdf(z.numpy()))
        log_q = torch.from_numpy(stats.norm.logpdf(z.numpy())) - level.sigma.log()
        log_p = MIXTURE.log_density(x_t.reshape(-1, 1), level).reshape(13, -1)
        return torch.trapezoid(q * (log_q - log_p), z, dim=1)

    least, most = schedule(schedule.t_min), schedule(schedule.t_max)
    assert (mean(bound.steps[:-1].sum(0)) - (divergence(least) - divergence(most))).abs().max() < 2e-4

    x_t = torch.linspace(-3, 3, 20_001, dtype=d)[:, None]
    belief = MIXTURE(x_t, least)
    decoded = stats.norm.pdf(points.numpy(), belief.mean.numpy(), belief.variance.variance.sqrt().numpy())
    p_x = np.trapezoid(MIXTURE.log_density(x_t, least).exp().numpy()[:, None] * decoded, x_t[:, 0].numpy(), axis=0)
    true = torch.from_numpy(-np.log(p_x))
    assert (
        true + MIXTURE.log_density(points[:, None], Cosine()(Cosine().t_min))
    ).abs().max() < 0.05  # it is about the data's
    assert (mean(bound.total) > true - 2e-4).all()


def test_a_worse_denoiser_has_a_larger_bound():
    """Adding b to x̂ adds 1/2 b² (SNR_0 - SNR_T) in expectation, as E[x - x̂ | x_t] = 0 for the exact one."""
    schedule, strata, b = Cosine(logsnr_max=3.0), 200, 0.1
    z, w = nodes(4)
    first, second = torch.meshgrid(z, z, indexing="ij")
    x, eps, weight = first.reshape(-1, 1), second.reshape(-1, 1), (w[:, None] * w).ravel()
    exact = gaussian(0.0, 1.0)

    def integral(denoise):
        steps = continuous_bound(
            denoise, schedule, x, middles(strata, 16), [eps] * (strata + 1), Density(), strata
        ).steps
        return (weight * steps[:-1].sum(0)).sum().item()

    more = integral(lambda x_t, level: Posterior(exact(x_t, level).mean + b)) - integral(exact)
    low, high = edges(schedule, strata)[[0, -1]].exp().tolist()
    assert more == pytest.approx(0.5 * b**2 * (high - low), rel=1e-3)  # the middle rule errs by h²/24 of it, h = 0.03


def test_random_levels_give_an_unbiased_estimate():
    """Four strata, many draws, within four standard errors of the closed form."""
    generator, n, strata, schedule = torch.Generator().manual_seed(0), 20_000, 4, Cosine(logsnr_max=6.0)
    x = torch.randn(n, 1, dtype=d, generator=generator)
    shares = [torch.rand(n, dtype=d, generator=generator) for _ in range(strata)]
    noises = [torch.randn(n, 1, dtype=d, generator=generator) for _ in range(strata + 1)]
    steps = continuous_bound(gaussian(0.0, 1.0), schedule, x, shares, noises, Density(), strata).steps[:-1].sum(0)
    exact = 0.5 * math.log((1 + math.exp(6)) / (1 + math.exp(-6)))
    assert steps.mean().item() == pytest.approx(exact, abs=4 * steps.std().item() / math.sqrt(n))


def test_the_bound_of_quantised_data_is_above_its_entropy_and_near_it():
    """One pixel of four grey levels: at least the entropy (Gibbs), and within 0.01 nats where SNR_0 tells the levels apart.

    With the exact denoiser and SNR_0 = e^15 the decoder's deviation, 5.5e-4, is far below the bins' half width, 1/3: the
    decoder costs nothing and the integral is the mutual information of x and x_0, the entropy.
    """
    values = torch.tensor([[-1.0], [-1 / 3], [1 / 3], [1.0]], dtype=d)
    probability = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=d)
    entropy = -(probability * probability.log()).sum().item()
    exact = Mixture(probability, values, torch.full((4, 1, 1), 1e-12, dtype=d))
    eps, w = nodes(60)
    x, noise = values.repeat_interleave(60, 0), eps.repeat(4)[:, None]
    weight = (probability[:, None] * w).ravel()
    for schedule, near in ((Cosine(), 0.01), (Cosine(logsnr_max=3.0), 2.0)):
        bound = continuous_bound(
            lambda x_t, level: Posterior(exact(x_t, level).mean),
            schedule,
            x,
            middles(300, 240),
            [noise] * 301,
            Bins(4, form="exact"),
            300,
        )
        found = (weight * bound.total).sum().item()
        assert entropy - 1e-3 < found < entropy + near


def test_a_schedule_that_ends_in_pure_noise_is_cut():
    assert edges(Flow(), 3)[0] == LEAST_LOGSNR
    assert edges(Cosine(), 3)[0] == pytest.approx(-15)
