"""Inverse problems with a model: units, masks and conditions; and the commands as a person uses them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import images, tiny_model
from undiffuse.cli.inverse import MASKS
from undiffuse.conditioning.classes import ClassConfig
from undiffuse.data.codec import CodecConfig
from undiffuse.models import editing, inverse_problems
from undiffuse.models.file import save_model
from undiffuse.models.inverse_methods import InverseMethod
from undiffuse.models.masks import MASK_NAMES, read_mask
from undiffuse.process.operators import REC_601, Blur, Downsample, Grey
from undiffuse.sampling.settings import SamplingConfig

METHODS = ["exact", "pigdm", "replace", "dps", "repaint"]
HALF = torch.zeros(8, 8, dtype=torch.bool)
HALF[4:] = True


def floats(shape):
    """A model of floats whose channels have units of their own, and no ends."""
    c = shape[0]
    codec = CodecConfig(
        shape=shape,
        kind="float",
        dtype="float32",
        mode=None,
        offset=tuple(10.0 * k for k in range(c)),
        scale=tuple(1.0 + 2 * k for k in range(c)),
        low=(-1e6,) * c,
        high=(1e6,) * c,
    )
    return tiny_model(shape=shape, codec=codec)


def draws(model, n=2):
    noise = torch.randn(n, *model.config.codec.shape, generator=torch.Generator().manual_seed(3))
    return model.codec.decode(noise)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_known_comes_back_as_it_was(method):
    values = images(3)[:, None]
    result = inverse_problems.inpaint(tiny_model(), values, HALF, 2, method=InverseMethod(method), steps=6)
    assert result.values.shape == (3, 2, 1, 8, 8)
    given = torch.from_numpy(values).float()[:, None].expand(-1, 2, -1, -1, -1)
    assert torch.equal(result.values[..., :4, :], given[..., :4, :])
    assert not torch.equal(result.values[:, 0, :, 4:], result.values[:, 1, :, 4:])
    assert result.values.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_any_number_of_steps_whatever_the_models_own_settings_are(method, steps):
    model = tiny_model(sampling=SamplingConfig(steps=5, churn=3.0, order=2))
    assert (
        inverse_problems.inpaint(model, images(1)[:, None], HALF, method=InverseMethod(method), steps=steps)
        .values.isfinite()
        .all()
    )


@pytest.mark.parametrize("shape", [(2, 16), (1, 4, 8, 8)])
def test_signals_and_volumes_and_missing_numbers(shape):
    model = floats(shape)
    values = draws(model)
    missing = values.clone()
    missing[..., ::2] = torch.nan
    result = inverse_problems.inpaint(model, missing, steps=4)
    assert torch.equal(result.values[:, 0, ..., 1::2], values[..., 1::2])
    assert result.values.isfinite().all()


def test_what_stands_at_hidden_places_does_not_matter():
    model, values = tiny_model(), images(1)[:, None].astype(np.float32)
    other = values.copy()
    other[:, :, 4:] = 1e9
    one, two = (inverse_problems.inpaint(model, v, HALF, steps=4).values for v in (values, other))
    assert torch.equal(one, two)


def test_a_mask_for_each_example_and_for_all_in_any_layout():
    model, values = tiny_model(shape=(3, 8, 8)), images(2, (3, 8, 8))
    whole = HALF.expand(2, 3, 8, 8)
    answers = [
        inverse_problems.inpaint(model, values, mask, steps=3).values
        for mask in (HALF, HALF[None], HALF.expand(3, 8, 8), whole[:, :1], whole)
    ]
    for other in answers[1:]:
        assert torch.equal(answers[0], other)
    each = inverse_problems.inpaint(model, values, torch.stack([HALF, ~HALF])[:, None], steps=3).values
    torch.testing.assert_close(each[0], answers[0][0], rtol=0, atol=1)  # one step of rounding
    assert torch.equal(each[1, 0, :, 4:], torch.from_numpy(values[1, :, 4:]).float())


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 16)])
def test_answers_agree_with_what_was_given_in_the_datas_own_units(shape):
    """`replace` obeys y, so the operator, applied to answers in the data's units, must give the values that were passed in."""
    model, how = floats(shape), {"method": InverseMethod("replace"), "steps": 4, "clip": "none"}
    x = draws(model)
    small = Downsample(2)(x)
    torch.testing.assert_close(
        Downsample(2)(inverse_problems.upscale(model, small, 2, **how).values[:, 0]), small, rtol=1e-4, atol=1e-3
    )
    grey = Grey(REC_601 if shape[0] == 3 else (0.5, 0.5))
    for given in (grey(x), x):
        torch.testing.assert_close(
            grey(inverse_problems.colorize(model, given, **how).values[:, 0]), grey(x), rtol=1e-4, atol=1e-3
        )
    blurred = Blur(0.5)(x)
    torch.testing.assert_close(
        Blur(0.5)(inverse_problems.deblur(model, blurred, 0.5, **how).values[:, 0]), blurred, rtol=1e-4, atol=1e-3
    )


def test_answers_do_not_depend_on_what_is_solved_beside_them():
    model, values = tiny_model(), images(2)[:, None]
    together = inverse_problems.inpaint(model, values, HALF, 2, conditions={"class": ["cat", "7"]}, steps=4).values
    alone = inverse_problems.inpaint(model, values[:1], HALF, 2, conditions={"class": "cat"}, steps=4).values
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1)
    other = inverse_problems.inpaint(model, values[:1], HALF, 2, conditions={"class": "dog"}, steps=4).values
    assert (other - alone).abs().max() > 2


def test_variations_follow_each_other_and_grow_with_strength():
    model, values = tiny_model(), images(2)[:, None]
    little, much = (editing.vary(model, values, s, 3, conditions={"class": ["cat", "7"]}, steps=20) for s in (0.1, 0.9))
    assert little.values.shape == (6, 1, 8, 8)
    assert (little.psnr > much.psnr).all()
    assert torch.equal(
        editing.vary(model, values, 0.0, 3).values, torch.from_numpy(values).float().repeat_interleave(3, 0)
    )
    assert not torch.equal(much.values[0], much.values[1])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, x: inverse_problems.inpaint(m, x, torch.ones(7, 8)), "mask has the shape"),
        (lambda m, x: inverse_problems.inpaint(m, x, torch.ones(3, 1, 8, 8)), "mask has"),
        (lambda m, x: inverse_problems.inpaint(m, x, torch.ones(8, 8)), "hides everything of example 0"),
        (lambda m, x: inverse_problems.inpaint(m, x, torch.zeros(8, 8)), "hides nothing of example 0"),
        (lambda m, x: inverse_problems.inpaint(m, x), "hides nothing"),
        (lambda m, x: inverse_problems.inpaint(m, x * np.float32("nan"), HALF), "NaN"),
        (lambda m, x: inverse_problems.inpaint(m, x[:, 0], HALF), "takes examples of shape"),
        (lambda m, x: inverse_problems.inpaint(m, x + 300, HALF), "made for"),
        (lambda m, x: inverse_problems.inpaint(m, x, HALF, 0), "at least 1"),
        (lambda m, x: inverse_problems.upscale(m, x, 3), "does not divide"),
        (lambda m, x: inverse_problems.upscale(m, x, 2), r"takes examples of shape \(1, 4, 4\)"),
        (lambda m, x: inverse_problems.colorize(m, x), "grey already"),
        (lambda m, x: inverse_problems.deblur(m, x, -1.0), "above 0"),
        (lambda m, x: inverse_problems.deblur(m, x, 1.0, noise=-1.0), "0 or more"),
        (lambda m, x: editing.vary(m, x, 1.5), "outside 0"),
        (lambda m, x: editing.vary(m, x, 0.5, 0), "at least 1"),
        (lambda m, x: inverse_problems.inpaint(m, x, HALF, method=InverseMethod("dps"), solver="heun"), "ddpm or ddim"),
        (
            lambda m, x: inverse_problems.inpaint(m, x, HALF, method=InverseMethod("repaint"), solver="ddim"),
            "ancestral",
        ),
        (lambda m, x: inverse_problems.deblur(m, x, method=InverseMethod("repaint")), "mask hides"),
        (lambda m, x: InverseMethod("magic"), "exact, pigdm"),
        (lambda m, x: InverseMethod(iterations=0), "1 or more"),
        (
            lambda m, x: inverse_problems.colorize(tiny_model(shape=(3, 8, 8)), x, weights=(1.0, 1.0, 1.0)),
            "sum up to 3",
        ),
        (lambda m, x: inverse_problems.deblur(floats((2, 8)), np.zeros((1, 2, 8)), noise=0.1), "units of their own"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call(tiny_model(), images(2)[:, None].astype(np.float32))


# Masks by name --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        ("left", slice(0, 6), slice(0, 4)),
        ("right", slice(0, 6), slice(4, 8)),
        ("top", slice(0, 3), slice(0, 8)),
        ("bottom", slice(3, 6), slice(0, 8)),
        ("center", slice(1, 5), slice(2, 6)),
        ("box:1,2,3,4", slice(1, 4), slice(2, 6)),
    ],
)
def test_named_parts(text, rows, columns):
    expected = np.zeros((2, 1, 6, 8), dtype=bool)
    expected[:, :, rows, columns] = True
    assert np.array_equal(read_mask(text, np.zeros((2, 3, 6, 8))), expected)


def test_the_help_names_the_masks():
    assert MASKS == MASK_NAMES


def test_a_random_mask_hides_its_share_and_differs_between_examples():
    mask = read_mask("random:0.25", np.zeros((3, 2, 8, 8)), 5)
    assert mask.reshape(3, -1).sum(1).tolist() == [16] * 3
    assert not np.array_equal(mask[0], mask[1])
    assert np.array_equal(mask[:1], read_mask("random:0.25", np.zeros((1, 2, 8, 8)), 5))
    assert read_mask("left", np.zeros((1, 2, 10))).sum() == 5


@pytest.mark.parametrize(
    "text", ["random:0", "random:1", "random:x", "box:0,0,9,1", "box:0,0,1", "top", "middle", "box:0,0,0,4"]
)
def test_what_names_no_mask_is_a_sentence(text):
    with pytest.raises(ValueError, match="write"):
        read_mask(text, np.zeros((1, 1, 8)) if text == "top" else np.zeros((1, 1, 8, 8)))


# The commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Models of grey and of colour images, and files for them."""
    for name, model in (("tiny", tiny_model()), ("colour", tiny_model(shape=(3, 8, 8)))):
        weights = dict(model.denoiser.named_parameters())
        save_model(
            tmp_path / name / "model.safetensors", model.config, weights, {k: p.clone() for k, p in weights.items()}
        )
    Image.fromarray(images(1)[0]).save(tmp_path / "a.png")
    Image.fromarray(images(1, (4, 4))[0]).save(tmp_path / "small.png")
    Image.fromarray(images(1, (8, 8, 3))[0]).save(tmp_path / "colour.png")
    Image.fromarray((HALF.numpy() * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "wrong.png")
    holes = images(2)[:, None].astype(np.float32)
    holes[:, :, 2:5, 3] = np.nan
    np.save(tmp_path / "holes.npy", holes)
    return tmp_path


def test_inpaint_from_a_mask_file(run, files):
    code, out = run(
        "inpaint",
        "tiny",
        "a.png",
        "--mask",
        "mask.png",
        "-n",
        "2",
        "--steps",
        "3",
        "--class",
        "dog",
        "--trajectory",
        "--out",
        "there",
    )
    assert code == 0, out
    assert (
        "next: undiffuse inpaint tiny a.png --mask mask.png -n 2 --steps 3 --class dog --trajectory --seed 1"
        in " ".join(out.split())
    )
    assert "the mask hides 50% of the picture" in out
    assert "not black and white" not in out
    answers = np.load(files / "there/restored.npy")
    assert answers.shape == (2, 1, 8, 8)
    assert answers.dtype == np.uint8
    assert np.array_equal(answers[:, 0, :4], np.stack([images(1)[0, :4]] * 2))
    numbers = json.loads((files / "there/numbers.json").read_text())
    assert (numbers["hidden"], numbers["conditions"]) == (0.5, {"class": "dog"})
    for name in ("picture.png", "trajectory.png", "trajectory.gif", "restored/001-a-1.png", "observed/000-a.png"):
        assert (files / "there" / name).exists()


def test_a_photograph_as_a_mask_is_noted(run, files):
    Image.fromarray(np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)).save(files / "photo.png")
    code, out = run("inpaint", "tiny", "a.png", "--mask", "photo.png", "-n", "1", "--steps", "1", "--out", "there")
    assert code == 0, out
    assert "photo.png is not black and white" in out
    assert "the mask hides 50% of the picture" in out


def test_steps_are_those_of_a_batch(run, files, monkeypatch):
    monkeypatch.setattr("undiffuse.models.inverse_methods.WITH_GRADIENTS", 2)
    code, out = run("inpaint", "tiny", "a.png", "-n", "3", "--steps", "3", "--out", "there")
    assert code == 0, out
    assert "3 of 3 steps, batch 2 of 2" in " ".join(out.split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("inpaint", "tiny", "holes.npy", "--mask", "missing"),
        ("inpaint", "tiny", "a.png", "--method", "repaint", "--jump-repeats", "2"),
        ("upscale", "tiny", "small.png"),
        ("upscale", "tiny", "a.png", "--simulate", "--factor", "4"),
        ("colorize", "colour", "colour.png", "a.png"),
        ("deblur", "tiny", "a.png", "--simulate", "--method", "dps"),
        ("vary", "tiny", "a.png", "--class", "cat", "--guidance", "2"),
        ("inpaint", "colour", "colour.png", "--mask", "random:0.5", "--class", "cat", "--guidance", "2"),
    ],
)
def test_every_task_draws_and_writes(run, files, arguments):
    code, out = run(*arguments, "-n", "2", "--steps", "4", "--out", "there")
    assert code == 0, out
    assert f"next: undiffuse {arguments[0]}" in out
    with Image.open(files / "there/picture.png") as picture:
        assert picture.height > 350


def test_curves_and_volumes_are_filled_in_too(run, files):
    for shape in ((2, 16), (1, 4, 8, 8), (5, 8, 8)):
        model = tiny_model(shape=shape)
        weights = dict(model.denoiser.named_parameters())
        save_model(files / "of/model.safetensors", model.config, weights, {k: p.clone() for k, p in weights.items()})
        np.save(files / "x.npy", images(2, shape))
        code, out = run("inpaint", "of", "x.npy", "--mask", "right", "-n", "1", "--steps", "3")
        assert code == 0, out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inpaint", "tiny", "a.png", "--mask", "wrong.png"), "hides nothing"),
        (("inpaint", "tiny", "a.png", "--mask", "none.png"), "there is no mask"),
        (("inpaint", "tiny", "a.png", "--mask", "box:0,0,8,8"), "hides everything"),
        (("inpaint", "tiny", "holes.npy"), "NaN"),
        (("inpaint", "tiny", "a.png", "--method", "magic"), "choose one of exact"),
        (("upscale", "tiny", "a.png"), "add --simulate"),
        (("upscale", "tiny", "small.png", "--factor", "3"), "does not divide"),
        (("colorize", "tiny", "a.png"), "grey already"),
        (("deblur", "tiny", "a.png", "--radius", "0"), "above 0"),
        (("vary", "tiny", "a.png", "--strength", "1.2"), "lies outside"),
        (("vary", "tiny", "a.png", "--class", "bird"), "cat, dog, 7"),
        (("upscale", "tiny", "data:0"), "--simulate"),
    ],
)
def test_wrong_use_is_one_sentence_and_exit_code_2(run, files, arguments, words):
    before = sorted(str(path) for path in files.rglob("*"))
    code, out = run(*arguments)
    assert "━" not in out  # no bar of nothing
    assert code == 2, out
    assert words in " ".join(out.replace("│", " ").split()), out
    assert "Traceback" not in out
    assert sorted(str(path) for path in files.rglob("*")) == before


@pytest.mark.parametrize("method", METHODS)
def test_momentum_of_guidance_is_remembered_here_too(method):
    model = tiny_model(conditions={"class": ClassConfig(names=("cat", "dog"))})
    given = {
        "method": InverseMethod(method),
        "steps": 5,
        "conditions": {"class": "dog"},
        "guidance": 3.0,
        "guidance_method": "apg",
    }
    one, other = (
        inverse_problems.inpaint(model, images(1)[:, None], HALF, apg_momentum=beta, **given).values
        for beta in (-0.7, 0.0)
    )
    assert not torch.equal(one, other)


FORMS = [
    {},
    {"apg_norm_threshold": 1.0},
    {"guidance_method": "cfg", "guidance_rescale": 0.5},
    {"guidance_method": "cfg"},
]


@pytest.mark.parametrize("how", FORMS, ids=str)
@pytest.mark.parametrize("method", ["exact", "pigdm", "dps"])
def test_gradients_go_through_every_form_of_guidance(method, how):
    """A bound that is not there once made them 0 · inf."""
    model = tiny_model(conditions={"class": ClassConfig(names=("cat", "dog"))})
    told = {"conditions": {"class": "dog"}, "guidance": 3.0, "guidance_method": "apg"} | how
    assert (
        inverse_problems.inpaint(model, images(1)[:, None], HALF, method=InverseMethod(method), steps=4, **told)
        .values.isfinite()
        .all()
    )
