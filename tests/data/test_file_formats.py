"""What is written is what was read: real files of other packages go in, samples come out as the same kind, type, depth, place and rate."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.data.codec import Codec, fitted_codec
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_data
from undiffuse.errors import UsageError
from undiffuse.pictures.stored import ExampleWriter, write_examples

TINY = [f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()]
AFFINE = np.array([[-0.9, 0.1, 0, 12.5], [0, 1.1, 0.2, -7], [0.05, 0, 2.5, 30], [0, 0, 0, 1]])


def written(data, folder):
    """What the examples of a data set become as samples: through the codec and a writer. Returns the data in x and its codec."""
    codec = Codec(fitted_codec(data))
    x = codec.encode(data.values)
    writer = ExampleWriter(folder, "samples", "images", codec.config, len(data), range(len(data)), data.file_format)
    writer.add(codec.decode(x[:1]))
    writer.add(codec.decode(x[1:]))
    writer.finish()
    return x, codec


# Volumes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_volumes_keep_their_affine_axes_and_type(tmp_path, dtype, suffix):
    nibabel, rng = pytest.importorskip("nibabel"), np.random.default_rng(0)
    originals = [(rng.standard_normal((5, 6, 4)) * 40 + 90).clip(0, 255).astype(dtype) for _ in range(3)]
    (tmp_path / "in").mkdir()
    for k, values in enumerate(originals):
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / f"in/{k}{suffix}")
    data = open_data(DataConfig(source=str(tmp_path / "in")))
    written(data, tmp_path)
    assert not any("differently" in note for note in data.notes)
    for k, values in enumerate(originals):
        back = nibabel.load(tmp_path / f"files/{k:05d}{suffix}")
        assert back.get_data_dtype() == np.dtype(dtype)
        np.testing.assert_allclose(back.affine, AFFINE, atol=1e-6)  # NIfTI has it in float32
        np.testing.assert_allclose(np.asanyarray(back.dataobj), values, rtol=0, atol=0 if dtype[0] != "f" else 3e-5)


def test_volumes_that_lie_differently_say_which_affine_is_written(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    for k in range(2):
        nibabel.save(nibabel.Nifti1Image(values + k, AFFINE + k * np.eye(4)), tmp_path / f"{k}.nii")
    data = open_data(DataConfig(source=str(tmp_path)))
    assert any("samples are written with the affine of 0.nii" in note for note in data.notes)
    np.testing.assert_allclose(np.array(data.file_format.affine).reshape(4, 4), AFFINE, atol=1e-6)


def test_slices_of_one_volume_are_written_as_slices(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(-300, 900, (5, 6, 4), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
    written(open_data(DataConfig(source=str(tmp_path / "a.nii.gz"))), tmp_path)
    for k in range(4):
        assert np.array_equal(
            np.asanyarray(nibabel.load(tmp_path / f"files/{k:05d}.nii.gz").dataobj), values[..., k : k + 1]
        )


def test_averaged_blocks_lie_where_their_middles_were(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    for k in range(2):
        values = np.random.default_rng(k).integers(0, 99, (4, 6, 2), dtype=np.int16)
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / f"{k}.nii")
    affine = np.array(open_data(DataConfig(source=str(tmp_path), shrink=2)).file_format.affine).reshape(4, 4)
    for place in ((0, 0, 0), (1, 2, 0)):
        corners = [2 * np.array(place) + [a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]
        middle = np.mean([AFFINE @ [*corner, 1] for corner in corners], 0)
        np.testing.assert_allclose(affine @ [*place, 1], middle, atol=1e-5)


def test_nrrd_keeps_its_space(tmp_path):
    nrrd = pytest.importorskip("nrrd")
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).integers(0, 999, (2, 5, 6, 4), dtype=np.uint16)
    header = {"space": "left-posterior-superior", "space directions": AFFINE[:3, :3].T, "space origin": AFFINE[:3, 3]}
    for k in range(2):
        nrrd.write(str(tmp_path / f"in/{k}.nrrd"), values[k], header)
    written(open_data(DataConfig(source=str(tmp_path / "in"))), tmp_path)
    for k in range(2):
        back, said = nrrd.read(str(tmp_path / f"files/{k:05d}.nrrd"))
        assert np.array_equal(back, values[k])
        assert back.dtype == np.uint16
        assert said["space"] == "left-posterior-superior"
        np.testing.assert_allclose(said["space directions"], AFFINE[:3, :3].T)
        np.testing.assert_allclose(said["space origin"], AFFINE[:3, 3])


# Recordings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "subtype", "kept"),
    [
        (".wav", "PCM_16", (".wav", "PCM_16")),
        (".wav", "FLOAT", (".wav", "FLOAT")),
        (".wav", "PCM_24", (".wav", "PCM_24")),
        (".flac", "PCM_16", (".flac", "PCM_16")),
        (".flac", "PCM_24", (".flac", "PCM_24")),
        (".ogg", "VORBIS", (".wav", "FLOAT")),
    ],
)
def test_recordings_keep_their_rate_and_depth(tmp_path, suffix, subtype, kept):
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "in").mkdir()
    time = np.arange(900) / 22050
    for k in range(2):
        both = np.stack([np.sin(2 * np.pi * (300 + 50 * k) * time), np.cos(2 * np.pi * 90 * time)], 1) * 0.8
        soundfile.write(tmp_path / f"in/{k}{suffix}", both, 22050, subtype=subtype)
    written(open_data(DataConfig(source=str(tmp_path / "in"))), tmp_path)
    count = {"PCM_16": 2**-15, "PCM_24": 2**-23}.get(subtype, 2**-22)
    for k in range(2):
        path = tmp_path / f"files/{k:05d}{kept[0]}"
        head = soundfile.info(path)
        assert (head.samplerate, head.channels, head.subtype, head.frames) == (22050, 2, kept[1], 900)
        before, after = soundfile.read(tmp_path / f"in/{k}{suffix}")[0], soundfile.read(path)[0]
        assert np.abs(before - after).max() <= count


# TIFF and deep pictures -------------------------------------------------------------------------------------------------


def test_a_ramp_of_16_bits_comes_back_to_the_count(tmp_path):
    (tmp_path / "in").mkdir()
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(ramp).save(tmp_path / "in/a.png")
    Image.fromarray(ramp[::-1].copy()).save(tmp_path / "in/b.png")
    data = open_data(DataConfig(source=str(tmp_path / "in")))
    assert data.file_format is None
    written(data, tmp_path)
    back = np.asarray(Image.open(tmp_path / "images/00000.png"))
    assert back.dtype == np.uint16
    assert np.abs(back.astype(int) - ramp).max() <= 1
    assert np.array_equal(np.load(tmp_path / "samples.npy")[0, 0], back)


@pytest.mark.parametrize(("dtype", "channels"), [("float32", 1), ("uint16", 3), ("int32", 1), ("float32", 5)])
def test_pages_of_tiff_are_written_as_tiff(tmp_path, dtype, channels):
    """Values of -500 to 3000 keep these ends, whatever x is: samples lie within the training data."""
    tifffile = pytest.importorskip("tifffile")
    shape = (6, 8, 10) if channels == 1 else (6, 8, 10, channels)
    values = np.random.default_rng(0).uniform(-500 if dtype != "uint16" else 0, 3000, shape).astype(dtype)
    tifffile.imwrite(
        tmp_path / "a.tif",
        values,
        photometric="minisblack" if channels != 3 else "rgb",
        planarconfig=None if channels == 1 else "contig",
    )
    data = open_data(DataConfig(source=str(tmp_path / "a.tif")))
    assert data.shape == (channels, 8, 10)
    x, codec = written(data, tmp_path)
    for k in range(6):
        back = tifffile.imread(tmp_path / f"files/{k:05d}.tif")
        assert back.dtype == np.dtype(dtype)
        np.testing.assert_allclose(back, values[k], rtol=0, atol=1e-3 if dtype == "float32" else 0)
    wild = codec.decode(torch.randn_like(x) * 30)
    assert wild.min() >= (values.min() if dtype == "float32" else codec.config.low[0])
    assert wild.max() <= (values.max() if dtype == "float32" else codec.config.high[0])
    quantiles = np.quantile(codec.decode(x).numpy(), [0.01, 0.5, 0.99])
    np.testing.assert_allclose(quantiles, np.quantile(values, [0.01, 0.5, 0.99]), atol=1e-3)


def test_a_folder_of_float_tiff_is_written_as_that(tmp_path):
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).uniform(-500, 3000, (3, 8, 8)).astype(np.float32)
    for k in range(3):
        Image.fromarray(values[k]).save(tmp_path / f"in/{k}.tif")
    written(open_data(DataConfig(source=str(tmp_path / "in"))), tmp_path)
    for k in range(3):
        back = np.asarray(Image.open(tmp_path / f"files/{k:05d}.tif"))
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, values[k], atol=1e-3)


def test_whole_numbers_beyond_floats_are_exact_or_refused(tmp_path):
    """Of 2^24 steps all come back, also far from 0; of more, nothing is read."""
    values = 10**9 + np.array([[0, 1, 2**24 - 1, 2**24]] * 2, np.int32)[:, None, None]
    np.save(tmp_path / "a.npy", values)
    data = open_data(DataConfig(source=str(tmp_path / "a.npy")))
    codec = Codec(fitted_codec(data))
    assert np.array_equal(codec.decode(codec.encode(data.values)).numpy().astype(np.int64), data.values)
    np.save(tmp_path / "b.npy", values + np.array([0, 0, 0, 1], np.int32))
    with pytest.raises(UsageError, match="more or larger than floats can distinguish"):
        fitted_codec(open_data(DataConfig(source=str(tmp_path / "b.npy"))))


# Complex numbers --------------------------------------------------------------------------------------------------------


def complex_values(dtype, shape=(5, 6, 6)):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_arrays_are_two_channels_and_written_complex(tmp_path, dtype):
    values = complex_values(dtype)
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(UsageError, match="set `complex`"):
        open_data(DataConfig(source=str(tmp_path / "a.npy")))
    data = open_data(DataConfig(source=str(tmp_path / "a.npy"), complex=True))
    assert data.shape == (2, 6, 6)
    assert np.array_equal(data.values[:, 0], values.real.astype(np.float32))
    assert np.array_equal(data.values[:, 1], values.imag.astype(np.float32))
    written(data, tmp_path)
    back = np.load(tmp_path / "samples.npy")
    assert back.dtype == np.dtype(dtype)
    np.testing.assert_allclose(back[:, 0], values, atol=1e-6)


def test_complex_signals_of_several_channels(tmp_path):
    values = complex_values("complex64", (5, 3, 40))
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = values
    config = {"source": str(tmp_path / "a.h5"), "layout": "NCL"}
    with pytest.raises(UsageError, match="set `complex`"):
        open_data(DataConfig(**config))
    data = open_data(DataConfig(**config, complex=True))
    assert data.shape == (6, 40)
    codec = Codec(fitted_codec(data))
    x = codec.decode(codec.encode(data.values))
    names = write_examples(tmp_path, "estimate", [*"abcde"], x, codec.config, data.file_format)
    assert names == ["estimate.npy"]
    np.testing.assert_allclose(np.load(tmp_path / "estimate.npy"), values, atol=1e-6)


def test_complex_volumes_keep_their_affine(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "in").mkdir()
    values = complex_values("complex64", (2, 5, 6, 4))
    for k in range(2):
        nibabel.save(nibabel.Nifti1Image(values[k], AFFINE), tmp_path / f"in/{k}.nii")
    data = open_data(DataConfig(source=str(tmp_path / "in"), complex=True))
    assert data.shape == (2, 4, 6, 5)
    written(data, tmp_path)
    for k in range(2):
        back = nibabel.load(tmp_path / f"files/{k:05d}.nii")
        np.testing.assert_allclose(back.affine, AFFINE, atol=1e-6)
        np.testing.assert_allclose(np.asanyarray(back.dataobj), values[k], atol=1e-6)


def test_complex_is_for_complex_numbers(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 5)))
    with pytest.raises(UsageError, match="leave it out"):
        open_data(DataConfig(source=str(tmp_path / "a.npy"), complex=True))


# Commands ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path):
    """Four volumes with an affine."""
    nibabel = pytest.importorskip("nibabel")
    (tmp_path / "scans").mkdir()
    for k in range(4):
        values = np.random.default_rng(k).integers(-500, 3000, (8, 4, 8)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / f"scans/{k}.nii.gz")
    return tmp_path / "scans"


def test_samples_and_edits_of_volumes_are_volumes(run, tmp_path, scans):
    nibabel = pytest.importorskip("nibabel")
    code, out = run("train", str(scans), "--train-steps", "1", "--batch-size", "2", *TINY)
    assert code == 0, out
    code, out = run("sample", "runs/scans", "-n", "2", "--steps", "1", "--out", "s")
    assert code == 0, out
    arrays = np.load(tmp_path / "s/samples.npy")
    with open(tmp_path / "s/samples.csv", newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["files/00000.nii.gz", "files/00001.nii.gz"]
    for k in range(2):
        back = nibabel.load(tmp_path / f"s/files/{k:05d}.nii.gz")
        assert back.get_data_dtype() == np.int16
        np.testing.assert_allclose(back.affine, AFFINE, atol=1e-6)
        assert np.array_equal(np.asanyarray(back.dataobj), arrays[k, 0].transpose(2, 1, 0))
    code, out = run("denoise", "runs/scans", "s/samples.npy", "--noise", "50", "--steps", "1", "--out", "d")
    assert code == 0, out
    found = sorted(path.name for path in (tmp_path / "d/estimate").iterdir())
    assert len(found) == 2
    assert all(name.endswith(".nii.gz") for name in found)
    assert nibabel.load(tmp_path / "d/estimate" / found[0]).shape == (8, 4, 8)


def test_complex_examples_go_through_training_and_edits(run, tmp_path):
    np.save(tmp_path / "a.npy", complex_values("complex64", (12, 8, 8)))
    code, out = run("train", "a.npy", "--complex", "--train-steps", "1", "--batch-size", "4", *TINY)
    assert code == 0, out
    assert run("sample", "runs/a", "-n", "2", "--steps", "1", "--out", "s")[0] == 0
    assert np.load(tmp_path / "s/samples.npy").dtype == np.complex64
    code, out = run("vary", "runs/a", "s/samples.npy", "-n", "1", "--steps", "2", "--out", "v")
    assert code == 0, out
    assert np.load(tmp_path / "v/variations.npy").shape == (2, 1, 8, 8)
    model = undiffuse.load(tmp_path / "runs/a")
    assert model.config.file_format.is_complex
    assert model.sample(1, steps=1).shape == (1, 2, 8, 8)
