"""A run folder: exact resume after kill -9, interrupts that save, other configurations refused, watching without touching."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.conditioning.base import Note
from undiffuse.data.config import DataConfig
from undiffuse.errors import Failure, UsageError
from undiffuse.runs.diffusion import Run
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals
from undiffuse.training.log import line_of

TINY = [f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()]
COMMAND = [sys.executable, "-m", "undiffuse", "train", "digits", "--name", "r", "--batch-size", "16", *TINY]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(folder: Path, *arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finished(process: subprocess.Popen, code: int = 0) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, out + err
    return out + err


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((folder / "runs/r/state").glob("*.safetensors"))[-1])


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_kill_9_and_resume_end_in_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    finished(command(whole, "--train-steps", "120"))
    process = command(killed, "--train-steps", "120", "--checkpoint-every", "0.05s", "--preview-every", "0.2s")
    wait_for(killed / "runs/r/metrics.jsonl", process)
    while not list((killed / "runs/r").glob("state/*")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = json.loads(_numbers(sorted((killed / "runs/r/state").glob("*.safetensors"))[-1]))["step"]
    assert 0 < reached < 120, "the kill came too late to test anything"
    out = finished(command(killed, "--train-steps", "120"))
    assert "trained 120 steps" in out
    assert same(state(whole), state(killed))
    steps = [json.loads(line)["step"] for line in (killed / "runs/r/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def _numbers(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()["numbers"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_and_the_same_command_goes_on(tmp_path, number):
    process = command(tmp_path, "--train-steps", "100000", start_new_session=True)
    wait_for(tmp_path / "runs/r/metrics.jsonl", process)
    time.sleep(1.0)
    process.send_signal(number)
    out = finished(process, 128 + number)
    assert "stopped and saved" in out
    first = json.loads(_numbers(sorted((tmp_path / "runs/r/state").glob("*"))[-1]))["step"]
    assert first > 0
    assert undiffuse.load(tmp_path / "runs/r").sample(1).shape == (1, 1, 8, 8)
    assert f"trained {first + 5} steps" in finished(command(tmp_path, "--train-steps", str(first + 5)))


def test_another_configuration_is_refused_and_nothing_is_written_over(tmp_path):
    finished(command(tmp_path, "--train-steps", "3"))
    before = {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    out = finished(command(tmp_path, "--train-steps", "3", "--prediction", "epsilon", "--lr", "0.5"), 2)
    assert "design.prediction: 'v' there, 'epsilon' now" in out
    assert "--name" in out
    assert "Traceback" not in out
    assert {path: path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file()} == before
    assert "--change-settings" in finished(command(tmp_path, "--train-steps", "6", "--lr", "0.0005"), 2)
    assert "trained 6 steps" in finished(command(tmp_path, "--train-steps", "6", "--lr", "0.0005", "--change-settings"))


def tiny_run(folder, watch, **settings):
    chosen = TINY_SETTINGS | {"training.steps": 12, "training.budget": None, "training.batch_size": 8} | settings
    return prepare(DataConfig(source="digits"), folder, settings=chosen, watch=watch).run()


def test_watching_changes_nothing(tmp_path):
    often, never = (
        tiny_run(tmp_path / name, watch)
        for name, watch in (("often", Intervals(0.0, 0.0, share=1.0)), ("never", Intervals(1e9, 1e9)))
    )
    for run in (often, never):
        for _ in run.updates():
            pass
    assert same(often.loop.tensors(), never.loop.tensors())
    grids = sorted((tmp_path / "often" / "samples").iterdir())
    assert len(grids) == 12
    assert len(list((tmp_path / "often" / "state").iterdir())) == 2


def test_the_model_file_holds_which_weights_sample_and_where_it_came_from(tmp_path):
    run = tiny_run(tmp_path / "a", Intervals(1e9, 1e9))
    for _ in run.updates():
        pass
    model = undiffuse.load(tmp_path / "a")
    scores = run.measurements.scores()
    assert model.config.weights == run.measurements.measured().best()
    provenance = model.config.provenance
    assert provenance["training"]["steps"] == 12
    assert provenance["data"] == {
        "source": "digits",
        "fingerprint": run.config.fingerprint,
        "training": 1617,
        "held_out": 180,
    }
    assert provenance["held_out"] == {name: score["relative"] for name, score in scores.items()}


def test_changed_data_is_noticed(tmp_path):
    values = np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "data.npy", values)

    def once(**more):
        run = prepare(
            DataConfig(source=str(tmp_path / "data.npy")),
            tmp_path / "r",
            settings=TINY_SETTINGS | {"training.steps": 2},
            **more,
        ).run()
        for _ in run.updates():
            pass

    once()
    np.save(tmp_path / "data.npy", values[:-1])
    with pytest.raises(ValueError, match="the data has changed: 30 examples then, 29 now"):
        once()


def test_metrics_are_strict_json_also_for_nan():
    line = line_of({"step": 3, "loss": float("nan"), "verdict": "skip"})
    assert json.loads(line, parse_constant=lambda name: pytest.fail(name)) == {
        "step": 3,
        "loss": None,
        "verdict": "skip",
    }


def test_a_folder_of_something_else_is_not_used(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        tiny_run(tmp_path, Intervals())


def test_held_out_examples_never_reach_the_optimizer(tmp_path):
    run = tiny_run(tmp_path / "a", Intervals(), **{"augment.probability": 0.0})
    training = {x.tobytes() for x in run.training_data.values}
    seen = set()
    for step in range(300):
        x, _ = run.batch(step)
        seen |= {row.numpy().astype("uint8").tobytes() for row in run.model.codec.decode(x)}
    assert seen <= training
    only_held_out = {x.tobytes() for x in run.held_out.values} - training
    assert only_held_out
    assert not seen & only_held_out


@pytest.mark.parametrize(
    "settings",
    [
        {
            "schedule.name": "linear",
            "prediction": "epsilon",
            "variance_type": "learned_range",
            "training.objective": "hybrid",
        },
        {
            "schedule.name": "edm",
            "prediction": "edm",
            "training.weight": "edm",
            "training.timestep_sampling": "log_normal",
            "sampling.grid": "karras",
        },
        {"schedule.name": "flow", "prediction": "flow", "training.timestep_sampling": "logit_normal"},
        {
            "schedule.name": "sigmoid",
            "schedule.T": 100,
            "prediction": "posterior_mean",
            "training.objective": "bound",
            "variance_type": "fixed_large",
        },
        {
            "schedule.zero_terminal_snr": True,
            "schedule.name": "scaled_linear",
            "training.weight": "min_snr",
            "training.timestep_sampling": "loss_aware",
        },
        {
            "schedule.name": "betas",
            "schedule.betas": [0.1, 0.3, 0.6],
            "sampling.grid": "every",
            "sampling.solver": "ddpm",
            "training.precision": "bf16",
        },
    ],
)
def test_combinations_train_save_load_and_sample(tmp_path, settings):
    run = tiny_run(tmp_path / "r", Intervals(1e9, 1e9), **({"training.steps": 3, "sampling.steps": 4} | settings))
    for update in run.updates():
        assert update.status == "fine"
    values = undiffuse.load(tmp_path / "r").sample(2, {"class": 7})
    assert values.shape == (2, 1, 8, 8)
    assert ((values >= 0) & (values <= 16)).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"prediction": "epsilon", "schedule.name": "flow"}, "zero terminal SNR"),
        ({"prediction": "epsilon", "schedule.zero_terminal_snr": True}, "zero terminal SNR"),
        ({"prediction": "posterior_mean", "schedule.name": "vp"}, "discrete schedule"),
        ({"schedule.name": "liner"}, "choose one of linear"),
        ({"schedule.name": "linear", "schedule.T": 5}, "smallest T that works is 21"),
        ({"schedule.T": 0}, "T = 0"),
        ({"schedule.name": "vp", "schedule.T": 10}, "continuous"),
        ({"variance_type": "learned_range"}, "hybrid"),
        ({"training.objective": "hybrid"}, "learned_range"),
        ({"training.objective": "bound", "schedule.name": "edm"}, "discrete chain"),
        ({"network.widht": 3}, "no setting 'network.widht'"),
        ({"training.steps": None}, "needs an end"),
        ({"training.steps": 0}, "training.steps"),
        ({"training.gamma": 5.0}, "min_snr and p2"),
        ({"training.timestep_sampling": "uniform", "training.timestep_mean": 0.1}, "logit_normal"),
        ({"schedule.betas": [0.1]}, "'betas' go together"),
        ({"training.learning_rate": "fast"}, "training.learning_rate"),
    ],
)
def test_contradictions_are_one_sentence_and_write_nothing(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        tiny_run(tmp_path / "r", Intervals(), **settings)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_the_python_interface(tmp_path):
    model = undiffuse.train("digits", runs=tmp_path, steps=3, batch_size=8, settings=TINY_SETTINGS)
    images = model.sample(16, {"class": 7}, guidance=2.0, seed=0)
    assert images.shape == (16, 1, 8, 8)
    assert images.dtype == torch.float32
    moments = list(model.trajectory(4, {"class": 7}))
    assert len(moments) == model.config.sampling.steps
    assert moments[0].x0.shape == (4, 1, 8, 8)
    assert "v on cosine" in repr(model)


def test_a_preview_that_fails_is_told_and_training_goes_on_after_saving(tmp_path, monkeypatch):
    run = tiny_run(tmp_path / "a", Intervals(1e9, 0.0, share=1.0), **{"training.steps": 6})
    twin = tiny_run(tmp_path / "b", Intervals(1e9, 1e9), **{"training.steps": 6})
    saved = []

    def fails(title):
        saved.append(sorted(path.name for path in (run.folder / "state").glob("*")))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(run.previews, "drawn", fails)
    with pytest.warns(Note, match="out of memory.*saved"):
        assert [update.step for update in run.updates()] == [1, 2, 3, 4, 5, 6]
    assert saved[1] == ["step-00000001.safetensors"]  # right after the first failure
    for _ in twin.updates():
        pass
    assert same(run.loop.tensors(), twin.loop.tensors())


def test_a_full_disk_ends_a_run_with_a_sentence(tmp_path, monkeypatch):
    run = tiny_run(tmp_path / "a", Intervals(1e9, 0.0, share=1.0), **{"training.steps": 6})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("undiffuse.training.checkpoints.save_file", full)
    monkeypatch.setattr(run.previews, "drawn", full)
    with pytest.raises(OSError, match="the disk is full"):
        list(run.updates())


def test_a_second_training_in_one_folder_is_refused_and_the_first_is_left_alone(tmp_path):
    first, second = (tiny_run(tmp_path / "a", Intervals(1e9, 1e9)) for _ in range(2))
    updates = first.updates()
    next(updates)
    with pytest.raises(Failure, match="another name"):
        next(second.updates())
    assert [update.step for update in updates][-1] == 12
    log = [json.loads(line)["step"] for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert log == sorted(set(log))
    assert not (tmp_path / "a/.lock").exists()


@pytest.mark.parametrize("stale", [False, True])
def test_a_finished_run_without_its_model_writes_it(tmp_path, stale):
    before = tmp_path / "before.safetensors"
    for steps in (
        3,
        12,
    ):  # killed between the last checkpoint and the model file: that of step 3 is still there, or none
        for _ in tiny_run(tmp_path / "a", Intervals(1e9, 1e9), **{"training.steps": steps}).updates():
            pass
        if steps == 3:
            before.write_bytes((tmp_path / "a/model.safetensors").read_bytes())
    wanted = load_file(tmp_path / "a/model.safetensors")
    (tmp_path / "a/model.safetensors").unlink()
    if stale:
        before.rename(tmp_path / "a/model.safetensors")
    again = tiny_run(tmp_path / "a", Intervals(1e9, 1e9))
    assert list(again.updates()) == []
    assert same(load_file(tmp_path / "a/model.safetensors"), wanted)


def test_leftovers_of_a_killed_save_do_not_stop_the_same_command(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".config.json.4242.part").write_text("{")  # as before, and as now
    (tmp_path / "a" / ".config.json.4242-0123abcd.part").write_text("{")
    for _ in tiny_run(tmp_path / "a", Intervals(1e9, 1e9), **{"training.steps": 1}).updates():
        pass
    assert not list((tmp_path / "a").rglob("*.part"))


@pytest.mark.parametrize("line", ["5", '{"step": null}', "[1]"])
def test_a_damaged_log_is_a_sentence_and_changes_nothing(tmp_path, line):
    tiny = {"training.steps": 2}
    for _ in tiny_run(tmp_path / "a", Intervals(1e9, 1e9), **tiny).updates():
        pass
    path = tmp_path / "a/metrics.jsonl"
    good = path.read_bytes()
    for bad in (line.encode(), b"\xff\xfe"):
        path.write_bytes(good + bad + b"\n")
        with pytest.raises(UsageError, match=r"metrics.jsonl.* is damaged.*fix or remove it"):
            list(tiny_run(tmp_path / "a", Intervals(1e9, 1e9), **{"training.steps": 4}).updates())
        assert path.read_bytes() == good + bad + b"\n"
    path.write_bytes(good + b'{"step": 3, "lo')  # a kill cut it short
    assert [
        update.step for update in tiny_run(tmp_path / "a", Intervals(1e9, 1e9), **{"training.steps": 3}).updates()
    ] == [3]


def test_an_interrupt_of_the_python_interface_saves_and_the_same_call_goes_on(tmp_path, monkeypatch):
    batch = Run.batch

    def interrupted(run, step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return batch(run, step)

    monkeypatch.setattr(Run, "batch", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            undiffuse.train("digits", runs=tmp_path, steps=6, batch_size=8, settings=TINY_SETTINGS)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert [path.name for path in (tmp_path / "digits/state").iterdir()] == [
        "step-00000004.safetensors"
    ]  # the update under way was ended
    monkeypatch.setattr(Run, "batch", batch)
    undiffuse.train("digits", runs=tmp_path / "whole", steps=6, batch_size=8, settings=TINY_SETTINGS)
    undiffuse.train("digits", runs=tmp_path, steps=6, batch_size=8, settings=TINY_SETTINGS)
    ends = [load_file(tmp_path / folder / "digits/state/step-00000006.safetensors") for folder in (".", "whole")]
    assert same(*ends)


def test_a_model_is_in_training_mode_inside_updates_alone(tmp_path):
    run = tiny_run(tmp_path / "a", Intervals(0.0, 0.0, share=1.0), **{"training.steps": 3, "network.dropout": 0.5})
    inside = []
    run.model.denoiser.network.register_forward_hook(lambda module, *_: inside.append(module.training))
    for _ in run.updates():
        assert not any(module.training for module in run.model.denoiser.modules())
        first, second = (run.model.sample(2, {"class": 7}, steps=2) for _ in range(2))
        assert torch.equal(first, second)
    assert inside.count(True) == 3
    assert not run.model.denoiser.training


def test_without_held_out_examples_nothing_is_said_of_them(tmp_path):
    run = tiny_run(tmp_path / "a", Intervals(1e9, 1e9), **{"training.steps": 2})
    assert re.search(
        r"held-out error [0-9.]+ ± [0-9.]+ of the best linear denoiser's \(ema weights, 180 examples\)",
        run.measurements.verdict(),
    )
    chosen = TINY_SETTINGS | {"training.steps": 2, "training.batch_size": 8}
    none = prepare(
        DataConfig(source="digits", held_out=0), tmp_path / "b", settings=chosen, watch=Intervals(1e9, 1e9)
    ).run()
    for _ in none.updates():
        pass
    assert "no held-out examples" in none.measurements.verdict()
    assert none.measurements.scores() == {}
    config = undiffuse.load(tmp_path / "b").config
    assert (config.weights, config.provenance["held_out"]) == ("ema", {})


@pytest.mark.parametrize("n", [1, 2])
def test_one_example_trains_without_nan_and_without_a_warning(tmp_path, n):
    np.save(tmp_path / "d.npy", np.random.default_rng(0).integers(0, 256, (n, 8, 8), dtype=np.uint8))
    chosen = TINY_SETTINGS | {"training.steps": 2, "training.batch_size": 8}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for held_out in {0.1, float(n - 1)}:
            source = DataConfig(source=str(tmp_path / "d.npy"), held_out=held_out)
            run = prepare(source, tmp_path / f"r{held_out}", settings=chosen, watch=Intervals(1e9, 1e9)).run()
            assert [update.step for update in run.updates()] == [1, 2]
            assert "nan" not in run.measurements.verdict()
