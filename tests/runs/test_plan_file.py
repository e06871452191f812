"""The plan: what is decided is written with its rule, followed to the letter, and nobody but the training examples trains."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.data.config import DataConfig
from undiffuse.errors import UsageError
from undiffuse.runs.plan_file import Expected, PlanFile, measured
from undiffuse.runs.prepare import prepare
from undiffuse.runs.presets import AT_ONCE_ON_A_CPU, small_data
from undiffuse.training.learners import DenoiserLearner

RNG = np.random.default_rng(0)


@pytest.fixture
def pictures(tmp_path):
    """Forty pictures of two classes, each of one grey of its own."""
    for k in range(40):
        folder = tmp_path / "data" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 6 * k, np.uint8) + RNG.integers(0, 2, (8, 8), np.uint8)).save(
            folder / f"{k:02d}.png"
        )
    return tmp_path / "data"


def options(settings):
    return [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]


def decided(path):
    content = json.loads(path.read_text())
    return content["data"], content["conditions"], content["design"]


def test_inspect_and_train_make_the_same_plan_and_it_is_followed(run, tmp_path, pictures):
    code, out = run("inspect", "data", "--size", "8")
    assert code == 0, out
    assert "expected" in out
    plan = tmp_path / "inspected" / "data" / "plan.json"
    short = ["--train-steps", "2"]
    assert run("train", "data", "--size", "8", *short, "--name", "a")[0] == 0
    assert run("train", "--plan", str(plan), *short, "--name", "b")[0] == 0
    assert decided(tmp_path / "runs" / "a" / "plan.json") == decided(tmp_path / "runs" / "b" / "plan.json")
    data, conditions, design = decided(plan)
    assert data == decided(tmp_path / "runs" / "a" / "plan.json")[0]
    assert conditions == {"class": data and conditions["class"]}
    design["training"]["steps"] = 2
    assert design == decided(tmp_path / "runs" / "a" / "plan.json")[2]
    config = json.loads((tmp_path / "runs" / "b" / "config.json").read_text())
    assert (config["data"], config["conditions"], config["design"]) == (data, conditions, design)
    for name in ("network", "training", "split", "sampling"):
        assert name in json.loads(plan.read_text())["because"]


def test_what_is_edited_in_a_plan_is_what_is_trained_and_options_win(run, tmp_path, pictures):
    assert run("train", "data", "--dry-run", *options(TINY_SETTINGS))[0] == 0
    plan = tmp_path / "runs" / "data-dry-run" / "plan.json"
    content = json.loads(plan.read_text())
    content["design"]["training"] |= {"batch_size": 5, "steps": 2}
    content["data"]["held_out"] = 7
    plan.write_text(json.dumps(content))
    code, out = run("train", "--plan", str(plan), "--batch-size", "6", "--name", "edited")
    assert code == 0, out
    config = json.loads((tmp_path / "runs" / "edited" / "config.json").read_text())
    assert config["design"]["training"]["batch_size"] == 6
    assert config["data"]["held_out"] == 7
    assert len((tmp_path / "runs" / "edited" / "held_out.txt").read_text().splitlines()) == 7
    assert config["design"]["network"] == content["design"]["network"]


def test_a_dry_run_draws_batches_and_trains_nothing(run, tmp_path, pictures):
    code, out = run("train", "data", "--dry-run", "--degradation", "inpaint", *options(TINY_SETTINGS))
    assert code == 0, out
    assert "nothing was trained" in out
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["data-dry-run"]
    written = sorted(path.name for path in (tmp_path / "runs" / "data-dry-run").iterdir())
    assert written == ["batch-1.png", "batch-2.png", "plan.json"]
    a, b = (np.asarray(Image.open(tmp_path / "runs" / "data-dry-run" / name)) for name in written[:2])
    assert a.std() > 20
    assert not np.array_equal(a, b)
    assert Expected.model_validate(
        json.loads((tmp_path / "runs" / "data-dry-run" / "plan.json").read_text())["expected"]
    )


@pytest.mark.parametrize("kind", ["signals", "tables", "volumes"])
def test_a_dry_run_of_other_data_draws_too(run, tmp_path, kind):
    shape = {"signals": (30, 20), "tables": (30, 3), "volumes": (30, 8, 8, 8)}[kind]
    np.save(tmp_path / "x.npy", RNG.normal(size=shape).astype(np.float32))
    layout = ["--layout", "NDHW"] if kind == "volumes" else []
    code, out = run("train", "x.npy", "--dry-run", "--batch-size", "4", *layout)
    assert code == 0, out
    assert (tmp_path / "runs" / "x-dry-run" / "batch-2.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no plan"),
        ("{", "damaged"),
        ("[]", "plan.json"),
        ('{"data": {"source": "digits"}}', "plan.json"),
        ('{"format": 99}', "upgrade"),
        ('{"data": {"source": "digits"}, "conditions": {}, "design": {"trainig": {}}}', "trainig"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_one_sentence(tmp_path, content, said):
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(UsageError, match=said) as error:
        PlanFile.read(tmp_path / "plan.json")
    assert "\n" not in str(error.value).strip()


def test_without_data_and_plan_train_asks_for_one(run):
    code, out = run("train")
    assert code == 2
    assert "--plan plan.json" in out
    code, out = run("train", "digits", "--plan", "nowhere.json")
    assert code == 2
    assert "there is no plan" in out


def test_a_plan_and_another_network_contradict_each_other(run, tmp_path, pictures):
    assert run("train", "data", "--dry-run", *options(TINY_SETTINGS))[0] == 0
    code, out = run("train", "--plan", "runs/data-dry-run/plan.json", "--network", "mlp")
    assert code == 2
    assert "edit its design" in " ".join(out.split())


def test_a_plan_of_a_fine_tuning_starts_from_the_same_weights(run, tmp_path, pictures):
    small = [*options(TINY_SETTINGS), "--train-steps", "1"]
    assert run("train", "data", *small, "--name", "base")[0] == 0
    code, out = run("train", "data", "--from", "runs/base", "--adapter-rank", "2", "--dry-run", "--train-steps", "1")
    assert code == 0, out
    plan = next((tmp_path / "runs").glob("*-dry-run")) / "plan.json"
    assert json.loads(plan.read_text())["start"] == "runs/base"
    code, out = run("train", "--plan", str(plan), "--name", "tuned", "--lr", "1e-30")
    assert code == 0, out
    config = json.loads((tmp_path / "runs" / "tuned" / "config.json").read_text())
    assert config["start"]["name"] == "base"
    assert config["design"]["adapters"]["rank"] == 2
    before, after = (undiffuse.load(tmp_path / "runs" / name) for name in ("base", "tuned"))
    for name, value in before.denoiser.state_dict().items():
        assert torch.allclose(value, after.denoiser.state_dict()[name], atol=1e-25), (
            name
        )  # nothing was learned at such a rate

    content = json.loads(plan.read_text())
    content["design"]["network"]["width"] *= 2
    plan.write_text(json.dumps(content))
    code, out = run("train", "--plan", str(plan), "--name", "wider")
    assert code == 2
    assert "trained with other settings of the network" in " ".join(out.split())
    content["start"] = None
    plan.write_text(json.dumps(content))
    code, out = run("train", "--plan", str(plan), "--name", "from-nothing")
    assert code == 2
    assert "adapters tune weights that were trained before" in " ".join(out.split())


def test_a_plan_is_followed_from_python(run, tmp_path, pictures):
    assert run("train", "data", "--dry-run", *options(TINY_SETTINGS), "--train-steps", "2", "--size", "4")[0] == 0
    plan = tmp_path / "runs" / "data-dry-run" / "plan.json"
    undiffuse.train(plan=plan, runs=tmp_path / "runs", name="a")
    undiffuse.train(plan=plan, runs=tmp_path / "runs", name="b", steps=1, size=8, conditions={})
    data, conditions, design = decided(plan)
    assert decided(tmp_path / "runs" / "a" / "plan.json") == (data, conditions, design)
    design["training"]["steps"] = 1
    assert decided(tmp_path / "runs" / "b" / "plan.json") == (data | {"size": [8, 8]}, {}, design)
    with pytest.raises(UsageError, match="say what to train on"):
        undiffuse.train(runs=tmp_path / "runs")


def test_a_dry_run_says_the_command_that_trains(run, tmp_path, pictures):
    code, out = run(
        "train", "data", "--dry-run", *options(TINY_SETTINGS), "--name", "mine", "--runs", "there", "--device", "cpu"
    )
    assert code == 0, out
    command = out.split("next: undiffuse ")[1].split()
    assert command[:2] == ["train", "--plan"]
    assert run(*command, "--train-steps", "1")[0] == 0
    assert (tmp_path / "there" / "mine" / "model.safetensors").exists()


def test_a_dry_run_in_the_latents_of_a_trained_autoencoder(run, tmp_path, pictures):
    short = ["--train-steps", "1", "--batch-size", "8"]
    latent = ["--latent", "--latent-downsample", "2", "--latent-train-steps", "1"]
    code, out = run("train", "data", *latent, "--dry-run", *short)
    assert code == 2
    assert "not trained yet" in " ".join(out.split())
    assert not (tmp_path / "runs").exists()
    assert run("train", "data", *latent, *short, "--name", "first")[0] == 0
    code, out = run("train", "data", "--autoencoder", "runs/first", "--dry-run", *short, "--name", "b")
    assert code == 0, out
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["b-dry-run", "first"]
    assert run("train", "--plan", "runs/b-dry-run/plan.json", "--name", "b")[0] == 0


def test_declaring_no_conditions_is_a_choice(tmp_path, pictures):
    settings = {"training.steps": 1, **TINY_SETTINGS}
    for conditions, said in (({}, "as declared"), (None, "what the data calls its classes")):
        plan = prepare(DataConfig(source=str(pictures)), tmp_path / "r", settings=settings, conditions=conditions)
        assert said in PlanFile.of(plan).because["conditions"]


def test_no_held_out_example_reaches_the_optimizer_and_each_is_named(tmp_path, pictures, monkeypatch):
    seen: set[int] = set()
    original = DenoiserLearner.losses

    def recorded(self, x, eps, level, values, computing):
        if torch.is_grad_enabled():
            seen.update(
                ((x.flatten(1).mean(1) + 1) * 127.5 / 6).round().int().tolist()
            )  # the grey of each, 6 k and a little
        return original(self, x, eps, level, values, computing)

    monkeypatch.setattr(DenoiserLearner, "losses", recorded)
    undiffuse.train(pictures, runs=tmp_path / "runs", steps=30, batch_size=8, held_out=10, settings=TINY_SETTINGS)
    named = (tmp_path / "runs" / "data" / "held_out.txt").read_text().splitlines()
    held_out = {int(name.split("/")[1].removesuffix(".png")) for name in named}
    assert len(named) == len(held_out) == 10
    assert seen == set(range(40)) - held_out


def test_what_is_measured_is_of_the_run_and_leaves_nothing(tmp_path, pictures):
    plan = prepare(
        DataConfig(source=str(pictures)), tmp_path / "run", settings={"training.steps": 1000, **TINY_SETTINGS}
    )
    run = plan.run()
    found = measured(run)
    assert found.parameters == sum(p.numel() for p in run.model.denoiser.parameters())
    assert found.updates == 1000
    assert found.seconds == pytest.approx(1000 * found.seconds_per_update)
    assert found.memory is None or found.memory > 2**20
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 64, 64), (3, 256, 256), (1, 32, 32, 32), (2, 44100), (5, 1)])
def test_what_is_computed_at_once_on_a_processor_is_bounded(shape):
    training = small_data(shape, cpu=True).training
    at_once = -(-training.batch_size // training.accumulate)
    assert (at_once - 1) * np.prod(shape) < AT_ONCE_ON_A_CPU
    assert training.accumulate == 1 or training.batch_size * np.prod(shape) > AT_ONCE_ON_A_CPU
