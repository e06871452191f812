"""What users of Python pass by mistake, or from NumPy: understood, or a sentence; never an error of our insides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import undiffuse
from tests.small import TINY_SETTINGS, images, tiny_config, tiny_model
from undiffuse.conditioning.base import Note
from undiffuse.conditioning.spec import Condition
from undiffuse.data.config import share_or_count, sides
from undiffuse.errors import Failure, UsageError
from undiffuse.evaluation.likelihood import likelihood
from undiffuse.models import denoising, editing, inverse_problems
from undiffuse.models.file import save_model
from undiffuse.models.inverse_methods import InverseMethod
from undiffuse.sampling.classifier_guidance import Guide

HALF = np.arange(8)[None].repeat(8, 0) < 4
CAT = {"class": "cat"}


@pytest.mark.parametrize(
    ("settings", "plain"),
    [
        ({"steps": np.int64(3)}, {"steps": 3}),
        ({"steps": torch.tensor(3)}, {"steps": 3}),
        ({"guidance": np.float32(2)}, {"guidance": 2.0}),
        ({"guidance": torch.tensor(2.0)}, {"guidance": 2.0}),
        ({"guidance_scales": {"class": np.float64(2)}}, {"guidance_scales": {"class": 2.0}}),
        ({"restart": [*np.array([0.1, 3.0]).tolist(), np.int32(1)]}, {"restart": [0.1, 3.0, 1]}),
        ({"seed": np.uint8(4)}, {"seed": 4}),
    ],
)
def test_numbers_of_numpy_and_torch_are_numbers(settings, plain):
    model = tiny_model()
    assert torch.equal(model.sample(2, CAT, **settings), model.sample(2, CAT, **plain))


def test_a_method_may_be_named():
    one, other = (
        inverse_problems.inpaint(tiny_model(), images(2)[:, None], HALF, method=a, steps=3)
        for a in ("dps", InverseMethod("dps"))
    )
    assert torch.equal(one.values, other.values)


def inference(call):
    def within(model, x):
        with torch.inference_mode():
            return call(model, x)

    return within


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.sample(2, ["class"]),
        lambda m, x: m.sample(2, "cat"),
        lambda m, x: m.sample(2.5),
        lambda m, x: m.sample("2"),
        lambda m, x: m.sample(2, seed=0.5),
        lambda m, x: m.sample(2, index=["a", "b"]),
        lambda m, x: m.sample(2, negative="cat", guidance=2.0),
        lambda m, x: m.sample(2, autoguidance="runs/early", guidance=2.0),
        lambda m, x: m.sample(2, guides=sum),
        lambda m, x: m.sample(2, sampling={"steps": 3}),
        lambda m, x: m.sample(2, stepz=3),
        lambda m, x: m.sample(2, CAT, guidance=float("nan")),
        lambda m, x: m.sample(2, steps=len),
        lambda m, x: m.sample(2, batch_size=0),
        lambda m, x: m.trajectory(0),
        lambda m, x: likelihood(m, x[:0]),
        lambda m, x: likelihood(m, x, ["cat", "cat"]),
        lambda m, x: editing.reconstruct(m, x[:0]),
        lambda m, x: editing.reconstruct(m, "a.png"),
        lambda m, x: editing.vary(m, x, float("nan")),
        lambda m, x: inverse_problems.inpaint(m, x, HALF, method="magic"),
        lambda m, x: inverse_problems.inpaint(m, x, "center"),
        lambda m, x: inverse_problems.inpaint(m, x[:0], HALF),
        lambda m, x: Condition(kind="colour"),
        lambda m, x: Condition(kind="class", size=3),
        inference(lambda m, x: inverse_problems.inpaint(m, x, HALF)),
        inference(lambda m, x: denoising.denoise(m, x, steps=3)),
        inference(lambda m, x: m.sample(2, guides=[Guide(lambda x_t, level, index: x_t.flatten(1).sum(1))])),
    ],
)
def test_mistakes_are_sentences(call):
    with pytest.raises(UsageError) as refused:
        call(tiny_model(), images(2)[:, None])
    assert "\n" not in str(refused.value)


@pytest.fixture
def model_file(tmp_path):
    model = tiny_model()
    weights = dict(model.denoiser.named_parameters())
    save_model(tmp_path / "model.safetensors", model.config, weights, {name: p.clone() for name, p in weights.items()})
    return tmp_path / "model.safetensors"


def test_another_default_precision_is_said(model_file):
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(UsageError, match="set_default_dtype"):
            undiffuse.load(model_file)
        with pytest.raises(UsageError, match="set_default_dtype"):
            tiny_config().build()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("device", ["nowhere", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_said(model_file, device):
    with pytest.raises(UsageError, match="cannot be used here"):
        undiffuse.load(model_file, device=device)
    with pytest.raises(UsageError, match="cannot be used here"):
        undiffuse.train("digits", steps=1, device=device)


# Samples that are none ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda m, x: m.sample(2, CAT, guidance=1e38, clip="none"),
        lambda m, x: m.sample(2, guides=[Guide(lambda x_t, level, index: (x_t * torch.nan).flatten(1).sum(1))]),
        lambda m, x: editing.vary(m, x, 0.5, conditions=CAT, guidance=1e38, clip="none", steps=5),
        lambda m, x: inverse_problems.inpaint(
            m, x, HALF, method="replace", conditions=CAT, guidance=1e38, clip="none", steps=5
        ),
    ],
)
def test_samples_that_are_no_numbers_are_a_failure(call):
    with pytest.raises(Failure, match="NaN or infinite"):
        call(tiny_model(), images(2)[:, None])


def test_nothing_is_written_of_samples_that_are_no_numbers(run, model_file, tmp_path):
    code, out = run("sample", str(model_file), "-n", "2", "--class", "cat", "--guidance", "1e38", "--clip", "none")
    assert code == 1, out
    assert "NaN or infinite" in " ".join(out.split())
    assert not list(tmp_path.rglob("*.png"))


# Training -------------------------------------------------------------------------------------------------------------


def test_train_takes_the_data_options_of_the_command(tmp_path):
    """Channels-last pictures of another size than wanted: layout and shrink make them what the command would have."""
    np.save(tmp_path / "a.npy", images(12, (16, 16, 3)))
    model = undiffuse.train(
        tmp_path / "a.npy",
        runs=tmp_path / "runs",
        name="r",
        layout="NHWC",
        shrink=2,
        held_out=3,
        device="cpu",
        steps=np.int64(1),
        batch_size=np.int64(4),
        checkpoint_every=60,
        preview_every=60,
        settings=TINY_SETTINGS,
    )
    assert model.config.codec.shape == (3, 8, 8)
    assert model.config.provenance["data"]["held_out"] == 3


def test_what_reading_decides_is_said_in_python_too(tmp_path):
    np.savez(tmp_path / "a.npz", x=images(12), age=np.arange(12.0))
    with pytest.warns(Note, match="age"):
        undiffuse.train(
            tmp_path / "a.npz", runs=tmp_path / "runs", held_out=2, steps=1, batch_size=4, settings=TINY_SETTINGS
        )


@pytest.mark.parametrize("size", ["16", 16.0, (16,), (16, 0), (1, 2, 3), (8, "8")])
def test_a_size_that_is_none_says_what_one_is(tmp_path, size):
    with pytest.raises(UsageError, match=r"size is one side, such as 16, or \(height, width\)"):
        undiffuse.train(tmp_path, runs=tmp_path / "runs", size=size)
    assert sides(np.int64(16)) == [16, 16]
    assert sides((48, 64)) == [48, 64]


def test_train_resizes_images(tmp_path):
    (tmp_path / "d").mkdir()
    for k, picture in enumerate(images(6, (10, 12))):
        Image.fromarray(picture).save(tmp_path / f"d/{k}.png")
    model = undiffuse.train(
        Path(tmp_path / "d"),
        runs=tmp_path / "runs",
        size=8,
        fit="stretch",
        channels="rgb",
        held_out=1,
        steps=1,
        batch_size=2,
        settings=TINY_SETTINGS,
    )
    assert model.config.codec.shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": np.zeros((3, 8, 8))}, "same value everywhere"),
        ({"data": object()}, "has a length"),
        ({"data": "digits", "fit": "squeeze"}, "fit"),
        ({"data": "digits", "held_out": 1.0}, "neither a share"),
        ({"data": "digits", "layout": "NHW"}, "axes of an array"),
        ({"data": "digits", "conditions": ["class"]}, "Condition"),
        ({"data": "digits", "conditions": {"class": "class"}}, "Condition"),
        ({"data": "digits", "settings": ["prediction"]}, "dotted path"),
        ({"data": "digits", "latent": 2.5}, "latent is 2"),
        ({"data": "digits", "batch_size": "many"}, "batch_size"),
        ({"data": "digits", "colour": 3}, "no setting"),
        ({"data": "digits", "size": 64}, "images"),
    ],
)
def test_what_cannot_be_trained_is_a_sentence(tmp_path, arguments, words):
    with pytest.raises(UsageError, match=words) as refused:
        undiffuse.train(**arguments, runs=tmp_path, steps=1)
    assert "\n" not in str(refused.value)


def test_shares_and_counts():
    assert [share_or_count(value) for value in ("0.1", 0.25, "12", 12, 0, "0")] == [0.1, 0.25, 12, 12, 0, 0]
