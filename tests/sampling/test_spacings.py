"""Grids that place their own levels: every one against its definition, at every number of steps, and with other ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from scipy import stats

from tests.process.instances import CHAINS, SCHEDULES
from undiffuse.process.betas import linear_betas
from undiffuse.process.chains import Chain
from undiffuse.sampling.grids import make_grid
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.sampling.spacings import SPACINGS, GridSettings

LENGTHS = (10, 37, 1000, 4000)
LINEAR = {T: Chain(linear_betas(T) if T > 20 else torch.full((T,), 0.3)) for T in LENGTHS}
WHOLE = ("uniform", "trailing", "leading")
PLACED = [name for name in SPACINGS if name not in ("linspace", "exponential")]  # other names of two of them


def half_even(top: np.ndarray, bottom: int) -> np.ndarray:
    """round(top/bottom) of whole numbers, halves to the even one."""
    whole, rest = top // bottom, top % bottom
    return whole + ((2 * rest > bottom) | ((2 * rest == bottom) & (whole % 2 == 1)))


def defined(spacing: str, T: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices by whole-number arithmetic, and where the definition lies half way between two of them."""
    k = np.arange(n)
    if spacing == "leading":
        return (n - 1 - k) * (T // n), np.zeros(n, dtype=bool)
    top, bottom, less = (T * (n - k), n, 1) if spacing == "trailing" else ((T - 1) * (n - 1 - k), max(1, n - 1), 0)
    if spacing == "uniform" and n == 1:
        return np.array([T - 1]), np.array([False])
    return half_even(top, bottom) - less, 2 * (top % bottom) == bottom


def test_trailing_as_lin_et_al_and_diffusers_have_it():
    assert make_grid(LINEAR[1000], "trailing", 16).timestep.tolist() == [
        999,
        937,
        874,
        811,
        749,
        687,
        624,
        561,
        499,
        437,
        374,
        311,
        249,
        187,
        124,
        61,
        -1,
    ]


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("spacing", WHOLE)
def test_indices_are_the_definitions_and_diffusers_at_every_number_of_steps(spacing, T):
    """Half way between two indices: trailing takes the even count, as its code does; of uniform either is nearest, and NumPy's
    rounding errors in its own halves are diffusers'."""
    theirs = DDIMScheduler(T, timestep_spacing={"uniform": "linspace"}.get(spacing, spacing))
    for n in range(1, min(T, 1000) + 1):
        label = make_grid(LINEAR[T], spacing, n).timestep[:-1].numpy()
        expected, half = defined(spacing, T, n)
        allowed = half & (spacing == "uniform")
        assert np.array_equal(label[~allowed], expected[~allowed])
        assert np.abs(label - expected).max() <= allowed.any()
        if n > 1:  # of one step, NumPy's linspace from 0 has the clean end
            theirs.set_timesteps(n)
            other = theirs.timesteps.numpy()[:n]  # for some n, NumPy's arange of fractions has one too many
            assert np.array_equal(label[~half], other[~half])
            assert np.abs(label - other).max() <= half.any()


def own_ends(schedule) -> tuple[float, float]:
    most, least = schedule([schedule.t_max, schedule.t_min]).sigma_edm.tolist()
    return most, least


@pytest.mark.parametrize("T", LENGTHS)
def test_levels_between_indices_are_the_definitions_at_every_number_of_steps(T):
    chain = LINEAR[T]
    most, least = own_ends(chain)
    high, low, top, bottom = min(80, most), max(0.002, least), math.atan(most), math.atan(max(0.002, least))
    for n in range(1, min(T, 1000) + 1, 1 if T < 100 else 27):
        part = np.arange(n) / max(1, n - 1)
        angles = top * (1 - np.arange(n) / n)
        expected = {
            "karras": (high ** (1 / 7) + part * (low ** (1 / 7) - high ** (1 / 7))) ** 7,
            "logsnr": high * (low / high) ** part,
            "angle": np.tan(angles if angles[-1] >= bottom else top + part * (bottom - top)),
            "angle_beta": np.tan(bottom + (top - bottom) * stats.beta.ppf(1 - np.arange(n) / n, 0.5, 0.7)),
        }
        for spacing, ratio in expected.items():
            found = make_grid(chain, spacing, n).sigma_edm[:-1].numpy()
            # quantiles are interpolated between 4,097 of them: 1e-5 of the angle, which counts for most near a right one
            np.testing.assert_allclose(
                np.arctan(found), np.arctan(ratio), rtol=1e-9, atol=2e-5 if spacing == "angle_beta" else 1e-12
            )
        times = make_grid(chain, "beta", n).timestep[:-1].numpy()
        np.testing.assert_allclose(times, (T - 1) * stats.beta.ppf(1 - np.arange(n) / n, 0.6, 0.6), atol=1e-5 * T)


@pytest.mark.parametrize("name", ["linear-1000", "linear-zero", "vp", "flow", "edm", "ve", "cosine_continuous"])
@pytest.mark.parametrize("spacing", PLACED)
def test_every_grid_starts_and_ends_at_the_noise_that_is_asked_for(spacing, name):
    schedule = SCHEDULES[name]
    for n in (2, 5, 16):
        levels = make_grid(schedule, spacing, n, GridSettings(sigma_max=30.0, sigma_min=0.07))
        assert len(levels) == n + 1
        assert (levels.logsnr.diff() > 0).all()
        assert (levels.sigma[-1], levels.alpha[-1]) == (0, 1)
        ends = levels.sigma_edm[[0, -2]]
        if isinstance(schedule, Chain) and spacing in (*WHOLE, "time_uniform"):
            assert torch.equal(levels.timestep, levels.timestep.round())
            wanted = schedule.at(-2 * torch.tensor([30.0, 0.07], dtype=torch.float64).log())
            # trailing rounds index + 1, so a half may fall to the other side
            assert (levels.timestep[[0, -2]] - wanted).abs().max() <= 0.5
        else:
            torch.testing.assert_close(ends, torch.tensor([30.0, 0.07], dtype=torch.float64), rtol=1e-8, atol=0)


@pytest.mark.parametrize("spacing", PLACED)
@pytest.mark.parametrize("name", SCHEDULES)
def test_one_end_leaves_the_other_and_a_schedules_own_range_is_the_most(spacing, name):
    schedule = SCHEDULES[name]
    if isinstance(schedule, Chain) and len(schedule) < 30:
        return
    own, most = make_grid(schedule, spacing, 4), own_ends(schedule)[0]
    between = float(own.sigma_edm[1])
    later = make_grid(schedule, spacing, 4, GridSettings(sigma_min=between))
    torch.testing.assert_close(later.alpha[0], own.alpha[0], rtol=1e-9, atol=1e-12)
    earlier = make_grid(schedule, spacing, 4, GridSettings(sigma_max=between))
    torch.testing.assert_close(earlier.alpha[-2], own.alpha[-2], rtol=1e-9, atol=1e-12)
    full = make_grid(schedule, spacing, 4, GridSettings(sigma_max=1e5, sigma_min=0.0))
    assert full.sigma_edm[0] <= most * (1 + 1e-9)
    torch.testing.assert_close(full.sigma_edm[-2], schedule(schedule.t_min).sigma_edm, rtol=1e-6, atol=0)


def test_ddpms_chain_can_be_walked_from_its_noisiest_level():
    """alpha-bar of 1000 linear betas ends at 4.04e-5, so sigma/alpha at sqrt(1/4.04e-5 - 1) = 157.4, which 80 cuts in half."""
    end = float(np.prod(1 - np.linspace(1e-4, 0.02, 1000)))
    for spacing in ("karras", "logsnr"):
        assert make_grid(LINEAR[1000], spacing, 10).sigma_edm[0] == pytest.approx(80)
        levels = make_grid(LINEAR[1000], spacing, 10, GridSettings(sigma_max=1000.0))
        assert levels.sigma_edm[0] == pytest.approx(math.sqrt(1 / end - 1), rel=1e-9)
        assert levels.timestep[0] == 999


def test_other_ends_are_karras_formula():
    """Equation 5 with sigma_max = 20, sigma_min = 0.1."""
    i = torch.arange(12, dtype=torch.float64)
    expected = (20 ** (1 / 7) + i / 11 * (0.1 ** (1 / 7) - 20 ** (1 / 7))) ** 7
    levels = make_grid(SCHEDULES["edm"], "karras", 12, GridSettings(sigma_max=20.0, sigma_min=0.1))
    torch.testing.assert_close(levels.sigma[:-1], expected, rtol=1e-10, atol=0)


def test_ends_that_cannot_be_are_refused():
    chain = CHAINS["linear-1000"]
    with pytest.raises(ValueError, match="smaller sigma_min"):
        make_grid(chain, "leading", 5, GridSettings(sigma_min=150.0))
    with pytest.raises(ValueError, match="larger sigma_max"):
        make_grid(chain, "trailing", 4, GridSettings(sigma_max=0.5, interpolation="linear"))
    with pytest.raises(ValueError, match="at most that many steps"):
        make_grid(chain, "uniform", 700, GridSettings(sigma_min=2.0))
    for grid in ("every", "ddim50"):
        with pytest.raises(ValueError, match="has no sigma_min"):
            make_grid(chain, grid, 5, GridSettings(sigma_min=0.1))
    with pytest.raises(ValueError, match="swap"):
        SamplingConfig(sigma_min=3.0, sigma_max=2.0)
    with pytest.raises(ValueError, match="has no sigma_max"):
        SamplingConfig(grid="aligned", logsnrs=(-3.0, 1.0), sigma_max=50.0).build_levels(chain)


def test_the_settings_reach_the_table():
    levels = SamplingConfig(grid="karras", steps=9, sigma_max=100.0, sigma_min=0.05).build_levels(CHAINS["linear-1000"])
    assert levels.sigma_edm[[0, -2]].tolist() == pytest.approx([100.0, 0.05])
