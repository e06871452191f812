"""Laws of every schedule, and the papers' numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process import betas as B
from undiffuse.process.chains import Chain
from undiffuse.process.config import ScheduleConfig
from undiffuse.process.schedules import CONTINUOUS, sub_variance_preserving

d = torch.float64
EACH = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
EACH_CHAIN = pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())


def times(schedule, n=201):
    return torch.linspace(schedule.t_min, schedule.t_max, n, dtype=torch.float64)


@EACH
def test_log_snr_falls_strictly_with_time(schedule):
    if schedule.t_max == schedule.t_min:  # a chain of one step
        return
    assert (schedule(times(schedule)).logsnr.diff() < 0).all()


@EACH
def test_at_inverts_the_curve(schedule):
    t = times(schedule)
    # Rounding of lambda (relative 1e-16 of values up to 40) over the slope of the curve, which is above 1e-3 everywhere
    # on these ranges; at infinite lambda the inverse is exact.
    torch.testing.assert_close(schedule.at(schedule(t).logsnr), t, rtol=1e-9, atol=1e-9)


@EACH
def test_levels_are_float64_between_clean_and_noise(schedule):
    level = schedule(times(schedule))
    assert level.alpha.dtype == level.sigma.dtype == level.timestep.dtype == torch.float64
    assert ((level.alpha >= 0) & (level.alpha <= 1)).all()
    assert (level.sigma > 0).all()


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("vp", lambda a, s: a**2 + s**2),
        ("cosine_continuous", lambda a, s: a**2 + s**2),
        ("laplace", lambda a, s: a**2 + s**2),
        ("flow", lambda a, s: a + s),
        ("ve", lambda a, s: a),
        ("edm", lambda a, s: a),
        ("sub_vp", lambda a, s: a**2 + s),
    ],
)
def test_families_keep_their_constraint_also_when_shifted(name, law):
    for schedule in (CONTINUOUS[name](), CONTINUOUS[name]().shifted(-3.0)):
        level = schedule(times(schedule))
        torch.testing.assert_close(law(level.alpha, level.sigma), torch.ones_like(level.alpha), rtol=0, atol=1e-14)


@EACH
def test_a_shift_adds_to_every_log_snr_and_keeps_labels(schedule):
    t = times(schedule, 11)
    t = schedule.nearest(t)
    shifted = schedule.shifted(-1.25)
    torch.testing.assert_close(shifted(t).logsnr, schedule(t).logsnr - 1.25, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(shifted(t).timestep, schedule(t).timestep)


def test_continuous_levels_equal_their_papers_formulas():
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    B_t = 0.1 * t + 0.5 * t**2 * 19.9
    vp, sub, ve = (CONTINUOUS[name]()(t) for name in ("vp", "sub_vp", "ve"))
    torch.testing.assert_close(vp.alpha, torch.exp(-B_t / 2), rtol=1e-12, atol=0)
    torch.testing.assert_close(sub.alpha, torch.exp(-B_t / 2), rtol=1e-12, atol=0)
    torch.testing.assert_close(sub.sigma, 1 - torch.exp(-B_t), rtol=1e-12, atol=0)
    torch.testing.assert_close(ve.sigma, 0.01 * 5000**t, rtol=1e-12, atol=0)
    flow = CONTINUOUS["flow"]()(t)
    torch.testing.assert_close(flow.alpha, 1 - t, rtol=1e-12, atol=0)
    sigma = torch.logspace(-2, 1.9, 20, dtype=torch.float64)
    edm = CONTINUOUS["edm"]()(sigma)
    torch.testing.assert_close(edm.sigma, sigma, rtol=1e-12, atol=0)
    torch.testing.assert_close(edm.timestep, 1000 * sigma.log() / 4, rtol=1e-12, atol=0)


def test_laplace_times_have_a_laplace_density_of_log_snr():
    from scipy.stats import kstest, laplace

    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    assert kstest(CONTINUOUS["laplace"]().logsnr(t).numpy(), laplace(0, 0.5).cdf).statistic < 1 / 2000


def test_sub_vp_is_finite_at_both_ends():
    alpha, sigma = sub_variance_preserving(torch.tensor([-math.inf, -700.0, 700.0], dtype=torch.float64))
    assert torch.isfinite(alpha).all()
    assert torch.isfinite(sigma).all()
    assert alpha[0] == 0
    assert sigma[0] == 1


@EACH_CHAIN
def test_a_chain_equals_the_products_in_exact_arithmetic(chain):
    """alpha-bar by rational arithmetic of the float64 betas, no rounding until the end."""
    alpha_bar = [Fraction(1)]
    for beta in chain.betas[:100].tolist():
        alpha_bar.append(alpha_bar[-1] * (1 - Fraction(beta)))
    for t, exact in enumerate(alpha_bar[1:]):
        level = chain(float(t))
        assert level.alpha.item() ** 2 == pytest.approx(float(exact), rel=1e-12, abs=1e-30)
        assert level.sigma.item() ** 2 == pytest.approx(float(1 - exact), rel=1e-12)


@EACH_CHAIN
def test_tables_run_noisiest_first_and_end_clean(chain):
    levels = chain.levels
    assert len(levels) == len(chain) + 1
    assert levels.timestep.tolist() == [*range(len(chain) - 1, -1, -1), -1]
    assert (levels.alpha[-1], levels.sigma[-1]) == (1, 0)
    torch.testing.assert_close(chain(levels.timestep[:-1]).alpha, levels.alpha[:-1], rtol=0, atol=0)
    torch.testing.assert_close(chain.row(levels), torch.arange(len(levels)))


def test_the_papers_betas():
    linear = B.linear_betas(1000)
    assert linear[0] == pytest.approx(1e-4)
    assert linear[-1] == pytest.approx(0.02)
    assert B.linear_betas(4000)[-1] == pytest.approx(0.02 / 4)
    # alpha-bar_T of DDPM is about 4e-5: -log is the trapezium sum of beta + beta²/2 to the same accuracy
    assert Chain(linear).levels.alpha[0].item() ** 2 == pytest.approx(4.036e-5, rel=1e-3)
    cosine = B.cosine_betas(1000)
    assert cosine.max() == 0.999
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0, 500)]
    assert Chain(cosine)(499.0).alpha.item() ** 2 == pytest.approx(f[1] / f[0], rel=1e-12)
    assert B.constant_betas(1000, 0.01).unique().tolist() == [0.01]
    assert (B.scaled_linear_betas(1000).sqrt().diff().diff().abs() < 1e-12).all()


def test_zero_terminal_snr_ends_in_noise_and_keeps_the_first_level():
    betas = B.linear_betas(1000)
    rescaled = B.zero_terminal_snr(betas)
    assert rescaled[-1] == 1
    assert rescaled[0].item() == pytest.approx(betas[0].item(), rel=1e-9)
    chain = Chain(rescaled)
    assert chain.levels.alpha[0] == 0
    assert chain.levels.sigma[0] == 1


@pytest.mark.parametrize(
    ("name", "smallest"), [("linear", 21), ("scaled_linear", 13), ("sigmoid", 21), ("constant", 11)]
)
def test_a_chain_too_short_names_the_smallest_that_works(name, smallest):
    with pytest.raises(ValueError, match=f"smallest T that works is {smallest}"):
        B.BETAS[name](smallest - 1)
    Chain(B.BETAS[name](smallest))


@pytest.mark.parametrize("name", list(B.BETAS))
def test_a_chain_of_no_steps_is_refused(name):
    with pytest.raises(ValueError, match="at least one"):
        B.BETAS[name](0)


@pytest.mark.parametrize("betas", [[], [0.0, 0.1], [1.0, 0.5], [0.1, 1.2], [0.1, -0.1], [float("nan"), 0.1]])
def test_betas_outside_their_range_are_refused(betas):
    with pytest.raises(ValueError, match="beta"):
        Chain(betas)


def test_a_level_between_two_indices_lies_between_them():
    chain = CHAINS["linear-zero"]
    between, below, above = chain(98.5), chain(98.0), chain(99.0)
    assert below.logsnr > between.logsnr > above.logsnr
    assert between.alpha**2 + between.sigma**2 == pytest.approx(1)


@pytest.mark.parametrize(("T", "settings"), [(1000, {}), (250, {}), (1000, {"start": 0.0, "end": 3.0, "tau": 0.7})])
def test_the_sigmoid_in_alpha_bar_is_the_papers(T, settings):
    """Chen 2023's gamma(t) = (sigmoid(end/tau) - sigmoid((t (end - start) + start)/tau))/(the same at t = 0), betas cut at 0.999 as in
    denoising-diffusion-pytorch; start -3, end 3, tau 1 there."""
    from scipy.special import expit

    start, end, tau = settings.get("start", -3.0), settings.get("end", 3.0), settings.get("tau", 1.0)
    gamma = [
        (expit(end / tau) - expit((k / T * (end - start) + start) / tau)) / (expit(end / tau) - expit(start / tau))
        for k in range(T + 1)
    ]
    chain = ScheduleConfig(name="sigmoid_alpha_bar", T=T, **settings).build()
    found = chain(torch.arange(T - 1, dtype=d)).alpha ** 2
    torch.testing.assert_close(found, torch.tensor(gamma[1:-1], dtype=d) / gamma[0], rtol=1e-9, atol=0)
    assert chain(float(T - 1)).alpha ** 2 == pytest.approx(gamma[-2] * 0.001, rel=1e-6)
    assert Chain(B.sigmoid_alpha_bar_betas(10, tau=0.5)).levels.alpha[-2] > 0


@pytest.mark.parametrize(("power", "precision"), [(2.0, 1e-5), (3.0, 1e-4)])
def test_the_polynomial_schedule_is_that_of_edm_for_molecules(power, precision):
    """Hoogeboom et al. 2022, released code: alpha² at 0 … timesteps, its ratios cut below 0.001, then squeezed by the precision."""
    timesteps, squares, last = 1000, [], 1.0
    for k in range(timesteps + 1):
        square = (1 - (k / timesteps) ** power) ** 2
        before = 1.0 if k == 0 else (1 - ((k - 1) / timesteps) ** power) ** 2
        last *= max(square / before, 0.001)
        squares.append((1 - 2 * precision) * last + precision)
    chain = ScheduleConfig(name="polynomial", T=timesteps + 1, power=power, precision=precision).build()
    torch.testing.assert_close(
        chain(torch.arange(timesteps + 1, dtype=d)).alpha ** 2, torch.tensor(squares, dtype=d), rtol=1e-9, atol=0
    )


def test_the_paths_of_flow_matchings_library():
    t = torch.linspace(0.001, 0.999, 50, dtype=d)
    for power in (0.5, 1.0, 3.0):
        level = ScheduleConfig(name="flow_polynomial", power=power).build()(t)
        torch.testing.assert_close(level.alpha, (1 - t) ** power, rtol=1e-12, atol=0)
        torch.testing.assert_close(level.sigma, 1 - (1 - t) ** power, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        ScheduleConfig(name="flow_polynomial", power=1.0).build()(t).sigma, ScheduleConfig(name="flow").build()(t).sigma
    )
    level = ScheduleConfig(name="linear_vp").build()(t)
    torch.testing.assert_close(level.alpha, 1 - t, rtol=1e-12, atol=0)
    torch.testing.assert_close(level.sigma, (1 - (1 - t) ** 2).sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "cosine", "power": 2.0},
        {"name": "flow", "tau": 1.0},
        {"name": "betas", "betas": (0.1, 0.2), "precision": 1e-3},
        {"name": "betas", "betas": (0.1, 0.2), "beta_start": 1e-3},
        {"name": "sigmoid_alpha_bar", "start": 3.0},
        {"name": "sigmoid_alpha_bar", "power": 3.0},
    ],
    ids=str,
)
def test_settings_of_another_schedule_are_refused(settings):
    with pytest.raises(ValueError, match=r"belongs to|range of betas|larger end"):
        ScheduleConfig(**settings).build()
