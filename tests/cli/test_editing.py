"""denoise, reconstruct and interpolate as a person uses them, and what they do with images that do not fit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import TINY_SETTINGS, images, tiny_model
from undiffuse.data.examples import read_examples
from undiffuse.models import denoising, editing
from undiffuse.models.file import save_model
from undiffuse.sampling.settings import SamplingConfig

TINY = [f"--set={path}={json.dumps(value)}" for path, value in TINY_SETTINGS.items()]


@pytest.fixture
def model(tmp_path):
    """A model of 8×8 grey images, and image files beside it: a, b as it wants them, wide and deep not."""
    folder = tmp_path / "tiny"
    model = tiny_model()
    weights = dict(model.denoiser.named_parameters())
    save_model(folder / "model.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()})
    a, b = images(2)
    Image.fromarray(a).save(tmp_path / "a.png")
    Image.fromarray(b).save(tmp_path / "b.png")
    Image.fromarray(np.repeat(np.repeat(a, 4, 0), 4, 1)).convert("RGB").save(tmp_path / "large.png")
    Image.fromarray(a.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.save(tmp_path / "many.npy", images(3)[:, None])
    np.save(tmp_path / "wrong.npy", np.zeros((3, 1, 9, 8), dtype=np.uint8))
    np.save(tmp_path / "nan.npy", np.full((8, 8), np.nan))
    np.save(tmp_path / "text.npy", np.array([["a"] * 8] * 8))
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    return folder


# The functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["heun", "ddim", "ddpm_inversion", "stochastic"])
def test_strength_0_returns_the_input(method):
    values = torch.from_numpy(images(2)[:, None]).float()
    result = editing.reconstruct(tiny_model(), values, method=method, strength=0.0)
    assert torch.equal(result.values, values)
    assert result.psnr.isinf().all()


@pytest.mark.parametrize("variance", ["fixed_small", "learned_range"])
def test_a_recording_is_exact_to_rounding(variance):
    """One rounding of x - x̂ + x̂ at |x̂| of a few: below -20 log10(2^-22), 132 dB, with room for larger x̂."""
    model = tiny_model(variance_type=variance)
    result = editing.reconstruct(model, images(3)[:, None], method="ddpm_inversion", steps=20, seed=4)
    assert result.psnr.min() > 110
    assert torch.equal(result.values, torch.from_numpy(images(3)[:, None]).float())


def test_the_order_of_inversion():
    """A random network's flow is as good as any: Heun comes back nearer than DDIM, and both with more steps."""
    model, values = tiny_model(), images(4)[:, None]
    psnr = {
        (m, n): editing.reconstruct(model, values, method=m, steps=n).psnr.mean()
        for m in ("ddim", "heun")
        for n in (10, 100)
    }
    assert psnr["ddim", 10] < psnr["ddim", 100] < psnr["heun", 100]
    assert psnr["heun", 10] < psnr["heun", 100]


def test_an_example_is_the_same_alone_and_among_others():
    model, values = tiny_model(), images(3)[:, None]
    together = editing.reconstruct(model, values, steps=5).back
    alone = editing.reconstruct(model, values[:1], steps=5).back
    torch.testing.assert_close(together[:1], alone)


def test_the_ends_of_an_interpolation_are_the_two_examples():
    model, (a, b) = tiny_model(), images(2)[:, None]
    result = editing.interpolate(model, a, b, 5, steps=50)
    ends = editing.reconstruct(model, np.stack([a, b]), steps=50)
    torch.testing.assert_close(result.back[[0, -1]], ends.back, atol=1e-4, rtol=1e-4)
    assert result.shares == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_noise_in_the_datas_units_and_as_a_level_is_the_same():
    """Values 0..255 are x in [-1, 1]: 51 of them are sigma/alpha 0.4."""
    model, values = tiny_model(), images(2)[:, None].astype(np.float32) * 2 - 100
    one = denoising.denoise(model, values, noise=51.0, steps=3)
    other = denoising.denoise(model, values, level=0.4, steps=3)
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.sample, other.sample)
    assert denoising.in_data_units(model, one.sigma_edm).tolist() == pytest.approx([51.0, 51.0])


def test_a_descent_starts_at_the_noise_and_ends_clean():
    schedule = tiny_model().schedule
    levels = denoising.descent(schedule, 0.4, 7)
    assert len(levels) == 8
    assert levels.sigma_edm[0].item() == pytest.approx(0.4)
    assert levels.sigma[-1] == 0
    assert (levels.logsnr.diff() > 0).all()
    assert len(denoising.descent(schedule, 1e-9, 7)) == 2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: editing.reconstruct(m, x, method="magic"), "heun, ddim, ddpm_inversion"),
        (lambda m, x: editing.reconstruct(m, x, strength=1.5), "0 .nothing. to 1"),
        (lambda m, x: editing.reconstruct(m, x, solver="ddpm"), "cannot be chosen"),
        (lambda m, x: editing.interpolate(m, x[0], x[1], 1), "at least 2"),
        (lambda m, x: editing.interpolate(m, x[0], x[1], method="stochastic"), "heun or ddim"),
        (lambda m, x: denoising.denoise(m, x, noise=1.0, level=1.0), "given twice"),
        (lambda m, x: denoising.denoise(m, x, noise=0.0), "above 0"),
        (lambda m, x: denoising.denoise(m, x, level=1e9), "up to"),
        (lambda m, x: denoising.denoise(m, x, estimate="guess"), "likelihood, wavelet"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call(tiny_model(), images(2)[:, None])


# Files ----------------------------------------------------------------------------------------------------------------


def test_images_are_brought_to_the_models_size_and_mode(model, tmp_path):
    codec, a = tiny_model().config.codec, images(2)[0]
    values, notes = read_examples(tmp_path / "a.png", codec)
    assert np.array_equal(values[0, 0], a)
    assert not notes
    values, notes = read_examples(tmp_path / "deep.png", codec)
    assert np.array_equal(values[0, 0], a)
    assert "16-bit grey, converted to grey" in notes[0]
    values, notes = read_examples(tmp_path / "large.png", codec)
    assert values.shape == (1, 1, 8, 8)
    assert "colour, converted to grey" in notes[0]
    assert "32×32 (height×width), resized, cropping to fit, to the model's 8×8" in notes[1]


def test_16_bits_keep_their_depth(tmp_path):
    codec = tiny_model().config.codec.model_copy(
        update={"mode": "I;16", "dtype": "uint16", "low": (0.0,), "high": (65535.0,)}
    )
    deep = images(1)[0].astype(np.uint16) * 200 + 7
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(read_examples(tmp_path / "deep.png", codec)[0][0, 0], deep)
    Image.fromarray(images(1)[0]).save(tmp_path / "flat.png")
    assert np.array_equal(read_examples(tmp_path / "flat.png", codec)[0][0, 0], images(1)[0].astype(np.uint16) * 257)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (8, 8, 1), (2, 8, 8), (2, 1, 8, 8), (2, 8, 8, 1)])
def test_arrays_of_any_layout(tmp_path, shape):
    values = images(2)[: 2 if shape[0] == 2 else 1]
    np.save(tmp_path / "x.npy", values.reshape(shape))
    assert np.array_equal(read_examples(tmp_path / "x.npy", tiny_model().config.codec)[0], values[:, None])


def test_channels_last_are_brought_first(tmp_path):
    values = images(2, (3, 8, 8))
    np.save(tmp_path / "x.npy", values.transpose(0, 2, 3, 1))
    assert np.array_equal(read_examples(tmp_path / "x.npy", tiny_model(shape=(3, 8, 8)).config.codec)[0], values)


# The commands ---------------------------------------------------------------------------------------------------------


def test_reconstruct_writes_pictures_arrays_and_numbers(run, model):
    code, out = run("reconstruct", "tiny", "a.png", "many.npy", "--steps", "6", "--trajectory")
    assert code == 0, out
    folder = model / "edited/001"
    assert "wrote tiny/edited/001/" in out
    assert (
        "next: undiffuse reconstruct tiny a.png many.npy --steps 6 --trajectory --method ddpm_inversion  is exact\n"
        in out
    )
    assert np.load(folder / "reconstructed.npy").shape == (4, 1, 8, 8)
    assert (folder / "reconstructed/003-many-2.png").exists()
    numbers = json.loads((folder / "numbers.json").read_text())
    assert list(numbers["psnr_db"]) == ["a", "many-0", "many-1", "many-2"]
    with Image.open(folder / "trajectory.gif") as animation:
        assert animation.n_frames == 12  # 5 steps up, 6 down, the end
    for name in ("picture.png", "trajectory.png"):
        with Image.open(folder / name) as picture:
            assert picture.width > 400


def test_strength_0_is_exact(run, model):
    code, out = run("reconstruct", "tiny", "a.png", "--strength", "0", "--steps", "4", "--trajectory")
    assert code == 0, out
    assert "a: exact" in out
    assert np.array_equal(np.load(model / "edited/001/reconstructed.npy")[0, 0], images(2)[0])
    assert json.loads((model / "edited/001/numbers.json").read_text())["psnr_db"] == {"a": None}


def test_denoise_estimates_or_is_told(run, model, tmp_path):
    code, out = run("denoise", "tiny", "a.png", "b.png", "--steps", "4", "--class", "dog", "--trajectory")
    assert code == 0, out
    assert "estimated by likelihood" in out
    code, out = run("denoise", "tiny", "a.png", "--steps", "4", "--noise", "25.5", "--out", "there")
    assert code == 0, out
    assert "a: noise 25.5, given" in out
    assert json.loads((tmp_path / "there/numbers.json").read_text())["sigma_over_alpha"]["a"] == pytest.approx(0.2)
    assert np.load(tmp_path / "there/estimate.npy").dtype == np.uint8
    assert (tmp_path / "there/sample/000-a.png").exists()


def test_noise_that_was_cut_off_is_pointed_at(run, model, tmp_path):
    Image.fromarray(np.where(images(1)[0] > 127, 255, 0).astype(np.uint8)).save(tmp_path / "cut.png")
    for arguments, said in ((("cut.png",), True), (("cut.png", "--noise", "20"), False), (("a.png",), False)):
        code, out = run("denoise", "tiny", *arguments, "--steps", "2")
        assert code == 0, out
        assert ("100% of the values lie at the ends" in " ".join(out.split())) == said


def test_interpolate_between_a_file_and_an_example_of_the_data(run, tmp_path):
    assert run("train", "digits", "--train-steps", "2", "--batch-size", "8", *TINY)[0] == 0
    assert run("sample", "runs/digits", "-n", "1")[0] == 0
    code, out = run(
        "interpolate",
        "runs/digits",
        "runs/digits/sampled/001/images/00000.png",
        "data:3",
        "-n",
        "4",
        "--steps",
        "6",
        "--trajectory",
    )
    assert code == 0, out
    assert "black to white read as 0 to 16" in out
    assert np.load(tmp_path / "runs/digits/edited/001/interpolated.npy").shape == (4, 1, 8, 8)
    assert (tmp_path / "runs/digits/edited/001/trajectory.gif").exists()
    for name in ("data:1797", "data:x", "data:-1"):
        code, out = run("reconstruct", "runs/digits", name)
        assert code == 2
        assert "data:0 to data:1796" in " ".join(out.split())


def test_curves_and_volumes_are_edited_too(run, tmp_path):
    for shape in ((2, 16), (1, 4, 8, 8)):
        model = tiny_model(shape=shape)
        folder = tmp_path / f"of{len(shape)}"
        weights = dict(model.denoiser.named_parameters())
        save_model(
            folder / "model.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()}
        )
        np.save(tmp_path / "x.npy", images(2, shape))
        code, out = run("reconstruct", str(folder), "x.npy", "--steps", "3", "--trajectory")
        assert code == 0, out
        assert run("denoise", str(folder), "x.npy", "--steps", "3", "--estimate", "wavelet")[0] == 0
        assert (folder / "edited/002/picture.png").exists()
        assert not (folder / "edited/002/sample").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("reconstruct", "tiny", "none.png"), "there is no file none.png"),
        (("reconstruct", "tiny", "notes.txt"), "neither an image nor"),
        (("reconstruct", "tiny", "wrong.npy"), "(3, 1, 9, 8), but the model takes (1, 8, 8)"),
        (("denoise", "tiny", "nan.npy"), "NaN"),
        (("denoise", "tiny", "text.npy"), "integers or floats"),
        (("denoise", "tiny", "broken.png"), "cannot be read"),
        (("reconstruct", "tiny", "data:0"), "does not say which data"),
        (("reconstruct", "tiny", "a.png", "--method", "magic"), "choose one of heun"),
        (("reconstruct", "tiny", "a.png", "--strength", "2"), "lies outside"),
        (("reconstruct", "tiny", "a.png", "--class", "bird"), "cat, dog, 7"),
        (("reconstruct", "tiny", "a.png", "--steps", "101"), "100 levels"),
        (("reconstruct", "tiny", "a.png", "--out", "tiny"), "written over"),
        (("denoise", "tiny", "a.png", "--noise", "-1"), "above 0"),
        (("denoise", "tiny", "a.png", "--noise", "1", "--level", "1"), "given twice"),
        (("interpolate", "tiny", "a.png", "many.npy"), "hold 4"),
        (("interpolate", "tiny", "a.png", "b.png", "-n", "1"), "at least 2"),
        (("interpolate", "tiny", "a.png"), "B"),
        (("denoise", "tiny"), "IMAGE"),
        (("denoise", "nowhere", "a.png"), "undiffuse train"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(run, model, tmp_path, arguments, words):
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    code, out = run(*arguments)
    assert code == 2, out
    assert words in " ".join(out.replace("│", " ").split()), out
    assert "Traceback" not in out
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_models_own_guidance_does_not_enter_a_reconstruction():
    plain, guided = (
        tiny_model(sampling=SamplingConfig(steps=5, **g)) for g in ({}, {"guidance": 0.6, "guidance_method": "cfg++"})
    )
    values = images(2)[:, None].astype(np.float32)
    ends = [editing.reconstruct(m, values, steps=6, conditions={"class": "cat"}).back for m in (plain, guided)]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0)
