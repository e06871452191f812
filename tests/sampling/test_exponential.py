"""Exponential integrators: their weights against closed forms, their orders on an exact mixture, other libraries' numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from scipy.integrate import quad

from tests.process.instances import SCHEDULES
from tests.sampling.mixtures import ENDS, MIXTURE, POINTS, exact_end, start, table
from undiffuse.process.levels import Level
from undiffuse.process.oracles import Mixture
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import Posterior
from undiffuse.process.predictions import make_prediction
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.solvers.adaptive import Adaptive
from undiffuse.sampling.solvers.base import Solver, Step
from undiffuse.sampling.solvers.exponential import Heun, Multistep, Singlestep
from undiffuse.sampling.solvers.forms import (
    EPS_FORM,
    FLOW,
    FLOW_TIME,
    LOGSNR,
    RATIO,
    ROW,
    angle_coordinate,
    angle_form,
    clean,
    weights,
)
from undiffuse.sampling.solvers.langevin import Langevin
from undiffuse.sampling.solvers.registry import SOLVERS, Settings, make_solver

d = torch.float64
VP = SCHEDULES["vp"]
FORMS = {
    "noise": EPS_FORM,
    "clean": clean(),
    "clean-sde": clean(1.0),
    "flow": FLOW,
    "angle": angle_form(),
    "angle-half": angle_form(0.5),
}
COORDINATES = {
    "logsnr": LOGSNR,
    "ratio": RATIO,
    "flow_time": FLOW_TIME,
    "angle": angle_coordinate(),
    "angle-half": angle_coordinate(0.5),
}
EVERY = [(name, order) for name, entry in SOLVERS.items() for order in entry.orders if name != "adaptive"]
WALKS = [(name, order) for name, order in EVERY if not make_solver(name, Settings(order=order), VP).stochastic]
PEER = {
    name: torch.tensor(end, dtype=d)
    for name, end in json.loads(Path(__file__).with_name("k_diffusion.json").read_text()).items()
}


def solver(name, order=None, **settings):
    return make_solver(name, Settings(order=order, **settings), VP)


def walked(name, levels, which, denoise=MIXTURE):
    return final(trajectory(start(name), denoise, levels, which, seed=0, index=torch.arange(POINTS)))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("coordinate", COORDINATES.values(), ids=COORDINATES)
def test_weights_integrate_polynomials(form, coordinate):
    """∫ p(c) dM for a random cubic p through its four nodes, against adaptive quadrature by another library."""
    u = torch.tensor([9.0, 5.0, 2.5, 1.0, 0.4], dtype=d)
    coefficients = [0.3, -1.0, 0.7, 0.2]
    c = coordinate.of(u).tolist()
    w = weights(form, coordinate, "exact", u, torch.tensor([3]), torch.tensor([4]), torch.tensor([[3, 2, 1, 0]]))[0]

    def p(at: float) -> float:
        return sum(a * at**k for k, a in enumerate(coefficients))

    def integrand(log_u: float) -> float:
        at = torch.tensor(math.exp(log_u), dtype=d)
        return p(coordinate.of(at).item()) * form.slope(at).item() * at.item()

    expected, _ = quad(integrand, math.log(1.0), math.log(0.4), epsabs=1e-13, epsrel=1e-13)
    assert sum(w[k].item() * p(c[3 - k]) for k in range(4)) == pytest.approx(expected, rel=1e-9)
    whole = form.measure(u[4]) - form.measure(u[3])
    assert w.sum().item() == pytest.approx(whole.item(), rel=1e-12)


def test_rows_are_weighed_as_adams_and_bashforth_did():
    u = torch.tensor([9.0, 5.0, 2.5, 1.0, 0.4], dtype=d)
    w = weights(EPS_FORM, ROW, "exact", u, torch.tensor([3]), torch.tensor([4]), torch.tensor([[3, 2, 1, 0]]))[0] / (
        0.4 - 1.0
    )
    torch.testing.assert_close(w, torch.tensor([55.0, -59.0, 37.0, -9.0], dtype=d) / 24, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize(("which", "order"), WALKS)
def test_the_flow_of_a_mixture_is_approached_at_the_solvers_order(which, order, name):
    """Twice the steps, 2^p times less error; p of theory, with the corrector p + 1, with PLMS's even steps at most 2.

    Multistep methods start from order 1, which costs an error of second order in the first step: beyond 3 only that
    start is seen.  Between 48 and 96 steps of 0.06 in log-SNR the next term is up to a tenth of the leading one per unit
    of step times order, 0.3 of an order for 3.
    """
    expected = min(order + (which in ("unipc", "sa", "adams")), 2 if which == "plms" else 3)
    expected = {"heun": 2, "edm": 2, "dpm2": 2}.get(which, expected)
    errors = [
        (walked(name, table(name, steps), solver(which, order)) - exact_end(name)).pow(2).mean().sqrt().item()
        for steps in (48, 96)
    ]
    assert math.log2(errors[0] / errors[1]) > expected - 0.3


@pytest.mark.parametrize(("which", "order"), WALKS)
def test_the_network_may_predict_anything(which, order):
    """A network that gives the exact target of each prediction is walked to the same ends."""
    schedule = SCHEDULES["cosine-100"]
    levels = make_grid(schedule, "trailing", 8)
    x = torch.randn(POINTS, 2, dtype=d, generator=torch.Generator().manual_seed(2))
    ends = []
    for kind in ("epsilon", "x0", "posterior_mean", "v", "flow", "edm"):
        prediction = make_prediction(kind, schedule)

        def denoise(x_t, level, prediction=prediction):
            row = prediction.affine(level)
            F = (MIXTURE(x_t, level).mean - row.c_skip * x_t) / row.c_out
            return Posterior(row.c_skip * x_t + row.c_out * F)

        ends.append(final(trajectory(x, denoise, levels, solver(which, order), seed=0, index=torch.arange(POINTS))))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("which", "order"), WALKS)
def test_rescaling_x_t_changes_nothing(which, order):
    """Schedules with equal SNRs are one path seen at different scales: the ends agree."""
    logsnr = torch.linspace(-5, 6, 9, dtype=d)
    ends = []
    for name in ("vp", "edm", "flow", "cosine_continuous", "sub_vp"):
        levels = SCHEDULES[name](SCHEDULES[name].at(logsnr)).and_clean()
        x = torch.randn(POINTS, 2, dtype=d, generator=torch.Generator().manual_seed(3)) * levels.sigma[0]
        ends.append(final(trajectory(x, MIXTURE, levels, solver(which, order), seed=0, index=torch.arange(POINTS))))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-8, atol=1e-8)


MIDDLES = table("edm", 16)  # every second level is one of the 8-step table, the others lie in the middle of its steps
SAME_AS_PEER = {
    "euler": (solver("euler"), None),
    "heun": (solver("edm"), None),
    "dpm_2": (solver("dpm2"), MIDDLES),
    "dpmpp_2m": (solver("dpm++"), None),
    "dpmpp_2s": (solver("dpm++_single"), MIDDLES),
    "euler_ancestral": (solver("euler_ancestral"), None),
    "dpmpp_2m_sde": (solver("dpm++_sde"), None),
    "dpmpp_2m_sde_half": (solver("dpm++_sde", eta=0.5), None),
    **{f"lms_{order}": (solver("lms", order), None) for order in (1, 2, 3, 4)},
}


@pytest.mark.parametrize("name", SAME_AS_PEER)
def test_the_numbers_of_k_diffusion(name):
    """benchmarks/peer_numbers.py made them, with our noise in place of its own; float64 all along."""
    which, levels = SAME_AS_PEER[name]
    torch.testing.assert_close(walked("edm", levels or table("edm", 8), which), PEER[name], rtol=0, atol=1e-12)


def test_the_third_order_sde_solver_is_of_third_order():
    """k-diffusion's halves the quadratic term of dpmpp_3m_sde, and converges at second order."""
    walk = Multistep(clean(), LOGSNR, 3)
    assert solver("dpm++_sde", 3) == Multistep(clean(1.0), LOGSNR, 3)
    errors = [
        (walked("edm", table("edm", steps), walk) - exact_end("edm")).pow(2).mean().sqrt().item() for steps in (24, 48)
    ]
    assert math.log2(errors[0] / errors[1]) > 2.7


@pytest.mark.parametrize("form", [EPS_FORM, clean(), FLOW, angle_form()], ids=["noise", "clean", "flow", "angle"])
def test_each_form_integrates_its_own_problem_in_one_step(form):
    """Constant eps, constant x̂, straight paths, and Gaussian data of the form's own deviation."""
    levels = VP(VP.at(torch.tensor([-4.0, 3.0], dtype=d)))
    x = torch.tensor([[1.3, -0.4]], dtype=d)
    (a, b), (s, r) = levels.alpha.tolist(), levels.sigma.tolist()
    c = torch.tensor([[0.5, 0.2]], dtype=d)

    def denoise(x_t, level):
        alpha, sigma = level.alpha, level.sigma
        if form is EPS_FORM:
            return Posterior((x_t - sigma * c) / alpha)
        if form is FLOW:  # eps - x̂ = c
            return Posterior((x_t - sigma * c) / (alpha + sigma))
        return (
            Posterior(c)
            if form.name == "clean"
            else Mixture.gaussian(torch.zeros(2, dtype=d), torch.eye(2, dtype=d))(x_t, level)
        )

    end = final(trajectory(x, denoise, levels, Multistep(form, LOGSNR, 1), seed=0, index=torch.arange(1)))
    expected = {
        "noise": b / a * x + (r - b * s / a) * c,
        "clean": r / s * x + (b - a * r / s) * c,
        "flow": (b + r) * (x / (a + s) + (r / (b + r) - s / (a + s)) * c),
        "angle": x,
    }
    torch.testing.assert_close(end, expected[form.name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize(
    ("which", "order"),
    [
        ("dpm++_sde", 1),
        ("dpm++_sde", 2),
        ("dpm++_sde", 3),
        ("sa", 1),
        ("sa", 2),
        ("sa", 3),
        ("dpm++_single", 2),
        ("dpm++_single", 3),
    ],
)
def test_stochastic_solvers_have_the_marginals_of_gaussian_data(which, order, eta):
    """On Gaussian data a whole trajectory is affine in (x_T, z_1, z_2, …): its mean and variance are read off exactly.

    At 400 steps of 0.025 in log-SNR a solver of order p errs by about 0.025^p; first order allows 0.02.
    """
    mean, deviation = 0.3, 0.5
    gaussian = Mixture.gaussian(torch.tensor([mean], dtype=d), torch.tensor([[deviation**2]], dtype=d))
    steps = 400
    levels = VP(VP.at(torch.linspace(-5, 5, steps + 1, dtype=d)))
    walk = solver(which, order, eta=eta)
    plan, basis = walk.plan(levels), steps + 2  # rows: the constant part, the response to x_T, to each z
    x, state = torch.zeros(basis, 1, dtype=d), None
    x[1] = 1.0
    for row in range(steps):
        z = torch.zeros(basis, 1, dtype=d)
        z[row + 2] = 1.0
        step = walk.step(x, gaussian, plan[row], lambda k, z=z: z, state)
        x, state = step.x, step.state
    constant, response = x[0, 0], x[1:, 0] - x[0, 0]
    a, s, b, r = levels.alpha[0], levels.sigma[0], levels.alpha[-1], levels.sigma[-1]
    got_mean = constant + response[0] * a * mean
    got_variance = response[0] ** 2 * (a**2 * deviation**2 + s**2) + (response[1:] ** 2).sum()
    tolerance = 0.02 if order == 1 and which != "sa" else 0.002
    assert got_mean.item() == pytest.approx((b * mean).item(), rel=tolerance)
    assert got_variance.item() == pytest.approx((b**2 * deviation**2 + r**2).item(), rel=tolerance)


@pytest.mark.parametrize("which", ["ddpm", "ddim", "euler_ancestral", "dpm++_sde", "sa", "pc"])
def test_stochastic_samples_of_a_mixture_have_its_moments(which):
    """Mean and covariance of 4,000 samples within 4.5 standard errors, plus what 60 steps leave of discretisation."""
    n, levels = 4000, make_grid(SCHEDULES["cosine-1000"], "uniform", 60)
    index = torch.arange(n)
    x = standard_normal((2,), 3, index).double() * levels.sigma[0]
    settings = {"eta": 1.0} if which in ("ddim",) else {}
    end = final(trajectory(x, MIXTURE, levels, solver(which, **settings), seed=3, index=index))
    mean = (MIXTURE.weights[:, None] * MIXTURE.means).sum(0)
    offset = MIXTURE.means - mean
    covariance = (MIXTURE.weights[:, None, None] * (MIXTURE.covariances + offset[:, :, None] * offset[:, None])).sum(0)
    scale = covariance.diagonal().sqrt()
    assert ((end.mean(0) - mean).abs() < 4.5 * scale / n**0.5 + 0.02 * scale).all()
    # the fourth moments of a mixture this wide are at most Gaussian ones: se of a covariance <= sqrt(2/n) s_i s_j
    assert ((torch.cov(end.T) - covariance).abs() < (4.5 * (2 / n) ** 0.5 + 0.05) * scale[:, None] * scale).all()


@dataclass(frozen=True)
class Still(Solver):
    """Stays where it is, so that a wrapper's own work is seen."""

    def plan(self, levels):
        return [None] * (len(levels) - 1)

    def step(self, x_t, denoise, row, noise, state):
        return Step(x_t, denoise(x_t, LEVEL))


LEVEL = SCHEDULES["vp"](0.4)


def test_a_langevin_step_is_the_published_one():
    """x + delta score + sqrt(2 delta) z, the score by automatic differentiation of the exact density."""
    x = torch.randn(6, 2, dtype=d, generator=torch.Generator().manual_seed(4))
    z = torch.randn(6, 2, dtype=d, generator=torch.Generator().manual_seed(5))
    walk = Langevin(Still(), 1, 0.16)
    row = walk.plan(Level.of_rows([LEVEL, Level.clean()]))[0]
    ours = walk.step(x, MIXTURE, row, lambda k: z, None).x
    at = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(MIXTURE.log_density(at, LEVEL).sum(), at)
    delta = 2 * (0.16 * LEVEL.sigma) ** 2
    torch.testing.assert_close(ours, x + delta * score + (2 * delta).sqrt() * z)


def test_history_is_kept_no_longer_than_the_order_needs():
    for order in (1, 2, 3, 4):
        plain = Multistep(EPS_FORM, RATIO, order)
        for row in plain.plan(table("edm", 9)):
            assert row.kept <= max(order - 1, 0)
    corrected = Multistep(clean(), LOGSNR, 2, "exact", True)
    assert max(row.kept for row in corrected.plan(table("edm", 9))) == 2


def test_blocks_are_cut_short_by_the_end_of_a_table():
    """Two steps of a third-order block are the second-order block; a single one is DDIM's."""
    levels = table("edm", 2)
    torch.testing.assert_close(
        walked("edm", levels, Singlestep(EPS_FORM, LOGSNR, 3)), walked("edm", levels, Singlestep(EPS_FORM, LOGSNR, 2))
    )
    torch.testing.assert_close(
        walked("edm", table("edm", 1), Singlestep(EPS_FORM, LOGSNR, 3)), walked("edm", table("edm", 1), solver("ddim"))
    )


def test_a_history_cannot_be_taken_up_without_its_state():
    levels = table("edm", 6)
    with pytest.raises(ValueError, match="with its state"):
        list(trajectory(start("edm"), MIXTURE, levels, solver("lms"), seed=0, index=torch.arange(POINTS), start=3))


@pytest.mark.parametrize(("which", "order"), EVERY)
@pytest.mark.parametrize("name", ["linear-zero", "flow", "edm", "cosine-37", "laplace"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_point_mass_is_reached_exactly_from_pure_noise_in_any_number_of_steps(which, order, name, steps):
    """Also where alpha = 0, sigma = 0, or a table is shorter than a history."""
    point = Posterior(torch.tensor([[0.7, -0.2]], dtype=d).expand(4, 2))
    levels = make_grid(SCHEDULES[name], "uniform", steps)
    x = standard_normal((2,), 0, torch.arange(4)).double() * levels.sigma[0]
    end = final(trajectory(x, lambda x_t, level: point, levels, solver(which, order), seed=0, index=torch.arange(4)))
    # rounding grows with the noise it is the difference of, and with the size of the weights
    torch.testing.assert_close(end, point.mean, rtol=0, atol=1e-9)


def test_heun_in_the_ratio_is_edms_algorithm_1():
    levels = make_grid(SCHEDULES["edm"], "karras", 8)
    gaussian = Mixture.gaussian(torch.tensor([0.3], dtype=d), torch.tensor([[0.25]], dtype=d))
    x = torch.tensor([[12.0], [-70.0]], dtype=d)
    ours = final(trajectory(x, gaussian, levels, Heun(EPS_FORM, RATIO), seed=0, index=torch.arange(2)))
    sigma, y = levels.sigma.tolist(), x.clone()
    for here, there in zip(sigma, sigma[1:], strict=False):  # Karras et al. 2022, Algorithm 1 with S_churn = 0
        slope = (y - gaussian(y, SCHEDULES["edm"](here)).mean) / here
        step = y + (there - here) * slope
        if there > 0:
            slope = (slope + (step - gaussian(step, SCHEDULES["edm"](there)).mean) / there) / 2
            step = y + (there - here) * slope
        y = step
    torch.testing.assert_close(ours, y, rtol=1e-10, atol=1e-12)


def test_the_adaptive_solver_finds_the_flow_to_its_tolerance():
    schedule = SCHEDULES["edm"]
    levels = table("edm", 1)
    errors = [
        (walked("edm", levels, Adaptive(schedule, tolerance, tolerance)) - exact_end("edm")).abs().max().item()
        for tolerance in (1e-4, 1e-8)
    ]
    # errors of single steps are kept below the tolerance; along the way some tens of them add up
    assert errors[0] < 1e-2
    assert errors[1] < 1e-6
    point = Posterior(torch.tensor([[0.7, -0.2]], dtype=d).expand(POINTS, 2))
    whole = Level.of_rows([schedule(80.0), Level.clean()])
    torch.testing.assert_close(
        walked("edm", whole, make_solver("adaptive", Settings(), schedule), lambda *_: point), point.mean
    )


def test_euler_in_the_time_of_rectified_flow_is_its_published_step():
    """x_s = x_t + (t_s - t_t) v, v = eps - x̂, on the schedule alpha = 1 - t, sigma = t (Lipman et al. 2023)."""
    levels = SCHEDULES["flow"]([0.9, 0.55, 0.2])
    x = torch.tensor([[0.3, -1.2]], dtype=d)
    ours = final(trajectory(x, MIXTURE, levels, solver("flow"), seed=0, index=torch.arange(1)))
    for t, s in ((0.9, 0.55), (0.55, 0.2)):
        clean_x = MIXTURE(x, SCHEDULES["flow"](t)).mean
        eps = (x - (1 - t) * clean_x) / t
        x = x + (s - t) * (eps - clean_x)
    torch.testing.assert_close(ours, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("heun", {"eta": 0.5}, "dpm\\+\\+_sde"),
        ("heun", {"variance": 1.0}, "'ddpm'"),
        ("rk", {}, "choose one"),
        ("lms", {"order": 5}, "1, 2, 3, 4"),
        ("ddim", {"eta": 1.5}, "between 0"),
        ("ddim", {"order": 2}, "orders 1"),
        ("unipc", {"corrections": 2}, "'pc'"),
        ("pc", {"corrections": -1}, "at least 1"),
    ],
)
def test_wrong_settings_are_refused(name, settings, words):
    with pytest.raises(ValueError, match=words):
        make_solver(name, Settings(**settings), VP)
