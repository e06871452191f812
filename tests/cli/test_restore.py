"""Tasks from the command line: trained, answered, two stages, and what does not fit in a sentence."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.commands import exit_code
from tests.small import TINY_SETTINGS

TINY = [
    "--train-steps",
    "2",
    "--batch-size",
    "8",
    *(f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()),
]


def command(folder, *arguments):
    """In this process, which has torch already."""
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = exit_code(*arguments)
    return code, out.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    np.save(folder / "colours.npy", rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    np.save(folder / "small.npy", rng.integers(0, 256, (2, 4, 4, 3), dtype=np.uint8))
    Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "grey.png")
    code, out = command(
        folder, "train", "colours.npy", "--degradation", "inpaint,upscale:2,colorize,deblur:1,denoise", *TINY
    )
    assert code == 0, out
    assert "next: undiffuse restore runs/colours data:0 --simulate" in out
    assert "sensitivity to conditions: observation" in out
    for name, options in (("base", ("--shrink", "2")), ("up", ("--upscale-factor", "2"))):
        code, out = command(folder, "train", "colours.npy", "--name", name, *options, *TINY)
        assert code == 0, out
    assert "next: undiffuse sample BASE --upscaler runs/up  for a BASE of examples 2 times smaller" in out
    return folder


def test_every_task_is_answered_and_drawn(runs):
    code, out = command(
        runs, "restore", "runs/colours", "data:0", "data:1", "--simulate", "-n", "2", "--steps", "2", "--out", "all"
    )
    assert code == 0, out
    assert out.count("the first answer comes back to") == 10
    assert np.load(runs / "all/restored-2.npy").shape == (10, 3, 8, 8)
    assert json.loads((runs / "all/numbers.json").read_text())["degradations"][2] == "upscale:2"
    with Image.open(runs / "all/picture.png") as picture:
        assert picture.width > 300


@pytest.mark.parametrize(
    ("task", "image", "more"),
    [
        ("upscale:2", "small.npy", ()),
        ("colorize", "grey.png", ()),
        ("denoise", "data:0", ("--noise", "63.75")),
        ("inpaint", "data:0", ("--mask", "left")),
    ],
)
def test_what_someone_has_is_taken(runs, task, image, more):
    out_folder = f"given-{task.replace(':', '')}"
    code, out = command(
        runs,
        "restore",
        "runs/colours",
        image,
        "--degradation",
        task,
        *more,
        "-n",
        "1",
        "--steps",
        "2",
        "--out",
        out_folder,
    )
    assert code == 0, out
    made = np.load(runs / out_folder / "restored-1.npy")
    assert made.shape[1:] == (3, 8, 8)
    if task == "inpaint":
        assert np.array_equal(made[0, :, :, 4:], np.moveaxis(np.load(runs / "colours.npy")[0], -1, 0)[:, :, 4:])


def test_two_stages_are_sampled_by_one_command(runs):
    code, out = command(runs, "sample", "runs/base", "--upscaler", "runs/up", "-n", "3", "--steps", "2", "--out", "two")
    assert code == 0, out
    assert np.load(runs / "two/samples.npy").shape == (3, 3, 4, 4)
    large = np.load(runs / "two/enlarged.npy")
    assert large.shape == (3, 3, 8, 8)
    code, out = command(
        runs,
        "sample",
        "runs/base",
        "--upscaler",
        "runs/up",
        "-n",
        "1",
        "--start-index",
        "2",
        "--steps",
        "2",
        "--out",
        "third",
    )
    assert code == 0, out
    assert (
        np.abs(np.load(runs / "third/enlarged.npy")[0].astype(int) - large[2]).max() <= 1
    )  # sample k of a seed is the same alone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("restore", "runs/base", "data:0"), "nothing is missing in these examples"),
        (("restore", "runs/colours", "data:0", "--degradation", "sharpen"), "it can do inpaint"),
        (("restore", "runs/colours", "small.npy", "--degradation", "inpaint", "--mask", "left"), "has the shape"),
        (
            ("restore", "runs/colours", "data:0", "--degradation", "denoise", "--noise", "9"),
            "trained for noise of 12.75 to 127.5",
        ),
        (("restore", "runs/colours", "data:0", "--simulate", "--mask", "left"), "leave --mask and --noise out"),
        (("sample", "runs/colours"), "use undiffuse restore runs/colours"),
        (("sample", "runs/base", "--augmentation", "0.2"), "name one with --upscaler"),
        (("sample", "runs/base", "--upscaler", "runs/base"), "not trained to upscale"),
        (("sample", "runs/base", "--upscaler", "runs/up", "--augmentation", "3"), "trained for noise of 0 to 0.5"),
        (("evaluate", "runs/colours"), "undiffuse: "),
        (("likelihood", "runs/colours", "-n", "2"), "use 'undiffuse restore"),
        (("train", "colours.npy", "--degradation", "sharpen", "--train-steps", "1"), "no task 'sharpen'"),
        (
            ("train", "colours.npy", "--degradation", "denoise", "--upscale-factor", "2", "--train-steps", "1"),
            "leave --degradation out",
        ),
        (
            ("train", "colours.npy", "--degradation", "upscale:3", "--train-steps", "1", "--name", "x"),
            "does not suit this data",
        ),
        (
            ("train", "colours.npy", "--upscale-factor", "1", "--train-steps", "1", "--name", "x"),
            "makes nothing larger",
        ),
        (("train", "digits", "--degradation", "colorize", "--train-steps", "1", "--name", "x"), "grey already"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(runs, arguments, words):
    code, out = command(runs, *arguments)
    assert code == 2, out
    assert words in out
    assert "Traceback" not in out
