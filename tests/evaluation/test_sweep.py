"""Sweeps: what is counted and compared, the front against its definition, and a setting kept in the model."""

from __future__ import annotations

import json
import math

import pytest
import torch

from tests.small import TINY_SETTINGS, tiny_model
from undiffuse.cli.main import app
from undiffuse.config import changed
from undiffuse.data.config import DataConfig
from undiffuse.errors import UsageError
from undiffuse.evaluation import sweep as sweep_module
from undiffuse.evaluation.jackknife import Estimate
from undiffuse.evaluation.sweep import Sweep, Tried, settings_for, sweep
from undiffuse.evaluation.sweep_report import sweep_table
from undiffuse.models.file import load, read_file, store_sampling
from undiffuse.runs.data import run_data
from undiffuse.runs.prepare import prepare
from undiffuse.sampling.settings import SamplingConfig


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "r"
    settings = TINY_SETTINGS | {"training.steps": 4, "training.budget": None, "training.batch_size": 8}
    made = prepare(DataConfig(source="digits"), folder, settings=settings).run()
    for _ in made.updates():
        pass
    return folder


def test_evaluations_are_counted_and_the_reference_is_at_no_distance_from_itself():
    model = tiny_model()
    reference = sweep_module.PLAIN_SETTINGS | {"solver": "adams", "grid": "angle_beta", "steps": 100}
    settings = [
        *settings_for(model, ["heun", "adams", "ddpm"], ["trailing"], [5], None),
        *settings_for(model, ["ddim"], ["aligned"], [6], None),
        reference,
    ]
    swept = sweep(model, settings, n=8, conditions={"class": "dog"})
    assert [t.evaluations for t in swept.tried] == [9, 5, 5, 6, 100]
    assert swept.reference == 100  # as many as the chain has levels
    distances = [t.to_reference for t in swept.tried]
    assert distances[4] == 0
    assert distances[2] is None
    assert all(d > 0 for d in distances[:2])
    assert len(swept.tried[3].sampling.logsnrs) == 6


def test_distances_are_medians_of_root_mean_squares():
    model = tiny_model()
    settings = settings_for(model, ["ddim"], ["uniform"], [4], None)
    data = torch.rand(30, 1, 8, 8) * 2 - 1
    tried = sweep(model, settings, n=9, data=data).tried[0]
    ends = [
        list(model.trajectory(9, solver=solver, grid=grid, steps=steps))[-1].x.double()
        for solver, grid, steps in (("ddim", "uniform", 4), ("adams", "angle_beta", 100))
    ]
    rms = sorted((ends[0] - ends[1]).flatten(1).pow(2).mean(1).sqrt().tolist())
    assert tried.to_reference == pytest.approx(rms[4], rel=1e-9)
    assert tried.score.value > 0


def test_the_front_is_what_nothing_cheaper_beats():
    how = SamplingConfig()
    generator = torch.Generator().manual_seed(0)
    points = [
        (int(torch.randint(1, 9, (), generator=generator)), float(torch.rand((), generator=generator)))
        for _ in range(40)
    ]
    swept = Sweep(tuple(Tried(how, cost, 1.0, error, None) for cost, error in points), 4, 100, 2)
    expected = sorted(
        {(c, e) for c, e in points if not any((a < c and b <= e) or (a == c and b < e) for a, b in points)}
    )
    assert [(t.evaluations, t.to_reference) for t in swept.front()] == expected
    for tolerance in (0.0, 0.05, 0.2, 1.0):
        chosen = swept.recommended(tolerance)
        near = [(c, e) for c, e in points if e <= tolerance]
        assert chosen.evaluations == (min(c for c, _ in near) if near else expected[-1][0])
    noisy = Sweep((Tried(how, 3, 1.0, None, 0.5),), 4, 100, 2)
    assert noisy.front() == []
    assert noisy.recommended(1.0) is None


def test_a_stored_setting_is_the_models_default_and_the_weights_stay(run):
    path = run / "model.safetensors"
    before = read_file(path)[1]
    how = changed(load(run).config.sampling, {"solver": "unipc", "grid": "aligned", "logsnrs": [-4.0, 0.0, 3.0]})
    store_sampling(path, how)
    config, after = read_file(path)
    assert config.sampling == how
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(list(load(run).trajectory(2))) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [({"solver": "rk"}, "choose one"), ({"grid": "even"}, "choose one"), ({"steps": 101}, "at most that many")],
)
def test_a_setting_that_cannot_work_is_found_before_anything_runs(change, words):
    model = tiny_model()
    good = settings_for(model, ["ddim"], ["uniform"], [3], None)[0]
    with pytest.raises(ValueError, match=words):
        sweep(model, [good, good | change], n=4, progress=lambda done, total: pytest.fail("it ran"))
    with pytest.raises(ValueError, match="at least 2"):
        sweep(model, [good], n=1)


def test_the_command_writes_a_picture_numbers_and_what_to_type_next(run, capsys):
    app(
        [
            "sweep",
            str(run),
            "--solvers",
            "adams,ddim",
            "--grids",
            "angle_beta,aligned",
            "--step-counts",
            "3,5",
            "-n",
            "6",
            "--save-default",
        ],
        standalone_mode=False,
    )
    printed = capsys.readouterr().out
    folder = run / "sweep" / "001"
    assert (folder / "sweep.png").stat().st_size > 10_000
    content = json.loads((folder / "sweep.json").read_text())
    assert len(content["tried"]) == 8
    assert all(math.isfinite(t["to_data"]) for t in content["tried"])
    assert "recommended" in printed
    assert "undiffuse sample" in printed
    kept = load(run).config.sampling
    assert (kept.solver, kept.grid, kept.steps) == tuple(
        content["recommended"][name] for name in ("solver", "grid", "steps")
    )


def of(score: float, *without: float) -> Estimate:
    return Estimate(score, without)


def test_by_score_the_cheapest_is_chosen_that_the_samples_do_not_tell_from_the_lowest():
    """One standard error of the difference, in which what two settings share drops out: two blocks d_1, d_2 apart have |d_1 - d_2|/2."""
    how = SamplingConfig()
    far = Tried(how, 4, 1.0, 0.3, of(2.0, 1.0, 3.0))  # 1 ± 0 above the lowest: its own error of 1 would hide that
    near = Tried(how, 8, 1.0, 0.2, of(1.1, 0.0, 2.2))  # 0.1 ± 0.1 above it
    lowest = Tried(how, 16, 1.0, 0.1, of(1.0, 0.0, 2.0))
    unscored = Tried(how, 2, 1.0, 0.0, None)
    assert Sweep((far, near, lowest, unscored), 4, 100, 2).best_score() is near
    assert Sweep((far, lowest, unscored), 4, 100, 2).best_score() is lowest
    assert Sweep((unscored,), 4, 100, 2).best_score() is None


def test_a_score_against_fewer_examples_than_four_to_a_direction_is_told_to_be_unsure():
    assert Sweep((), 100, 100, 25, None, 20).few
    assert not Sweep((), 100, 100, 25, None, 100).few
    tried = Tried(SamplingConfig(), 2, 1.0, 0.0, of(1.0))
    lines = " ".join(
        sweep_table(
            Sweep((tried,), 100, 100, 25, of(0.1), 20), tried, tried, ("held-out examples", "training examples")
        )
    )
    for words in (
        "to 20 held-out examples in 25 random",
        "floor: 0.1, of 100 training examples",
        "20 examples are few to score",
        "100 or more",
    ):
        assert words in lines


def test_a_score_is_of_samples_as_they_are_given_against_real_examples():
    """Samples are rounded and clipped like the data; the score of the data itself is 0."""
    model = tiny_model()
    settings = settings_for(model, ["ddim"], ["uniform"], [4], None, [None, 0.5])
    assert [s["sigma_min"] for s in settings] == [None, 0.5]
    given = [
        model.codec.encode(model.sample(12, solver="ddim", grid="uniform", steps=4, **last))
        for last in ({}, {"sigma_min": 0.5})
    ]
    for data, scores in zip(given, ((0.0, 1.0), (1.0, 0.0)), strict=True):
        swept = sweep(model, settings, n=12, data=data, others=data)
        assert [t.score.value > 1e-6 for t in swept.tried] == [bool(score) for score in scores]
        assert swept.floor.value == pytest.approx(0, abs=1e-6)
        assert len(swept.floor.without) == 12


def test_an_aligned_grid_has_a_last_level_of_its_own():
    settings = settings_for(tiny_model(), ["ddim"], ["aligned", "angle"], [4], None, [0.1, 0.2])
    assert [(s["grid"], s["sigma_min"]) for s in settings] == [("aligned", None), ("angle", 0.1), ("angle", 0.2)]


def test_the_command_scores_against_held_out_examples_and_keeps_by_what_is_asked(run, capsys):
    options = [
        "--solvers",
        "adams,ddpm",
        "--grids",
        "angle",
        "--sigma-mins",
        "0.1,0.3",
        "--step-counts",
        "3",
        "-n",
        "8",
    ]
    for by in ("score", "flow"):
        app(["sweep", str(run), *options, "--by", by, "--save-default"], standalone_mode=False)
        content = json.loads(sorted((run / "sweep").iterdir())[-1].joinpath("sweep.json").read_text())
        assert content["by"] == by
        assert content["recommended"] == content["recommended_by"][by]
        kept = load(run).config.sampling
        assert [kept.solver, kept.sigma_min] == [content["recommended"][name] for name in ("solver", "sigma_min")]
    printed = capsys.readouterr().out
    assert "floor: " in printed
    assert "held-out examples in " in printed
    assert "training examples" in printed
    assert "±" in printed
    assert content["floor"]["to_data"] > 0
    assert all(t["to_data_error"] > 0 for t in content["tried"])
    assert [t["to_reference"] is None for t in content["tried"]] == [False, False, True, True]
    with pytest.raises(UsageError, match="choose flow or score"):
        app(["sweep", str(run), "--by", "speed"], standalone_mode=False)


def test_training_examples_take_no_part_in_the_score(run, monkeypatch):
    """What samples are scored against is what the run held out, all of it and nothing else."""
    seen = {}

    def asked(model, settings, **told):
        seen.update(told)
        raise UsageError("seen enough")

    monkeypatch.setattr(sweep_module, "sweep", asked)
    with pytest.raises(UsageError, match="seen enough"):
        app(["sweep", str(run), "--solvers", "ddim", "-n", "8"], standalone_mode=False)
    known = run_data(run)
    codec = load(run).codec
    held, training = (codec.encode(known.data[rows].values).flatten(1) for rows in (known.held_out, known.training))
    assert len(seen["data"]) == len(held)
    assert (torch.cdist(seen["data"].flatten(1), held).amin(1) == 0).all()
    assert (torch.cdist(seen["others"].flatten(1), training).amin(1) == 0).all()


def test_training_that_goes_on_keeps_how_the_model_samples(tmp_path):
    """A setting that was kept, or what was usual when the run began, is not replaced by what new models sample with."""

    def go_on(**more):
        told = {name.replace("_", ".", 1): value for name, value in more.items()}
        settings = TINY_SETTINGS | {"training.budget": None, "training.batch_size": 8} | told
        for _ in prepare(DataConfig(source="digits"), tmp_path, settings=settings).run().updates():
            pass
        return load(tmp_path).config.sampling

    kept = changed(go_on(training_steps=1), {"solver": "ddim", "grid": "karras", "steps": 7})
    store_sampling(tmp_path / "model.safetensors", kept)
    assert go_on(training_steps=2) == kept
    assert go_on(training_steps=2) == kept
    assert go_on(training_steps=3, sampling_steps=9) == changed(kept, {"steps": 9})
