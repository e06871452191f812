"""Settings with which other programs' samplers are ours: against diffusers where it has them, else the published formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from tests.process.instances import CHAINS, SCHEDULES
from tests.sampling.test_exponential import MIXTURE, d
from undiffuse.process.philox import standard_normal
from undiffuse.process.posteriors import Posterior
from undiffuse.rng import NoiseStream
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.guidance import dynamically_thresholded
from undiffuse.sampling.loop import final, trajectory
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.sampling.solvers.ancestral import DDIM, LCM
from undiffuse.sampling.spacings import GridSettings

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # of diffusers with this NumPy
CHAIN = CHAINS["linear-1000"]
INDEX = torch.arange(7)


def drawn(seed=3, n=7):
    return torch.randn(n, 3, dtype=d, generator=torch.Generator().manual_seed(seed))


def output(x_t, t):
    """Stands for a network that predicts the noise."""
    return torch.sin(3 * x_t) + 0.001 * t


def denoise(x_t, level):
    return Posterior((x_t - level.sigma * output(x_t, float(level.timestep))) / level.alpha)


def ours(how: SamplingConfig, x):
    return final(
        trajectory(
            x, denoise, how.build_levels(CHAIN), how.build_solver(CHAIN), seed=0, index=INDEX, s_noise=how.s_noise
        )
    )


def theirs(scheduler, steps, x):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(output(scheduler.scale_model_input(x, t), float(t)), t, x).prev_sample
    return x


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_dpm_solvers_linspace(steps):
    scheduler = DPMSolverMultistepScheduler(1000, timestep_spacing="linspace")
    scheduler.set_timesteps(steps)
    assert make_grid(CHAIN, "time_uniform", steps).timestep[:-1].tolist() == scheduler.timesteps.tolist()
    whole = SamplingConfig(grid="time_uniform", steps=steps, final_sigma="schedule").build_levels(CHAIN)
    assert whole.timestep[-1] == 0
    assert len(whole) == steps + 1


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("end", ["zero", "schedule"])
@pytest.mark.parametrize("lower", [False, True])
def test_dpm_solver_plus_plus_with_its_ends(order, end, lower):
    """Its last step is of first order where lower_order_final (or a clean end) says so. Its levels are float32: 1e-4."""
    scheduler = DPMSolverMultistepScheduler(
        1000,
        solver_order=order,
        timestep_spacing="linspace",
        lower_order_final=lower,
        final_sigmas_type={"schedule": "sigma_min"}.get(end, end),
    )
    how = SamplingConfig(
        solver="dpm++", order=order, grid="time_uniform", steps=9, final_sigma=end, lower_order_final=lower
    )
    torch.testing.assert_close(ours(how, drawn()), theirs(scheduler, 9, drawn()), rtol=2e-4, atol=2e-4)


def test_lower_orders_at_the_end_are_those_of_shorter_memories():
    """The last step of a third-order solver is then of first order, the one before of second, each from the same state."""
    levels = make_grid(CHAIN, "logsnr", 8)[:-1]
    for solver, orders in (("dpm++", (3, 2, 1)), ("deis", (4, 3, 2, 1)), ("adams", (3, 2, 1))):
        whole = SamplingConfig(solver=solver, order=orders[0], lower_order_final=True).build_solver(CHAIN).plan(levels)
        for back, order in enumerate(reversed(orders), 1):
            plain = SamplingConfig(solver=solver, order=order).build_solver(CHAIN).plan(levels)
            row = len(levels) - 1 - back
            weights = [np.trim_zeros(plan[row].predict.weights, "b") for plan in (whole, plain)]
            if solver == "dpm++" and order == 2:  # where the published rule of the second-order solver is another
                assert len(weights[0]) == len(weights[1]) == 2
                continue
            assert weights[0] == pytest.approx(weights[1], rel=1e-12)


def test_steps_offset_is_stable_diffusions():
    scheduler = DDIMScheduler(1000, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)
    how = SamplingConfig(solver="ddim", grid="leading", steps=50, steps_offset=1, final_sigma="schedule", clip="none")
    scheduler.set_timesteps(50)
    assert how.build_levels(CHAIN).timestep.tolist() == [*scheduler.timesteps.tolist(), 0]
    scheduler = DDIMScheduler(
        1000, timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False, clip_sample=False
    )
    torch.testing.assert_close(ours(how, drawn()), theirs(scheduler, 50, drawn()), rtol=1e-3, atol=1e-3)


def test_an_end_that_is_there_already_makes_the_table_a_step_shorter():
    table = SamplingConfig(grid="uniform", steps=5, final_sigma="schedule").build_levels(CHAIN)
    assert table.timestep.tolist() == [999, 749, 500, 250, 0]
    for name in ("edm", "flow", "ve"):
        end = SamplingConfig(grid="trailing", steps=5, final_sigma="schedule").build_levels(SCHEDULES[name])[-1:]
        torch.testing.assert_close(end.sigma, SCHEDULES[name]([SCHEDULES[name].t_min]).sigma)


@pytest.mark.parametrize("kind", ["linear", "log_linear"])
@pytest.mark.parametrize("spacing", ["linspace", "karras"])
def test_levels_between_indices_are_those_of_euler_discrete(kind, spacing):
    """diffusers turns Karras's sigmas into times by their logarithm alone, and takes 1e-10 for sigma where it interpolates logarithms."""
    karras = spacing == "karras"
    scheduler = EulerDiscreteScheduler(
        1000, interpolation_type="linear", timestep_spacing="linspace", use_karras_sigmas=karras
    )
    scheduler.set_timesteps(13)
    settings = GridSettings(200.0, 0.0, interpolation=kind) if karras else GridSettings(interpolation=kind)
    found = make_grid(CHAIN, "karras" if karras else "uniform", 13, settings)
    known = CHAIN.levels[:-1]
    if kind == "linear" or karras:
        np.testing.assert_allclose(found.sigma_edm[:-1].numpy(), scheduler.sigmas[:-1].numpy(), rtol=2e-4)
    else:  # k-diffusion's t_to_sigma
        logs = np.interp(np.linspace(999, 0, 13), np.arange(1000), known.sigma_edm.flip(0).log().numpy())
        np.testing.assert_allclose(found.sigma_edm[:-1].log().numpy(), logs, rtol=1e-9, atol=1e-9)
    if kind == "log_linear" or not karras:
        np.testing.assert_allclose(found.timestep[:-1].numpy(), scheduler.timesteps.numpy(), atol=0.05)


def test_a_whole_walk_of_euler_discrete():
    """x_t/alpha_t is walked there; float32 levels."""
    scheduler = EulerDiscreteScheduler(1000, interpolation_type="linear", timestep_spacing="linspace")
    scheduler.set_timesteps(9)
    how = SamplingConfig(solver="euler", grid="uniform", steps=9, interpolation="linear")
    x = drawn()
    end = theirs(scheduler, 9, x * float(scheduler.sigmas[0]))
    levels = how.build_levels(CHAIN)
    torch.testing.assert_close(ours(how, x * levels.sigma[0]), end, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rho", [0.5, 1.0, 2.5])
def test_polyexponential_is_k_diffusions(rho):
    """exp(ramp^rho (log sigma_max - log sigma_min) + log sigma_min), ramp from 1 to 0; 1 is the exponential grid."""
    ramp = np.linspace(1, 0, 11) ** rho
    expected = np.exp(ramp * (math.log(20) - math.log(0.1)) + math.log(0.1))
    found = (
        make_grid(SCHEDULES["edm"], "polyexponential", 11, GridSettings(sigma_max=20.0, sigma_min=0.1, rho=rho))
        .sigma[:-1]
        .numpy()
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    if rho == 1:
        np.testing.assert_allclose(
            found, make_grid(SCHEDULES["edm"], "exponential", 11, GridSettings(20.0, 0.1)).sigma[:-1].numpy(), rtol=1e-9
        )


def test_karras_takes_another_rho():
    i = np.arange(9)
    expected = (80 ** (1 / 3) + i / 8 * (0.002 ** (1 / 3) - 80 ** (1 / 3))) ** 3
    np.testing.assert_allclose(
        make_grid(SCHEDULES["edm"], "karras", 9, GridSettings(rho=3.0)).sigma[:-1].numpy(), expected, rtol=1e-9
    )


def test_s_noise_and_its_interval_are_edms():
    """Karras et al. 2022, Algorithm 2, one Euler step in place of its Heun: x̂ + sqrt(t̂² - t²) S_noise eps, inside [S_tmin, S_tmax] alone."""
    schedule, index = SCHEDULES["edm"], torch.arange(5)
    how = SamplingConfig(solver="euler", grid="karras", steps=6, churn=2.0, churn_interval=(0.05, 50.0), s_noise=1.3)
    levels = how.build_levels(schedule)
    x = y = standard_normal((2,), 0, index).double() * 80
    x = final(trajectory(x, MIXTURE, levels, how.build_solver(schedule), seed=0, index=index, s_noise=how.s_noise))
    sigma, row = make_grid(schedule, "karras", 6).sigma.tolist(), 0
    for here, there in zip(sigma, sigma[1:], strict=False):
        if 0.05 <= here <= 50:
            raised = here * (1 + min(2.0 / 6, math.sqrt(2) - 1))
            y = y + math.sqrt(raised**2 - here**2) * 1.3 * standard_normal((2,), 0, index, row, NoiseStream.RAISE)
            here, row = raised, row + 1
        level = levels[row]
        assert float(level.sigma) == pytest.approx(here, rel=1e-9)
        y = y + (there - here) * (y - MIXTURE(y, level).mean) / here
        row += 1
    torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_the_bound_of_thresholding_is_sample_max_value():
    """Saharia et al. 2022 bound the quantile from below; diffusers, from above as well."""
    scheduler = DDIMScheduler(thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=1.5)
    x = 1.2 * drawn(n=12)[..., None]
    found = dynamically_thresholded(lambda *_: Posterior(x), 0.8, 1.0, 1.5)(x, SCHEDULES["vp"](0.5)).mean
    torch.testing.assert_close(found, scheduler._threshold_sample(x))
    quantiles = x.abs().flatten(1).quantile(0.8, dim=1)
    assert 0 < (quantiles > 1.5).sum() < 12


def test_lcm_noises_x_hat_anew():
    """Song et al. 2023, Algorithm 1: x_s = alpha_s f(x_t) + sigma_s z; the last step returns f."""
    levels, x = make_grid(CHAIN, "trailing", 4), drawn()
    found, y = final(trajectory(x, denoise, levels, LCM(), seed=5, index=INDEX)), x
    for row in range(4):
        x_hat = denoise(y, levels[row]).mean
        z = standard_normal((3,), 5, INDEX, row, NoiseStream.STEP).double()
        y = levels.alpha[row + 1] * x_hat + levels.sigma[row + 1] * z if row < 3 else x_hat
    torch.testing.assert_close(found, y)
    assert SamplingConfig(solver="lcm").build_solver(CHAIN).stochastic
    one = levels[[0, 4]]  # a single step is DDIM's
    ends = [final(trajectory(x, denoise, one, solver, seed=0, index=INDEX)) for solver in (LCM(), DDIM())]
    torch.testing.assert_close(*ends)


def test_lcm_draws_from_the_data_where_x_hat_is_a_sample_of_it():
    """Of data at one point x̂ is that point, and every level it passes has the marginal N(alpha m, sigma²)."""
    levels, index, m = make_grid(CHAIN, "logsnr", 5), torch.arange(4000), 0.7
    x = standard_normal((1,), 1, index).double() * levels.sigma[0] + levels.alpha[0] * m
    for moment in trajectory(
        x, lambda x_t, level: Posterior(torch.full_like(x_t, m)), levels, LCM(), seed=2, index=index
    ):
        there = levels[moment.row + 1]
        error = 4.5 * float(there.sigma) / 4000**0.5
        assert abs(float(moment.x.mean() - there.alpha * m)) <= error + 1e-9
        assert abs(float(moment.x.std() - there.sigma)) <= error + 1e-9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": "angle", "rho": 3.0}, "karras and polyexponential"),
        ({"grid": "uniform", "steps_offset": 1}, "leading"),
        ({"grid": "leading", "steps_offset": 200, "steps": 10}, "give a smaller one"),
        ({"grid": "every", "interpolation": "linear"}, "has no interpolation"),
        ({"solver": "ddim", "lower_order_final": True}, "look back"),
        ({"solver": "dpm_single", "lower_order_final": True}, "look back"),
        ({"s_noise": 1.1}, "nothing does"),
        ({"churn_interval": (0.1, 2.0)}, "belongs to a churn"),
        ({"threshold_max": 2.0}, "belong to clip 'dynamic'"),
        ({"grid": "1", "final_sigma": "schedule"}, "take more steps"),
    ],
    ids=str,
)
def test_settings_that_would_do_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        how = SamplingConfig(**settings)
        how.build_solver(CHAIN)
        how.build_levels(CHAIN)


def test_interpolation_has_nothing_to_go_by_in_pure_noise_or_without_a_chain():
    for schedule in (CHAINS["linear-zero"], SCHEDULES["edm"]):
        with pytest.raises(ValueError, match="leave"):
            make_grid(schedule, "uniform", 7, GridSettings(interpolation="linear"))
