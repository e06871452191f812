"""What tasks by training show: what it is made of, written with NumPy; a function of the generator; masks that hide something and leave something."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from undiffuse.conditioning.degradations import AddNoise, Colorize, Deblur, Degradations, Inpaint, Upscale, parse_tasks

SHAPES = [(1, 8, 8), (3, 9, 6), (2, 12), (1, 4, 6, 8)]
EACH = {"inpaint": Inpaint(), "deblur:1.2": Deblur(radius=1.2), "denoise": AddNoise()}


def examples(*shape, n=40):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", SHAPES)
def test_inpainting_shows_what_it_keeps_and_hides_something_of_every_example(shape):
    x = examples(*shape, n=300)
    seen = Inpaint().observe(x, generator())
    known = seen[:, -2:-1].bool()
    assert seen.shape == (300, shape[0] + 2, *shape[1:])
    assert torch.equal(seen[:, :-2], torch.where(known, x, 0))
    assert (seen[:, -1] == 0).all()
    share = 1 - known.flatten(1).double().mean(1)
    assert ((share > 0) & (share < 1)).all()
    halves = share[(share - 0.5).abs() < 0.01]  # of even sides exactly a half
    assert len(halves) > 30 or any(n % 2 for n in shape[1:])
    assert share.min() < 0.3
    assert share.max() > 0.6


def test_boxes_are_boxes_and_halves_are_halves():
    """A third of the masks hide a box, a third a half: in these what is hidden is the product of its shadows on the axes."""
    hidden = 1 - Inpaint().observe(examples(1, 8, 10, n=900), generator())[:, 1]
    rows, columns = hidden.amax(2), hidden.amax(1)
    whole = torch.einsum("br,bc->brc", rows, columns) == hidden
    contiguous = ((rows.diff(dim=1).abs().sum(1) <= 2) & (columns.diff(dim=1).abs().sum(1) <= 2)) & whole.flatten(
        1
    ).all(1)
    assert 0.6 < contiguous.double().mean() < 0.75  # 2/3, and scattered places are hardly ever a box


@pytest.mark.parametrize("factor", [2, 3])
def test_upscaling_shows_block_averages_copied(factor):
    x = examples(2, 6, 12)
    seen = Upscale(factor=factor).observe(x, generator()).numpy()
    means = x.numpy().reshape(40, 2, 6 // factor, factor, 12 // factor, factor).mean((3, 5))
    np.testing.assert_allclose(seen[:, :2], means.repeat(factor, 2).repeat(factor, 3), atol=1e-6)
    assert (seen[:, 2] == 1).all()


def test_colouring_shows_grey():
    x = examples(3, 5, 5)
    seen = Colorize().observe(x, generator())
    bright = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]  # ITU-R BT.601
    torch.testing.assert_close(seen[:, :3], bright[:, None].expand(-1, 3, -1, -1))
    y = examples(2, 5)
    torch.testing.assert_close(Colorize().observe(y, generator())[:, :2], y.mean(1, keepdim=True).expand(-1, 2, -1))


def test_deblurring_shows_a_gaussian_mean():
    """An impulse far from the borders becomes the Gaussian, and flat examples stay flat."""
    x = torch.zeros(1, 1, 41)
    x[0, 0, 20] = 1
    seen = Deblur(radius=2.0).observe(x, generator())[0, 0]
    expected = torch.exp(-((torch.arange(41) - 20.0) ** 2) / 8) / (2 * (2 * torch.pi) ** 0.5)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        Deblur(radius=2.0).observe(torch.full((1, 1, 7, 9), 0.3), generator())[:, :1], torch.full((1, 1, 7, 9), 0.3)
    )


def test_noise_has_the_deviation_that_is_told():
    n = 4000
    seen = AddNoise(noise=(0.2, 0.8)).observe(torch.zeros(n, 1, 100), generator())
    told = seen[:, 2, 0].double()
    assert 0.2 <= told.min() < 0.21
    assert 0.79 < told.max() <= 0.8
    ratio = seen[:, 0].double().std(1) / told
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / n**0.5 + 0.005  # a sample deviation of 100 is 0.25 % small
    small = Upscale(factor=2, noise=(0.5, 0.5)).observe(torch.zeros(n, 1, 8), generator())
    assert torch.equal(small[:, 0, ::2], small[:, 0, 1::2])  # noise is added to the small example
    assert abs(small[:, 0].std().item() - 0.5) < 0.02


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mixture_is_a_function_of_the_generator_and_every_example_has_its_own_task(shape):
    tasks, x = Degradations(EACH), examples(*shape)
    a, b, other = (tasks.conditions(x, generator(seed)) for seed in (3, 3, 4))
    assert all(torch.equal(a[name], b[name]) for name in ("observation", "task"))
    assert not torch.equal(a["observation"], other["observation"])
    assert set(a["task"].tolist()) == {0, 1, 2}
    denoised = a["observation"][a["task"] == 2]
    assert (denoised[:, -1] >= 0.1).all()
    assert (a["observation"][a["task"] != 2][:, -1] == 0).all()
    assert "task" not in Degradations({"denoise": AddNoise()}).conditions(x, generator())


def test_tasks_are_read_from_what_people_write():
    found = parse_tasks("inpaint, upscale:4,colorize,deblur:1.5,denoise")
    assert list(found) == ["inpaint", "upscale:4", "colorize", "deblur:1.5", "denoise"]
    assert found["upscale:4"] == Upscale(factor=4)
    assert found["deblur:1.5"] == Deblur(radius=1.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sharpen", "no task 'sharpen'"),
        ("denoise:3", "no task"),
        ("upscale:x", "write upscale:4"),
        ("upscale:1", "write upscale:4"),
        ("deblur:-1", "write deblur"),
    ],
)
def test_what_is_no_task_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        parse_tasks(text)


@pytest.mark.parametrize(
    ("text", "shape", "words"),
    [
        ("colorize", (1, 8, 8), "'colorize' does not suit this data.*grey already"),
        ("upscale:3", (1, 8, 8), "'upscale:3' does not suit.*does not divide"),
    ],
)
def test_what_does_not_suit_the_data_is_refused(text, shape, words):
    with pytest.raises(ValueError, match=words):
        Degradations(parse_tasks(text)).check(shape)
