"""The command line as a person uses it: help without torch, one-sentence errors, the right exit codes, the pictures."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.small import TINY_SETTINGS, tiny_model
from undiffuse.cli import shared
from undiffuse.models.file import save_model
from undiffuse.runs.progress import time_beside
from undiffuse.sampling.grids import GRIDS
from undiffuse.sampling.solvers.registry import SOLVERS

TINY = [f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()]


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "runs" / "tiny"
    model = tiny_model()
    weights = dict(model.denoiser.named_parameters())
    save_model(folder / "model.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()})
    return folder


def test_help_imports_no_torch():
    script = """
import sys
sys.argv = ['undiffuse', '--help']
from undiffuse.cli.main import main
try:
    main()
except SystemExit:
    pass
print('torch' in sys.modules, 'matplotlib' in sys.modules, 'numpy' in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "False False False"
    assert "train" in out


def test_import_does_no_work():
    script = "import sys, undiffuse\nprint('torch' in sys.modules, undiffuse.__version__)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.startswith(
        "False 0."
    )


def test_train_then_sample_with_no_other_flag(run, tmp_path):
    code, out = run("train", "digits", "--train-steps", "3", "--batch-size", "8", *TINY)
    assert code == 0, out
    assert "wrote runs/digits" in out
    assert "next: undiffuse sample runs/digits" in out
    code, out = run("sample", "runs/digits")
    assert code == 0, out
    folder = tmp_path / "runs/digits/sampled/001"
    values = np.load(folder / "samples.npy")
    assert values.shape == (100, 1, 8, 8)
    assert values.max() <= 16
    with open(folder / "samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    assert rows[57] == {"file": "images/00057.png", "seed": "0", "index": "57", "class": "5"}
    shown = np.asarray(Image.open(folder / "images/00057.png"))
    assert np.array_equal(shown, (values[57, 0] / 16 * 255).round().astype(np.uint8))
    assert run("sample", "runs/digits")[0] == 0
    assert (tmp_path / "runs/digits/sampled/002/grid.png").exists()


def test_trajectory_pictures(run, model):
    code, out = run(
        "sample", str(model), "-n", "6", "--class", "cat,dog", "--trajectory", "--steps", "4", "--seed", "5"
    )
    assert code == 0, out
    folder = model / "sampled/001"
    with Image.open(folder / "reverse.gif") as animation:
        assert animation.n_frames == 5
    for name in ("grid.png", "forward.png", "reverse.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 60


def test_the_strip_shows_the_sample_itself(run, model):
    """The last picture of the reverse strip is sample 0, alone or not."""
    assert run("sample", str(model), "-n", "3", "--class", "dog", "--trajectory")[0] == 0
    values = np.load(model / "sampled/001/samples.npy")
    strip = np.asarray(Image.open(model / "sampled/001/reverse.png"))
    # pictures of 8×8 are enlarged a whole number of times, the last one ends 16 pixels from the right and from below
    shown = [strip[-16 - 8 * k : -16, -16 - 8 * k : -16, 0][k // 2 :: k, k // 2 :: k].astype(int) for k in range(8, 25)]
    assert min(np.abs(last - values[0, 0]).max() for last in shown) <= 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--solver", "lms", "--order", "3", "--grid", "karras", "--steps", "1"),
        ("--solver", "edm", "--churn", "5", "--steps", "7"),
        ("--restart", "0.1,3,2", "--steps", "11"),
        ("--solver", "pc", "--corrections", "2", "--steps", "3"),
        ("--solver", "adaptive", "--steps", "1"),
        ("--solver", "dpm++_sde", "--eta", "0.3", "--noise-sampler", "brownian", "--steps", "2"),
        ("--solver", "plms", "--grid", "ddim50"),
        ("--guidance", "3", "--guidance-rescale", "0.7", "--class", "cat"),
        ("--guidance", "0.6", "--guidance-method", "cfg++", "--class", "cat"),
        ("--guidance", "4", "--guidance-method", "apg", "--guidance-interval", "0.2,5", "--class", "cat"),
        (
            "--guidance",
            "4",
            "--guidance-method",
            "apg",
            "--apg-momentum",
            "-0.5",
            "--apg-norm-threshold",
            "2",
            "--class",
            "cat",
        ),
        ("--solver", "dpm++_single", "--order", "3", "--steps", "13", "--guidance", "3", "--class", "dog"),
        ("--grid", "leading", "--steps-offset", "1", "--final-sigma", "schedule", "--steps", "5", "--solver", "lcm"),
        (
            "--grid",
            "karras",
            "--rho",
            "3",
            "--sigma-max",
            "20",
            "--sigma-min",
            "0.1",
            "--interpolation",
            "linear",
            "--lower-order-final",
        ),
        (
            "--churn",
            "5",
            "--churn-interval",
            "0.1,5",
            "--s-noise",
            "1.01",
            "--clip",
            "dynamic",
            "--threshold-quantile",
            "0.9",
            "--threshold-max",
            "1.5",
        ),
    ],
)
def test_every_way_of_sampling(run, model, arguments):
    code, out = run("sample", str(model), "-n", "3", *arguments)
    assert code == 0, out
    values = np.load(model / "sampled/001/samples.npy")
    assert values.shape == (3, 1, 8, 8)
    assert values.std() > 0


def test_solvers_and_grids_are_listed(run):
    code, out = run("solvers")
    assert code == 0
    assert all(name in out for name in (*SOLVERS, *GRIDS))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "nowhere"), 2, "there is no data at nowhere"),
        (("train", "digits", "--schedule", "liner"), 2, "choose one of linear"),
        (("train", "digits", "--T", "0"), 2, "T = 0"),
        (("train", "digits", "--prediction", "epsilon", "--schedule", "flow"), 2, "zero terminal SNR"),
        (("train", "digits", "--train-steps", "0"), 2, "--train-steps takes a whole number > 0"),
        (("train", "digits", "--budget", "soon"), 2, "takes a duration"),
        (("train", "digits", "--set", "training.clip"), 2, "SETTING=VALUE"),
        (("train", "digits", "--preset", "best"), 2, "adm_imagenet64"),
        (("train", "digits", "--held-out", "5000"), 2, "cannot be held out"),
        (("train", "digits", "--device", "gpu9"), 2, "doctor"),
        (("train", "digits", "--fit", "squeeze"), 2, "fit"),
        (("train", "digits", "--multipliers", "a"), 2, "1,2,2"),
        (("sample", "nowhere"), 2, "undiffuse train"),
        (("sample", "TINY", "-n", "0"), 2, "at least 1"),
        (("sample", "TINY", "--class", "bird"), 2, "cat, dog, 7"),
        (("schedule", "squiggle"), 2, "no noise schedule"),
        (("sample", "TINY", "--class", "cat", "--unconditional"), 2, "contradict"),
        (("sample", "TINY", "--steps", "0"), 2, "steps"),
        (("sample", "TINY", "--out", "TINY"), 2, "nothing is written over"),
        (("sample", "TINY", "--weights", "best"), 2, "weights"),
        (("schedule", "linear", "--T", "3"), 2, "smallest T"),
        (("schedule", "--picture", "no.png"), 2, "no.png"),
        (("sample", "TINY", "--solver", "rk4"), 2, "choose one of ddpm"),
        (("sample", "TINY", "--solver", "lms", "--order", "9"), 2, "1, 2, 3, 4"),
        (("sample", "TINY", "--steps", "101"), 2, "at most that many"),
        (("sample", "TINY", "--restart", "often"), 2, "0.06,0.3,2"),
        (("sample", "TINY", "--restart", "0.1,0.11,2"), 2, "widen"),
        (("sample", "TINY", "--churn", "-1"), 2, "churn"),
        (("sample", "TINY", "--solver", "ddpm", "--noise-sampler", "brownian", "--churn", "9"), 2, "no churn"),
        (("sample", "TINY", "--noise-sampler", "pink"), 2, "noise"),
        (("sample", "TINY", "--guidance", "2", "--guidance-method", "cfg++"), 2, "between 0 and 1"),
        (("sample", "TINY", "--guidance-interval", "1,5"), 2, "another guidance"),
        (("sample", "TINY", "--guidance", "2", "--guidance-interval", "5,1"), 2, "swap"),
        (("sample", "TINY", "--guidance-interval", "some"), 2, "0.3,5"),
        (("sample", "TINY", "--guidance", "2", "--apg-momentum", "-0.5"), 2, "belong to the method apg"),
        (("sample", "TINY", "--guidance-rescale", "0.5", "--guidance-method", "apg"), 2, "leave one out"),
        (("sample", "TINY", "--grid", "aligned"), 2, "log-SNRs"),
        (("sample", "TINY", "--eta", "0.5"), 2, "dpm++_sde"),
        (("sweep", "TINY", "--solvers", "rk4"), 2, "choose one of ddpm"),
        (("sweep", "TINY", "-n", "1"), 2, "at least 2"),
        (("sweep", "TINY", "--step-counts", "few"), 2, "1,2,2"),
        (("sweep", "nowhere"), 2, "undiffuse train"),
        (("sample",), 2, "RUN"),
        (("fly",), 2, "No such command"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(run, model, tmp_path, arguments, code, words):
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    got, out = run(*(str(model) if a == "TINY" else a for a in arguments))
    assert got == code, out
    assert words in " ".join(out.split()), out
    assert "Traceback" not in out
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_failure_is_exit_code_1(run, model, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    code, out = run("train", "digits", "--train-steps", "2", "--batch-size", "8", *TINY)
    assert code == 1
    assert "disk space" in out


def test_debug_shows_the_traceback(run):
    with pytest.raises(ValueError, match="there is no data"):
        run("train", "nowhere", "--debug")


def test_the_picture_of_schedules_has_the_name_that_is_said(run, tmp_path):
    code, out = run("schedule", "linear", "--out", "sched")
    assert code == 0, out
    assert "wrote sched.png" in out
    assert [path.name for path in tmp_path.iterdir()] == ["sched.png"]
    code, out = run("schedule", "linear", "--out", "sched.xyz")
    assert code == 2
    assert "no kind of picture" in " ".join(out.split())


def test_what_is_saved_and_drawn_at_the_end_lies_outside_the_time_of_training():
    assert time_beside((0.0, 0.0), (40.0, 8.0)) == ", and 0:40 saving, 0:08 drawing besides, at the end"
    assert (
        time_beside((3.0, 0.2), (40.0, 8.2))
        == " (0:03 saving of it), and 0:37 saving, 0:08 drawing besides, at the end"
    )


def test_a_finished_command_says_so_and_draws_no_bar(run):
    given = ("train", "digits", "--train-steps", "1", "--batch-size", "8", *TINY)
    code, out = run(*given)
    assert code == 0, out
    assert "trained 1 step in" in " ".join(out.split())
    assert "besides, at the end" in " ".join(out.split())
    assert "examples/s" not in out  # of one update no rate is known
    code, out = run(*given)
    assert code == 0, out
    assert "already trained" in out
    assert "resumed" not in out
    assert "━" not in out


def test_where_nothing_is_asked_for_the_classes_get_an_equal_share_and_rows(run, model):
    code, out = run("sample", str(model), "-n", "6", "--steps", "1")
    assert code == 0, out
    assert "all 3 classes get an equal share" in " ".join(out.split())
    assert "next: undiffuse sample " in out
    assert out.rstrip().splitlines()[-1].endswith("-n 6 --steps 1 --trajectory  draws how they came about")


def test_schedules_are_compared_in_numbers_and_a_picture(run, tmp_path):
    code, out = run("schedule", "linear", "cosine", "flow", "--T", "100", "--json", "--out", "s.png")
    assert code == 0, out
    numbers = json.loads(out)
    assert numbers["flow"]["alpha_bar"][2] == pytest.approx(0.5, abs=1e-3)
    assert numbers["linear"]["t"] == [0, 24.75, 49.5, 74.25, 99]
    # alpha-bar_1 of the rescaled chain: 1 - 1e-3
    assert numbers["linear"]["alpha_bar"][0] == pytest.approx(0.999)
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.width > 1000
    code, out = run("schedule", "--zero-terminal-snr", "--shift", "-1")
    assert code == 0
    assert "wrote schedules.png" in out


def test_doctor(run):
    code, out = run("doctor")
    assert code == 0, out
    assert "torch" in out
    assert "all is well" in out


@pytest.mark.parametrize(("text", "value"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("2d", 172_800), ("7", 7)])
def test_durations(text, value):
    assert shared.seconds(text) == value


@pytest.mark.parametrize(("text", "value"), [("64", (64, 64)), ("48x80", (48, 80))])
def test_sizes(text, value):
    assert shared.size(text) == value


@pytest.mark.parametrize("error", [ValueError("not ours"), TypeError("nor this"), RuntimeError("nor that")])
def test_a_fault_of_the_program_is_not_told_as_the_users(error, monkeypatch, capsys):
    """Only UsageError is a wrong use: what Python or torch raise keeps its traceback, and the exit code is 1."""
    from undiffuse.cli import main as entry

    def broken(**_):
        raise error

    monkeypatch.setattr(entry, "app", broken)
    monkeypatch.setattr(entry, "flags_of", lambda *_: {})
    monkeypatch.setattr("sys.argv", ["undiffuse"])
    with pytest.raises(SystemExit) as exit_:
        entry.main()
    told = capsys.readouterr().err
    assert exit_.value.code == 1
    assert "Traceback" in told
    assert "fault of the program" in told
