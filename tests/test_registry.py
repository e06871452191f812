"""Registries: one call each, nothing taken twice, entry points imported only when their name is needed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import undiffuse
from tests.small import TINY_SETTINGS, tiny_model
from undiffuse.conditioning.conditions import CONDITIONS
from undiffuse.data.sources import FILE_KINDS, SOURCES
from undiffuse.errors import UsageError
from undiffuse.networks.building import NETWORKS
from undiffuse.process.config import SCHEDULES, ScheduleConfig
from undiffuse.process.forward import add_noise
from undiffuse.process.oracles import Mixture
from undiffuse.process.schedules import CONTINUOUS, Cosine
from undiffuse.registry import Registry
from undiffuse.runs.design import Design
from undiffuse.sampling.grids import GRIDS, make_grid
from undiffuse.sampling.guidance import GUIDANCE_METHODS, classifier_free
from undiffuse.sampling.settings import SamplingConfig
from undiffuse.sampling.solvers.ancestral import DDIM
from undiffuse.sampling.solvers.registry import SOLVERS, Settings, make_solver
from undiffuse.training.objectives import LOSS_WEIGHTS, OBJECTIVES
from undiffuse.training.settings import TrainingConfig

ALL = (CONDITIONS, FILE_KINDS, GRIDS, GUIDANCE_METHODS, LOSS_WEIGHTS, NETWORKS, OBJECTIVES, SCHEDULES, SOLVERS, SOURCES)


@pytest.mark.parametrize("time", ["first", "second"])
def test_what_a_test_registers_is_gone_after_it(time, registries):
    """The other parameter would find the name taken (tests/conftest.py)."""
    assert {id(each) for each in registries} >= {id(each) for each in ALL}
    for registry in ALL:
        registry.register("left_behind", Mixture)


def test_a_name_taken_twice_is_refused_and_says_by_whom():
    registry = Registry("solver", "undiffuse.none", {"a": DDIM})
    registry.register("b", Mixture)
    with pytest.raises(UsageError, match=r"taken.*by undiffuse\.process\.oracles\.Mixture"):
        registry.register("b", Cosine)
    with pytest.raises(UsageError, match=r"taken.*by undiffuse"):
        registry.register("a", Mixture)
    assert (registry["b"], registry["a"]) == (Mixture, DDIM)


def test_a_class_that_is_defined_again_at_the_prompt_takes_its_own_place_and_no_others():
    registry = Registry("solver", "undiffuse.none")
    first, second, other = (type(name, (), {"__module__": "__main__"}) for name in ("Mine", "Mine", "Other"))
    registry.register("mine", first)
    registry.register("mine", second)
    assert registry["mine"] is second
    with pytest.raises(UsageError, match="taken"):
        registry.register("mine", other)


@pytest.mark.parametrize("name", ["", "two words", "a,b", "a=b", 3])
def test_names_that_options_could_not_say_are_refused(name):
    with pytest.raises(UsageError, match="cannot be the name"):
        Registry("solver", "undiffuse.none").register(name, DDIM)


@pytest.mark.parametrize(
    ("make", "near"),
    [
        (lambda: make_solver("huen", Settings(), Cosine()), "heun"),
        (lambda: make_grid(Cosine(), "karas", 4), "karras"),
        (lambda: ScheduleConfig(name="cosin").build(), "cosine"),
        (lambda: SamplingConfig(guidance_method="cgf"), "cfg"),
        (lambda: TrainingConfig(steps=1, objective="hybird"), "hybrid"),
        (lambda: TrainingConfig(steps=1, weight="minsnr"), "min_snr"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(make, near):
    with pytest.raises(ValueError, match=f"there is no .*did you mean '{near}'"):
        make()


def test_a_solver_of_ones_own_samples_as_what_it_is_made_of():
    model = tiny_model()
    undiffuse.register_solver("mine", DDIM, settings={"eta": 0.5}, what="a test's")
    expected = model.sample(3, solver="ddim", steps=4, eta=0.5, grid="trailing")
    assert torch.equal(model.sample(3, solver="mine", steps=4, grid="trailing"), expected)
    assert torch.equal(
        model.sample(3, solver="mine", steps=4, eta=0.0, grid="trailing"),
        model.sample(3, solver="ddim", steps=4, grid="trailing"),
    )
    with pytest.raises(UsageError, match="corrections"):
        model.sample(1, solver="mine", corrections=2)
    with pytest.raises(UsageError, match="no setting 'churn'"):
        undiffuse.register_solver("other", DDIM, settings={"churn": 0.5})


class Odd(DDIM):
    """A solver with one thing wrong."""

    wrong = "nothing"

    def plan(self, levels):
        rows = super().plan(levels)
        return {"plan": rows[:-1], "no plan": None}.get(self.wrong, rows)

    def step(self, x_t, denoise, row, noise, state):
        step = super().step(x_t, denoise, row, noise, state)
        return {
            "tensor": step.x,
            "one row": replace(step, x=step.x[:1]),
            "double": replace(step, x=step.x.double()),
            "posterior": replace(step, posterior=None),
        }.get(self.wrong, step)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("nothing", ""),
        ("plan", "a sequence of 4 rows"),
        ("no plan", "None, and has to be a sequence of 4 rows"),
        ("tensor", "returned a Tensor: `step` returns a Step"),
        ("one row", r"returned x as \(1, .* and x_t is \(3, "),
        ("double", "of torch.float64, and x_t"),
        ("posterior", "returned posterior.mean as NoneType"),
    ],
)
def test_what_a_solver_of_ones_own_returns_is_checked(wrong, words):
    solver = type("Odd", (Odd,), {"wrong": wrong, "__module__": __name__})
    undiffuse.register_solver("odd", solver)
    if not words:
        assert len(tiny_model().sample(3, solver="odd", steps=4, grid="trailing")) == 3
        return
    with pytest.raises(UsageError, match=f"solver Odd.*{words}"):
        tiny_model().sample(3, solver="odd", steps=4, grid="trailing")


@pytest.mark.parametrize("betas", [lambda T: torch.full((T - 1,), 0.1), lambda T: [0.1] * T, lambda T: None])
def test_a_schedule_of_ones_own_has_as_many_betas_as_it_should(betas):
    undiffuse.register_schedule("short", betas=betas)
    with pytest.raises(UsageError, match=r"the schedule 'short' makes .* for T = 5: it returns a tensor of 5 betas"):
        ScheduleConfig(name="short", T=5).build()


def test_a_grid_of_ones_own_is_the_table_that_it_returns():
    schedule = CONTINUOUS["vp"]()

    def halves(schedule, steps):
        return schedule(schedule.t_max * 0.5 ** torch.arange(steps)).and_clean()

    undiffuse.register_grid("halves", halves)
    assert torch.equal(make_grid(schedule, "halves", 5).logsnr, halves(schedule, 5).logsnr)
    undiffuse.register_grid("upside_down", lambda schedule, steps: schedule(torch.linspace(0.1, 1, steps)).and_clean())
    undiffuse.register_grid("open", lambda schedule, steps: schedule(torch.linspace(1, 0.1, steps)))
    for name, words in (("upside_down", "noisiest first"), ("open", "clean")):
        with pytest.raises(UsageError, match=words):
            make_grid(schedule, name, 3)
    for name in ("aligned", "ddim50", "10,5"):
        with pytest.raises(UsageError, match="name"):
            undiffuse.register_grid(name, halves)


def test_schedules_of_ones_own_have_their_levels():
    undiffuse.register_schedule("flat", betas=lambda T: torch.full((T,), 0.1, dtype=torch.float64))
    chain = ScheduleConfig(name="flat", T=5).build()
    assert torch.allclose(chain.levels.alpha[:-1] ** 2, 0.9 ** torch.arange(5, 0, -1, dtype=torch.float64))
    undiffuse.register_schedule("own_cosine", schedule=Cosine)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    torch.testing.assert_close(ScheduleConfig(name="own_cosine", shift=1.0).build()(t).logsnr, Cosine()(t).logsnr + 1.0)
    with pytest.raises(UsageError, match="not made from a range"):
        ScheduleConfig(name="flat", beta_end=0.5).build()
    for settings in ({}, {"betas": len, "schedule": Cosine}):
        with pytest.raises(UsageError, match="give one of them"):
            undiffuse.register_schedule("neither", **settings)


def test_a_guidance_method_of_ones_own_guides():
    model = tiny_model()
    undiffuse.register_guidance("twice", lambda pair, scale: classifier_free(pair, 2 * scale - 1))
    told = {"conditions": {"class": "cat"}, "steps": 3}
    assert torch.equal(
        model.sample(2, guidance=2.0, guidance_method="twice", **told), model.sample(2, guidance=3.0, **told)
    )
    assert torch.equal(model.sample(2, guidance=1.0, guidance_method="twice", **told), model.sample(2, **told))
    with pytest.raises(UsageError, match="belong to the method apg"):
        model.sample(2, guidance=2.0, guidance_method="twice", apg_momentum=-0.5, **told)


PACKAGE = """
import undiffuse
from undiffuse.sampling.solvers.ancestral import DDIM
undiffuse.register_solver("packed", DDIM)
"""
WATCHING = """
import sys
from undiffuse.sampling.solvers.registry import SOLVERS, own_grid
assert "ddim" in SOLVERS and "packed" in SOLVERS.names() and "packed_module" not in sys.modules
try:
    SOLVERS["pakced"]
except ValueError as error:
    assert "did you mean 'packed'" in str(error), error
assert "packed_module" not in sys.modules
assert SOLVERS["packed"].make is not None and "packed_module" in sys.modules
for name, words in (("broken", "cannot be imported"), ("silent", "does not")):
    try:
        SOLVERS[name]
    except ValueError as error:
        assert words in str(error) and "packed-solvers" in str(error), error
    else:
        raise AssertionError(name)
"""


def test_entry_points_are_found_and_imported_only_when_their_name_is_needed(tmp_path):
    """A package as pip would install it: a module and its metadata on the path."""
    info = tmp_path / "packed_solvers-1.0.dist-info"
    info.mkdir()
    (tmp_path / "packed_module.py").write_text(PACKAGE)
    (tmp_path / "silent_module.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: packed-solvers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[undiffuse.solvers]\npacked = packed_module\nbroken = no_such_module\nsilent = silent_module\n"
    )
    paths = [str(tmp_path), str(Path(undiffuse.__file__).parents[1])]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{WATCHING}"], check=True)


def test_an_objective_and_a_weight_of_ones_own_train_as_what_they_copy(tmp_path):
    def plain(denoise, x, eps, level, weight):
        error = (denoise(add_noise(x, level, eps), level).mean - x) ** 2
        return error.flatten(1).mean(1) * weight(level).to(x)

    undiffuse.register_objective("plain", plain)
    undiffuse.register_loss_weight("half_snr", lambda level: level.snr / 2)
    undiffuse.register_loss_weight("half_snr_again", lambda level: level.snr / 2)
    weights = {}
    for name, training in {
        "own": {"objective": "plain", "weight": "half_snr"},
        "simple": {"objective": "simple", "weight": "half_snr_again"},
    }.items():
        model = undiffuse.train(
            "digits", name=name, runs=tmp_path, settings=TINY_SETTINGS, steps=3, batch_size=8, held_out=0.5, **training
        )
        weights[name] = torch.cat([p.flatten() for p in model.denoiser.parameters()])
    assert torch.equal(weights["own"], weights["simple"])
    with pytest.raises(ValueError, match="not trained by the objective 'plain'"):
        Design(variance_type="learned", training=TrainingConfig(steps=1, objective="plain"))
