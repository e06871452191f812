"""A solver that is named without a grid: it walks on one that suits it, and lands where the exact flow does."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from tests.process.instances import SCHEDULES
from tests.sampling.mixtures import MIXTURE
from tests.small import tiny_model
from undiffuse.cli.main import app
from undiffuse.config import changed
from undiffuse.data.config import DataConfig
from undiffuse.models import editing
from undiffuse.models.file import save_model
from undiffuse.models.inverse_methods import InverseMethod, method_config
from undiffuse.process.levels import Level
from undiffuse.runs.prepare import prepare
from undiffuse.runs.presets import NEW_MODELS
from undiffuse.sampling.loop import final, initial, trajectory
from undiffuse.sampling.settings import OWN_ENDS, SamplingConfig
from undiffuse.sampling.solvers.registry import SOLVERS, grid_note
from undiffuse.sampling.spacings import GridSettings

N, EVALUATIONS = 100, 16
DENSITY = MixtureSameFamily(Categorical(MIXTURE.weights), MultivariateNormal(MIXTURE.means, MIXTURE.covariances))
WIDTH = math.sqrt(
    (MIXTURE.weights * MIXTURE.covariances.diagonal(dim1=1, dim2=2).sum(1)).sum().item()
)  # rms distance from a mode's centre


@lru_cache
def noise() -> torch.Tensor:
    return initial(Level(*torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)), (2,), 0, torch.arange(N)).double()


@lru_cache
def flowed(angle: float) -> torch.Tensor:
    """Where the flow takes the noise from a level of this atan2(sigma, alpha): with X = x_t / sqrt(alpha² + sigma²),
    dX/dangle = cos(angle) eps - sin(angle) x̂, by DOP853 to where sigma/alpha is 1e-4."""

    def slope(theta: float, X: np.ndarray) -> np.ndarray:
        x_t, alpha, sigma = torch.from_numpy(X.reshape(N, 2)), math.cos(theta), math.sin(theta)
        clean = MIXTURE(x_t, Level(*torch.tensor([alpha, sigma, 0.0], dtype=torch.float64))).mean
        return (alpha * (x_t - alpha * clean) / sigma - sigma * clean).numpy().ravel()

    first = (math.sin(angle) * noise()).numpy().ravel()
    return torch.from_numpy(
        solve_ivp(slope, (angle, 1e-4), first, method="DOP853", rtol=1e-8, atol=1e-8).y[:, -1].reshape(N, 2)
    )


@pytest.mark.parametrize(
    ("schedule", "own"),
    [(s, SamplingConfig()) for s in ("cosine-1000", "linear-1000", "edm")]
    + [(s, NEW_MODELS) for s in ("cosine-1000", "cosine_continuous", "flow")],
)
@pytest.mark.parametrize(
    "name", [name for name in SOLVERS if name != "adaptive"]
)  # which takes as many evaluations as it likes
def test_with_16_evaluations_every_solver_lands_on_the_modes(name, schedule, own):
    """On a model that samples as models did by default, or as new ones do.

    Deterministic solvers end, at the median, nearer than a mode is wide to where the exact flow ends from the same noise.  All are at most
    as improbable as samples of modes twice as wide, whose mean log density is lower by d/2 (2² - 1) = 3 for d = 2.
    """
    solver = SamplingConfig(solver=name).build_solver(SCHEDULES[schedule])
    how = tiny_model(sampling=own).sampling_config(solver=name, steps=EVALUATIONS // solver.evaluations)
    levels = how.build_levels(SCHEDULES[schedule])
    end = final(trajectory(noise() * levels.sigma[0], MIXTURE, levels, solver, seed=0, index=torch.arange(N)))
    exact = flowed(math.atan2(levels.sigma[0], levels.alpha[0]))
    assert DENSITY.log_prob(end).mean() > DENSITY.log_prob(exact).mean() - 3
    if not solver.stochastic:
        assert (end - exact).norm(dim=1).median() < WIDTH


def test_a_named_grid_is_obeyed_and_the_models_own_solver_keeps_its_grid():
    model = tiny_model()
    assert model.sampling_config(solver="edm", grid="trailing").grid == "trailing"
    assert model.sampling_config(solver="unipc").grid == model.config.sampling.grid
    theirs = tiny_model(sampling=SamplingConfig(solver="edm", grid="logsnr", steps=5))
    assert theirs.sampling_config(solver="edm", steps=8).grid == "logsnr"
    assert theirs.sampling_config(steps=8).grid == "logsnr"


def test_editing_and_inverse_problems_bring_it_too():
    model = tiny_model()
    assert method_config(model, InverseMethod("exact"), overrides={"solver": "edm"}).grid == "karras"
    values = torch.rand(1, 1, 8, 8) * 16
    ends = [
        editing.vary(model, values, 1.0, 1, solver="dpm2", steps=6, **grid).values for grid in ({}, {"grid": "karras"})
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize(("options", "said"), [([], True), (["--grid", "angle"], False)])
def test_the_command_says_which_grid_a_solver_brings(tmp_path, capsys, options, said):
    model = tiny_model()
    weights = dict(model.denoiser.named_parameters())
    save_model(tmp_path / "model.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()})
    app(["sample", str(tmp_path), "-n", "1", "--solver", "edm", "--steps", "2", *options], standalone_mode=False)
    assert ("note: edm samples on the grid karras" in capsys.readouterr().out) is said


@pytest.mark.parametrize("solver", [name for name, entry in SOLVERS.items() if entry.grid])
def test_a_solver_that_a_run_is_told_brings_its_grid_too(tmp_path, solver):
    def grid(**settings):
        chosen = {f"sampling.{name}": value for name, value in settings.items()}
        return prepare(DataConfig(source="digits"), tmp_path / "r", settings=chosen).config.design.sampling.grid

    assert grid(solver=solver) == SOLVERS[solver].grid
    assert grid(solver=solver, grid="trailing") == "trailing"
    assert grid() == NEW_MODELS.grid


def test_a_grid_that_may_not_suit_is_noted():
    assert "on the grid angle its samples may be noise" in grid_note("dpm2", "angle", "unipc")
    assert "samples on the grid karras" in grid_note("edm", None, "unipc")
    assert (
        grid_note("dpm2", "logsnr", "unipc")
        is grid_note("unipc", "angle", "ddim")
        is grid_note("edm", None, "edm")
        is None
    )


def test_another_solver_takes_none_of_the_settings_of_the_models_own():
    own = SamplingConfig(solver="sa", order=3, eta=0.5, steps=5)
    how = tiny_model(sampling=own).sampling_config(solver="heun")
    assert (how.solver, how.order, how.eta) == ("heun", None, None)
    assert tiny_model(sampling=own).sampling_config(solver="sa") == own


def test_another_grid_takes_none_of_the_ends_of_the_models_own():
    own = SamplingConfig(grid="karras", sigma_min=0.1, sigma_max=10.0, rho=3.0, final_sigma="schedule", steps=5)
    how = tiny_model(sampling=own).sampling_config(grid="logsnr")
    assert how == SamplingConfig(grid="logsnr", steps=5)
    assert tiny_model(sampling=own).sampling_config(grid="karras") == own
    assert OWN_ENDS.keys() == {field.name for field in fields(GridSettings)} | {"final_sigma"}


def test_another_clipping_takes_none_of_the_thresholds_of_the_models_own():
    own = SamplingConfig(clip="dynamic", threshold_quantile=0.9, threshold_max=2.0, steps=5)
    assert tiny_model(sampling=own).sampling_config(clip="range") == SamplingConfig(steps=5)
    assert tiny_model(sampling=own).sampling_config(clip="dynamic") == own


def test_a_grid_or_steps_that_are_named_replace_levels_that_were_fitted():
    fitted = changed(SamplingConfig(), {"grid": "aligned", "logsnrs": [-4.0, 0.0, 3.0]})
    model = tiny_model(sampling=fitted)
    assert model.sampling_config().logsnrs == fitted.logsnrs
    assert model.sampling_config(solver="ddim").logsnrs == fitted.logsnrs
    for named in ({"grid": "karras"}, {"steps": 7}, {"solver": "edm"}):
        assert model.sampling_config(**named).logsnrs is None
    assert model.sampling_config(solver="edm").grid == "karras"
