"""What users type and own: paths with spaces, pipes of other encodings, folders that cannot be written, masks of every kind."""

from __future__ import annotations

import io
import json
import shlex
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands import exit_code
from tests.small import TINY_SETTINGS, images, tiny_model
from undiffuse.data import mask_files
from undiffuse.models import masks
from undiffuse.models.file import save_model

TINY = [f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()]


def saved(folder, **changes):
    model = tiny_model(**changes)
    weights = dict(model.denoiser.named_parameters())
    save_model(folder / "model.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()})
    return folder


def following(out):
    """The arguments of the command after "next: ", as a shell takes them, up to the explanation two spaces away."""
    line = next(line for line in out.splitlines() if line.startswith("next: "))
    return shlex.split(line.removeprefix("next: undiffuse ").split("  ")[0])


# Paths and output ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["reconstruct", "vary", "denoise", "inpaint", "upscale --simulate", "deblur --simulate", "sample"]
)
def test_the_next_command_can_be_pasted(run, tmp_path, command):
    saved(tmp_path / "my run's")
    Image.fromarray(images(1)[0]).save(tmp_path / "an image (1).png")
    name, *flags = command.split()
    given = [] if name == "sample" else ["an image (1).png"]
    code, out = run(name, "my run's", *given, *flags, "--steps", "2")
    assert code == 0, out
    again = following(out)
    assert again[:2] == [name, "my run's"]
    assert given == [part for part in again if part.endswith(".png")]
    assert run(*again)[0] == 0


def printed(monkeypatch, encoding, *arguments):
    """(exit code, bytes) of a command whose output goes through a pipe of another encoding."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    code = exit_code(*arguments)
    out.flush()
    return code, out.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_letters_that_a_pipe_lacks_end_no_training(monkeypatch, tmp_path, encoding):
    """x̂ is in the last lines of a training, and in neither encoding."""
    monkeypatch.chdir(tmp_path)
    code, out = printed(
        monkeypatch, encoding, "train", "digits", "--train-steps", "2", "--batch-size", "8", "--name", encoding, *TINY
    )
    assert code == 0, out
    assert b"sensitivity to conditions: class" in out
    assert b"next: undiffuse sample runs/" in out


def test_a_command_leaves_the_process_as_it_was(run, tmp_path):
    """Notes are shown by the command line while it runs, and by nobody's else afterwards."""
    before = (warnings.showwarning, warnings.filters[:])
    saved(tmp_path / "tiny")
    assert run("sample", "tiny", "-n", "1")[0] == 0
    assert (warnings.showwarning, warnings.filters[:]) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "tiny"),
        ("reconstruct", "tiny", "a.npy"),
        ("denoise", "tiny", "a.npy"),
        ("inpaint", "tiny", "a.npy"),
        ("sweep", "tiny"),
        ("likelihood", "tiny", "a.npy"),
    ],
)
def test_a_folder_that_cannot_be_written_is_found_before_any_work(run, tmp_path, arguments):
    """Below a file nothing can be made, by anybody: not even by root, whom permissions do not stop."""
    saved(tmp_path / "tiny")
    np.save(tmp_path / "a.npy", images(1)[:, None])
    code, out = run(*arguments, "--out", "a.npy/results")
    said = " ".join(out.split())
    assert code == 1, out
    assert "name a place that can be by --out" in said
    assert "steps" not in said  # no bar was drawn


def test_what_a_layout_is_of(run, tmp_path):
    code, out = run("train", "digits", "--layout", "XYZ", "--train-steps", "1")
    assert code == 2
    assert "axes of an array" in " ".join(out.split())


@pytest.mark.parametrize(("text", "held_out"), [("0.25", 449), ("7", 7), ("0", 0)])
def test_held_out_is_a_share_or_a_whole_number(run, tmp_path, text, held_out):
    code, out = run("train", "digits", "--held-out", text, "--train-steps", "1", "--batch-size", "8", *TINY)
    assert code == 0, out
    assert f"{held_out} held out" in " ".join(out.split())


@pytest.mark.parametrize("text", ["1.0", "2.5", "-1", "nan", "many"])
def test_held_out_that_could_mean_two_things_is_refused(run, text):
    code, out = run("train", "digits", f"--held-out={text}", "--train-steps", "1", *TINY)
    assert code == 2, out
    assert "neither a share" in " ".join(out.split())


# Masks -----------------------------------------------------------------------------------------------------------------


def test_photos_are_masked_by_masks_of_their_own_size(run, tmp_path):
    """A photo of 33×20 whose right half is hidden: after the same cut to 16×16 it still is, to within the edge's own column."""
    saved(tmp_path / "tiny", shape=(1, 16, 16))
    photo, mask = images(1, (20, 33))[0], np.zeros((20, 33), np.uint8)
    mask[:, 17:] = 255
    Image.fromarray(photo).save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    np.save(tmp_path / "mask.npy", mask > 0)
    code, out = run("inpaint", "tiny", "photo.png", "--mask", "mask.png", "--steps", "2", "-n", "1", "--out", "one")
    assert code == 0, out
    assert "mask.png is 20×33 (height×width), resized, cropping to fit, to the model's 16×16" in " ".join(out.split())
    code, out = run("inpaint", "tiny", "photo.png", "--mask", "mask.npy", "--steps", "2", "-n", "1", "--out", "other")
    assert code == 0, out
    seen = np.load(tmp_path / "one/observed.npy")
    assert np.array_equal(seen, np.load(tmp_path / "other/observed.npy"))
    assert (seen[..., 9:] == 127).all()  # the middle of the range stands where nothing is known
    assert (seen[..., :8] != 127).mean() > 0.95


def test_a_mask_is_cut_where_its_photo_is():
    """A crop of the middle 20×20 of 20×33 keeps columns 6.5 to 26.5: a mask of all but these hides nothing of them."""
    mask = np.ones((20, 33), np.float32)
    mask[:, 5:28] = 0
    assert not (mask_files._resized(mask, Path("mask.png"), (20, 20), "crop", []) > mask_files.HALF).any()
    assert (mask_files._resized(mask, Path("mask.png"), (20, 20), "stretch", []) > mask_files.HALF).any()


def test_a_mask_of_another_shape_than_its_photo_is_refused(run, tmp_path):
    saved(tmp_path / "tiny")
    Image.fromarray(images(1, (20, 33))[0]).save(tmp_path / "photo.png")
    Image.fromarray(np.full((33, 20), 255, np.uint8)).save(tmp_path / "mask.png")
    code, out = run("inpaint", "tiny", "photo.png", "--mask", "mask.png")
    assert code == 2, out
    assert "mask.png is 33×20 (height×width) and photo.png is 20×33" in " ".join(out.split())


LIGHTNESS = np.array([[0.0, 0.01, 0.49, 0.51], [1.0, 0.0, 0.3, 0.9]]).repeat(4, 0).repeat(2, 1)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a.npy", LIGHTNESS),
        ("b.npy", LIGHTNESS.astype(np.float32) * 255),
        ("c.npy", (LIGHTNESS * 255).round().astype(np.uint8)),
        ("d.png", (LIGHTNESS * 255).round().astype(np.uint8)),
        ("e.png", (LIGHTNESS * 65535).round().astype(np.uint16)),
        ("f.npy", (LIGHTNESS * 65535).round().astype(np.uint16)),
        ("g.npy", (LIGHTNESS > 0.5).astype(np.int64)),
        ("h.npy", LIGHTNESS > 0.5),
        ("i.png", (LIGHTNESS > 0.5).astype(np.uint8)),
        ("j.png", LIGHTNESS > 0.5),
        ("k.png", (LIGHTNESS * 4095).round().astype(np.uint16)),
        ("l.npy", (LIGHTNESS * 1023).round().astype(np.uint16)),
    ],
)
def test_every_kind_of_mask_hides_above_one_half(tmp_path, name, values):
    if name.endswith(".npy"):
        np.save(tmp_path / name, values)
    else:
        Image.fromarray(values).save(tmp_path / name)
    notes = []
    found = masks.read_mask(str(tmp_path / name), np.zeros((1, 1, 8, 8), np.float32), note=notes.append)
    assert np.array_equal(found[0, 0], LIGHTNESS > 0.5)
    said = {"i.png": "1 is read as white", "k.png": "4095 is read as white", "l.npy": "1023 is read as white"}
    out = " ".join(notes)
    assert said[name] in out if name in said else "is read as white" not in out


@pytest.mark.parametrize(
    "values",
    [np.full((8, 8), np.nan), np.full((8, 8), -1.0), np.full((8, 8), 1e6), np.zeros((0, 8)), np.full((8, 8), "a")],
)
def test_what_is_no_mask_is_a_sentence(run, tmp_path, values):
    saved(tmp_path / "tiny")
    np.save(tmp_path / "a.npy", images(1)[:, None])
    np.save(tmp_path / "mask.npy", values)
    code, out = run("inpaint", "tiny", "a.npy", "--mask", "mask.npy")
    assert code == 2, out
    assert "Traceback" not in out


def test_files_of_one_name_are_all_in_the_numbers(run, tmp_path):
    saved(tmp_path / "tiny")
    for folder, picture in zip("abc", images(3), strict=True):
        (tmp_path / folder).mkdir()
        Image.fromarray(picture).save(tmp_path / folder / "0.png")
    code, out = run("inpaint", "tiny", "a/0.png", "b/0.png", "c/0.png", "--steps", "2", "-n", "1")
    assert code == 0, out
    numbers = json.loads((tmp_path / "tiny/edited/001/numbers.json").read_text())
    assert list(numbers["misfit"]) == ["0", "0-2", "0-3"]


# Wrong uses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("classifier", "runs/digits", "--batch-size", "0"), "batch_size"),
        (("classifier", "runs/digits", "--lr", "-1"), "learning_rate"),
        (("classifier", "runs/digits", "--train-steps", "0"), "steps"),
        (("evaluate", "runs/digits", "-n", "2", "--predictor-steps", "0"), "steps: Input should be greater than 0"),
        (("vary", "runs/digits", "data:0", "--strength", "nan"), "lies outside"),
        (("vary", "runs/digits", "data:0", "--steps", "0"), "steps"),
        (("reconstruct", "runs/digits", "data:0", "--steps", "0"), "steps"),
        (("sample", "runs/digits", "--churn", "inf"), "churn"),
        (("schedule", "edm", "--shift", "nan"), "shift"),
        (("schedule", "foo"), "no noise schedule 'foo'"),
    ],
)
def test_wrong_use_is_never_a_fault_of_the_program(run, arguments, words):
    if "runs/digits" in arguments:
        assert run("train", "digits", "--train-steps", "1", "--batch-size", "8", *TINY)[0] == 0
    code, out = run(*arguments)
    assert code == 2, out
    assert words in " ".join(out.split())


def test_a_negative_seed_is_a_seed(run):
    assert run("train", "digits", "--train-steps", "1", "--batch-size", "8", *TINY)[0] == 0
    code, out = run("likelihood", "runs/digits", "-n", "2", "--steps", "2", "--seed", "-1")
    assert code == 0, out
