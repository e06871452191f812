"""Holes from the command line: trained on, inspected, and filled in, written as the data came."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image

import undiffuse
from tests.commands import exit_code
from tests.small import TINY_SETTINGS, images, tiny_model
from undiffuse.conditioning.degradations import AddNoise
from undiffuse.errors import UsageError

TINY = [
    *("--train-steps", "2", "--batch-size", "8"),
    *(f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()),
]


def command(folder, *arguments):
    out = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = exit_code(*map(str, arguments))
    return code, out.getvalue()


def trained(folder, data, *options):
    code, out = command(folder, "train", data, "--name", "r", *options, *TINY)
    assert code == 0, out
    return out


def filled(folder, *arguments):
    code, out = command(folder, "restore", "runs/r", *arguments, "-n", "2", "--steps", "3", "--out", "found")
    assert code == 0, out
    return np.load(folder / "found" / "restored.npy")


def test_arrays_with_nan_are_trained_on_inspected_and_filled_in(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 8, 8)).astype(np.float32)
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
    values[3, :, 4:] = np.nan
    np.save(tmp_path / "maps.npy", values)
    assert "of the numbers are missing" in trained(tmp_path, "maps.npy")
    found = filled(tmp_path, "data:3")
    known = ~np.isnan(values[3])
    assert found.shape == (2, 1, 8, 8)
    assert np.isfinite(found).all()
    for answer in found[:, 0]:
        assert np.array_equal(answer[known], values[3][known])
    assert not np.array_equal(found[0], found[1])
    code, out = command(tmp_path, "inspect", "maps.npy", "--out", "looked")
    assert code == 0, out
    shown = json.loads((tmp_path / "looked/inspection.json").read_text())["missing"]
    assert shown == pytest.approx([np.isnan(values).mean()])
    assert "missing      3" in out
    assert (tmp_path / "looked/inspection.png").exists()


def test_pictures_with_a_value_or_a_mask_for_missing(tmp_path):
    values = images(30)
    values[:, :3, :3] = 7
    values[values == 7] = 8
    values[::2, :3, :3] = 7
    (tmp_path / "photos").mkdir()
    for k, value in enumerate(values):
        Image.fromarray(value).save(tmp_path / "photos" / f"{k:02d}.png")
    trained(tmp_path, "photos", "--nodata", "7")
    found = filled(tmp_path, "photos/02.png")
    known = values[2] != 7
    assert (tmp_path / "found/restored/000-02-0.png").exists()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "found/restored/000-02-0.png"))[known], values[2][known])
    mask = np.zeros((8, 8), np.uint8)
    mask[6:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    code, out = command(
        tmp_path, "restore", "runs/r", "photos/01.png", "--mask", "mask.png", "--steps", "3", "--out", "masked"
    )
    assert code == 0, out
    found = np.load(tmp_path / "masked/restored.npy")
    assert np.array_equal(found[0, 0, :6], values[1][:6])
    code, out = command(tmp_path, "restore", "runs/r", "photos/01.png")
    assert (code, "nothing is missing" in out) == (2, True)


def test_volumes_are_filled_in_and_keep_their_place(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    draws, affine = np.random.default_rng(0), np.diag([2.0, 2.0, 3.0, 1.0])
    (tmp_path / "scans").mkdir()
    for k in range(12):
        scan = draws.normal(size=(8, 8, 4)).astype(np.float32)
        scan[draws.random(scan.shape) < 0.2] = np.nan
        nibabel.save(nibabel.Nifti1Image(scan, affine), tmp_path / "scans" / f"{k}.nii.gz")
    trained(tmp_path, "scans", "--batch-size", "4")
    filled(tmp_path, "scans/3.nii.gz")
    before = nibabel.load(tmp_path / "scans/3.nii.gz")
    after = nibabel.load(next((tmp_path / "found/restored").glob("000-*.nii.gz")))
    known = np.isfinite(before.get_fdata())
    assert np.array_equal(after.affine, affine)
    assert np.array_equal(after.get_fdata()[known], before.get_fdata()[known])
    assert np.isfinite(after.get_fdata()).all()


def test_in_python_nan_is_filled_in_by_any_model():
    model = tiny_model(conditions={})
    values = images(3)[:, None].astype(np.float32)
    values[0, 0, :4] = np.nan
    values[1:, 0, 5, 5] = np.nan
    found = undiffuse.restore(model, values, 2, steps=3)
    assert found.values.shape == (3, 2, 1, 8, 8)
    known = ~np.isnan(values)
    for k in range(2):
        assert np.array_equal(found.values[:, k].numpy()[known], values[known])
    assert found.values.isfinite().all()
    assert np.array_equal(found.observation.hidden.numpy(), ~known)
    assert np.array_equal(found.values.numpy(), undiffuse.inpaint(model, values, n=2, steps=3).values.numpy())
    tasks = tiny_model(conditions={}, degradations={"denoise": AddNoise()})
    with pytest.raises(UsageError, match=r"make its observation by undiffuse\.observe"):
        undiffuse.restore(tasks, values)
    with pytest.raises(UsageError, match="nothing is missing"):
        undiffuse.restore(model, images(2)[:, None])
    with pytest.raises(UsageError, match=r"takes examples of shape \(1, 8, 8\)"):
        undiffuse.restore(model, values[:, :, :4])


def test_what_needs_whole_examples_says_so(tmp_path):
    values = np.random.default_rng(0).normal(size=(30, 8, 8)).astype(np.float32)
    values[:, 2] = np.nan
    values[0, 2] = 0.5
    np.save(tmp_path / "maps.npy", values)
    trained(tmp_path, "maps.npy", "--held-out", "10")
    for arguments in (["likelihood", "runs/r"], ["evaluate", "runs/r"], ["denoise", "runs/r", "data:3"]):
        code, out = command(tmp_path, *arguments)
        assert code == 2, out
        assert "undiffuse restore" in " ".join(out.split())
