"""Augmentation: each change is what NumPy, SciPy or a closed form makes of the numbers that are told, and nothing is told where nothing was done."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from undiffuse.data.augmentation import MENU, AugmentConfig, augmented, parse_augmentation
from undiffuse.data.transforms import Geometry, Recolouring, planar
from undiffuse.errors import UsageError

OFF = {"shift": 0}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth(n, channels, size, seed=0):
    """Random examples without detail, within [-1, 1]."""
    values = np.random.default_rng(seed).standard_normal((n, channels, *size))
    values = ndimage.gaussian_filter(values, [0, 0, *[2.5] * len(size)], mode="reflect")
    return torch.from_numpy(values / np.abs(values).max()).float()


def one(name, amount, **more):
    return AugmentConfig(**{"probability": 1.0, **OFF, name: amount, **more})


# Shifts, as they always were -------------------------------------------------------------------------------------------


def shifted_as_before(x, probability, most, generator):
    """What runs of undiffuse did when shifts were all of augmentation."""
    axes = x.ndim - 2
    shifts = torch.randint(-most, most + 1, (len(x), axes), generator=generator)
    shifts *= torch.rand(len(x), 1, generator=generator) < probability
    moved = x.clone()
    for k, by in enumerate(shifts.tolist()):
        for axis, places in enumerate(by):
            index = [min(max(i - places, 0), x.shape[2 + axis] - 1) for i in range(x.shape[2 + axis])]
            moved[k] = moved[k].index_select(1 + axis, torch.tensor(index))
    return moved, shifts / most


@pytest.mark.parametrize("size", [(9,), (5, 7), (3, 4, 5)])
@pytest.mark.parametrize("most", [1, 2])
def test_shifts_alone_are_to_the_bit_what_they_were(size, most):
    x = torch.randn(64, 2, *size, generator=seeded())
    found = augmented(x, AugmentConfig(probability=0.5, shift=most), seeded(1))
    moved, told = shifted_as_before(x, 0.5, most, seeded(1))
    assert torch.equal(found.x, moved)
    assert torch.equal(found.told.view(torch.int32), told.view(torch.int32))


def test_a_choice_more_does_not_change_how_others_are_drawn_before_it():
    x = torch.zeros(64, 3, 8, 8)
    alone = augmented(x, AugmentConfig(probability=0.5), seeded(1)).told
    more = augmented(x, AugmentConfig(probability=0.5, rotate=15, hue=0.2), seeded(1)).told
    assert torch.equal(more[:, :2], alone)


def test_the_probability_is_that_of_being_drawn():
    """A drawn example keeps its place with probability 1/9 in two dimensions, is not flipped with 1/2, and is turned with 3/4."""
    n = 40_000
    config = AugmentConfig(probability=0.3, flip=True, turn=True, probabilities={"turn": 1.0})
    told = augmented(torch.zeros(n, 1, 2, 2), config, seeded()).told
    for numbers, expected in (
        (told[:, :2], 0.3 * 8 / 9),
        (told[:, 2:3], 0.3 / 2),
        (told[:, 3:], 0.75),
    ):
        rate = numbers.any(1).double().mean().item()
        assert abs(rate - expected) < 4 * (expected * (1 - expected) / n) ** 0.5


# Exact moves ------------------------------------------------------------------------------------------------------------


def test_flips_and_turns_are_numpys():
    x = torch.randn(40, 2, 6, 6, generator=seeded())
    for name, axis in (("flip", 2), ("flip_vertical", 1)):
        found = augmented(x, one(name, True), seeded(2))
        assert 0 < found.told.sum() < 40
        for before, after, told in zip(x.numpy(), found.x.numpy(), found.told, strict=True):
            np.testing.assert_array_equal(after, np.flip(before, axis) if told.item() else before)
    found = augmented(x, one("turn", True), seeded(2))
    turns = {(0.0, 0.0): 0, (1.0, 0.0): 1, (1.0, 1.0): 2, (0.0, 1.0): 3}
    seen = set()
    for before, after, told in zip(x.numpy(), found.x.numpy(), found.told.tolist(), strict=True):
        seen.add(turns[tuple(told)])
        np.testing.assert_array_equal(after, np.rot90(before, turns[tuple(told)], (1, 2)))
    assert seen == {0, 1, 2, 3}


def test_mirrored_data_is_not_told():
    x = torch.randn(40, 1, 4, 6, generator=seeded())
    found = augmented(x, AugmentConfig(mirror=True), seeded())
    assert found.told.shape == (40, 0)
    flipped = (found.x == x.flip(-1)).flatten(1).all(1)
    assert 8 < flipped.sum() < 32
    assert torch.equal(found.x[~flipped], x[~flipped])
    both = augmented(x, AugmentConfig(probability=1.0, shift=0, flip=True, mirror=True), seeded())
    assert both.told.shape == (40, 1)


# Resampling -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quarter", [1, 2, 3])
@pytest.mark.parametrize("size", [(7, 7), (8, 8), (3, 6, 6)])
def test_a_right_angle_through_the_grid_is_rot90(quarter, size):
    """Places fall on places, so the result differs by how float32 counts them: about 2^-23 of a place, times differences of 2."""
    x = smooth(3, 2, size)
    move = Geometry.identity(3, size)
    angle = torch.full((3,), quarter * math.pi / 2, dtype=torch.float64)
    move.after(planar(angle.cos(), angle.sin(), len(size)))
    np.testing.assert_allclose(move(x).numpy(), np.rot90(x.numpy(), quarter, (-2, -1)), atol=1e-5)


def inner(x, margin):
    return x[(..., *[slice(margin, -margin)] * (x.ndim - 2))]


@pytest.mark.parametrize(
    ("name", "amount", "size"),
    [
        ("scale", 0.2, (24,)),
        ("translate", 0.03, (24,)),
        ("rotate", 20, (24, 30)),
        ("scale", 0.2, (24, 30)),
        ("stretch", 0.2, (24, 30)),
        ("translate", 0.03, (24, 30)),
        ("rotate", 20, (6, 24, 20)),
        ("translate", 0.03, (16, 18, 20)),
    ],
)
def test_a_linear_ramp_moves_as_it_is_told(name, amount, size):
    """Linear interpolation and cubics keep linear functions, so f(p) = a·p becomes a·(M (p - t)) where no edge is near.

    The matrix is written from the numbers told: 2^w, the angle, w along a direction.
    """
    slope = torch.tensor([0.3, -0.2, 0.5])[: len(size)] / 20
    places = torch.stack(torch.meshgrid(*(torch.arange(n) + 0.5 - n / 2 for n in size), indexing="ij"), -1)
    x = (places @ slope).repeat(8, 1, *[1] * len(size))
    found = augmented(x, one(name, amount), seeded(3))
    for told, after in zip(found.told.double().numpy(), found.x[:, 0].double().numpy(), strict=True):
        matrix, t = np.eye(len(size)), np.zeros(len(size))
        if name == "scale":
            matrix /= 2 ** (amount * told[0])
        elif name == "translate":
            t = amount * told * size
        elif name == "rotate":  # counter-clockwise with rows that grow downwards
            c, s = 1 + told[0], told[1]
            matrix[-2:, -2:] = [[c, s], [-s, c]]
        else:  # longer along (cos, sin) of (column, minus row), shorter across it
            w = np.hypot(*told)
            along = np.array([-told[1], told[0]]) / w
            across = np.array([along[1], -along[0]])
            f = 2 ** (amount * w)
            matrix = np.linalg.inv(f * np.outer(along, along) + np.outer(across, across) / f)
        expected = (places.double().numpy() - t) @ matrix.T @ slope.double().numpy()
        reach = np.abs((places.double().numpy() - t) @ matrix.T)
        inside = (reach < np.array(size) / 2 - 2).all(-1)
        assert inside.mean() > 0.2
        np.testing.assert_allclose(after[inside], expected[inside], atol=2e-6)


def test_a_rotation_is_near_scipys_spline():
    """Cubic convolution here and cubic splines there: of smooth examples they differ by little, of plain rows by much."""
    x = smooth(4, 1, (32, 32))
    found = augmented(x, one("rotate", 30), seeded(1))
    for told, before, after in zip(found.told, x.numpy(), found.x.numpy(), strict=True):
        degrees = math.degrees(math.atan2(told[1], 1 + told[0]))
        expected = ndimage.rotate(before[0], degrees, reshape=False, order=3, mode="reflect")
        assert np.abs(after[0] - expected).max() < 0.02
        assert np.abs(before[0] - expected).max() > 0.1


def test_moving_back_brings_smooth_examples_back():
    x = smooth(4, 1, (32, 32))
    angle = torch.linspace(0.1, 0.6, 4, dtype=torch.float64)
    there, back = Geometry.identity(4, (32, 32)), Geometry.identity(4, (32, 32))
    there.after(planar(angle.cos(), angle.sin(), 2))
    back.after(planar(angle.cos(), -angle.sin(), 2))
    assert (inner(back(there(x)) - x, 8)).abs().max() < 0.02


def test_nothing_exceeds_what_the_example_has():
    x = (torch.rand(20, 2, 12, 12, generator=seeded()) > 0.5).float() * 2 - 1
    x[:10, 1] = 0.25
    found = augmented(x, one("rotate", 90, scale=0.3), seeded())
    assert found.x.min() == -1
    assert found.x.max() == 1
    assert (found.x[:10, 1] == 0.25).all()


def test_hidden_colours_do_not_bleed():
    """A white disc on black that alpha hides: premultiplied, what is seen stays white up to its edge."""
    y, x = torch.meshgrid(torch.arange(24) - 11.5, torch.arange(24) - 11.5, indexing="ij")
    disc = ((y**2 + x**2) < 64).float() * 2 - 1
    example = torch.stack([disc, disc, disc, disc])[None].repeat(8, 1, 1, 1)
    config = one("rotate", 45, translate=0.1)
    found = augmented(example, config, seeded(), alpha=True).x
    seen = found[:, 3] > -0.9
    assert ((found[:, 3] > -0.9) & (found[:, 3] < 0.9)).any()
    assert found[:, 0][seen].min() > 1 - 1e-4
    plain = augmented(example, config, seeded()).x
    assert plain[:, 0][plain[:, 3] > -0.9].min() < 0


# Other fields -----------------------------------------------------------------------------------------------------------


def test_other_fields_move_along():
    """A mask of where the example is bright stays one, and takes no value in between; colour does not touch a picture."""
    x = smooth(32, 3, (24, 24))
    mask, picture = x[:, :1] > 0.1, x[:, :2].clone()
    every = AugmentConfig(
        probability=0.8, shift=2, flip=True, turn=True, rotate=40, scale=0.2, brightness=0.3, mirror=True
    )
    found = augmented(x, every, seeded(), also=[mask, picture])
    moved_mask, moved_picture = found.also
    assert moved_mask.dtype == torch.bool
    geometric = augmented(x, every.model_copy(update={"brightness": 0.0}), seeded())
    assert (found.x - geometric.x).abs().max() > 0.1
    assert torch.equal(moved_picture, found.move(picture))
    moved = found.move(x)
    assert torch.equal(moved_picture, moved[:, :2])
    clear = (moved[:, :1] - 0.1).abs() > 0.15  # no edge of the mask within a place
    assert torch.equal(moved_mask[clear], (moved[:, :1] > 0.1)[clear])


def test_a_smaller_picture_moves_by_the_same_share():
    """Averages of blocks of 2 of what was moved by 4 places are the averages moved by 2."""
    x = smooth(30, 1, (16, 16))
    small = torch.nn.functional.avg_pool2d(x, 2)
    found = augmented(x, AugmentConfig(probability=1.0, shift=4, flip=True), seeded(), also=[small])
    even = (found.told[:, :2] * 4 % 2 == 0).all(1)
    assert even.sum() > 4
    expected = torch.nn.functional.avg_pool2d(found.x, 2)
    assert (inner(expected - found.also[0], 2)[even]).abs().max() < 1e-5


# Colour -----------------------------------------------------------------------------------------------------------------


def test_colour_is_what_it_is_told():
    x = smooth(16, 4, (6, 6)) * 0.3
    found = augmented(x, one("brightness", 0.1), seeded(), alpha=True)
    np.testing.assert_allclose((found.x - x)[:, :3].mean((1, 2, 3)), found.told[:, 0] * 0.1, atol=1e-6)
    assert torch.equal(found.x[:, 3], x[:, 3])
    found = augmented(x, one("contrast", 0.2), seeded(), alpha=True)
    torch.testing.assert_close(found.x[:, :3], x[:, :3] * 2 ** (0.2 * found.told[:, :, None, None]))
    found = augmented(x[:, :3], one("saturation", 0.5), seeded())
    torch.testing.assert_close(found.x.mean(1), x[:, :3].mean(1), atol=1e-6, rtol=0)
    spread = [(part - part.mean(1, keepdim=True)) for part in (found.x, x[:, :3])]
    torch.testing.assert_close(spread[0], spread[1] * 2 ** (0.5 * found.told[:, :, None, None]))


def test_a_third_of_a_turn_of_hue_takes_red_to_green():
    """As colorsys has it: the hue of pure colours moves by 1/3; grey stays grey."""
    colour = Recolouring.none(1)
    colour.hue = torch.tensor([[math.cos(2 * math.pi / 3) - 1, math.sin(2 * math.pi / 3)]])
    limits = -torch.ones(3, 1, 1), torch.ones(3, 1, 1)
    for rgb in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.3, 0.3, 0.3)):
        h, s, v = colorsys.rgb_to_hsv(*rgb)
        expected = torch.tensor(colorsys.hsv_to_rgb((h + 1 / 3) % 1, s, v)) * 2 - 1
        found = colour(torch.tensor(rgb).reshape(1, 3, 1, 1) * 2 - 1, 3, *limits)
        torch.testing.assert_close(found.flatten(), expected, atol=1e-6, rtol=0)


def test_colour_keeps_within_the_limits():
    x = smooth(16, 3, (6, 6))
    low, high = torch.full((3, 1, 1), -0.5), torch.tensor([0.2, 0.4, 0.6]).reshape(3, 1, 1)
    found = augmented(x, one("brightness", 2.0), seeded(), limits=(low, high)).x
    assert (found >= low).all()
    assert (found <= high).all()
    assert (found == high).any()


# What is told -----------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "flip": True,
    "flip_vertical": True,
    "turn": True,
    "rotate": 30.0,
    "scale": 0.2,
    "stretch": 0.2,
    "translate": 0.1,
    "brightness": 0.1,
    "contrast": 0.1,
    "hue": 0.2,
    "saturation": 0.3,
}


@pytest.mark.parametrize("name", [*MENU])
def test_nothing_is_told_just_where_nothing_was_done(name):
    x = torch.rand(100, 3, 8, 8, generator=seeded()) * 1.6 - 0.8
    config = one(name, 1 if name == "shift" else EVERYTHING[name]).model_copy(update={"probability": 0.5})
    found = augmented(x, config, seeded())
    untouched = ~found.told.any(1)
    assert 30 < untouched.sum() < 90
    assert torch.equal((found.x == x).flatten(1).all(1), untouched)


def test_nothing_of_all_is_told_where_none_was_done():
    x = torch.rand(400, 3, 8, 8, generator=seeded()) * 1.6 - 0.8
    config = AugmentConfig(probability=0.1, **EVERYTHING)
    found = augmented(x, config, seeded())
    assert found.told.shape == (400, config.numbers(2)) == (400, 18)
    untouched = ~found.told.any(1)
    assert 40 < untouched.sum() < 360
    assert torch.equal(found.x[untouched], x[untouched])


@pytest.mark.parametrize("name", [*MENU])
def test_each_entry_tells_as_many_numbers_as_it_says(name):
    config = one(name, 1 if name == "shift" else EVERYTHING[name])
    assert config.chosen == (name,)
    found = augmented(smooth(50, 3, (8, 8)), config, seeded())
    assert found.told.shape == (50, MENU[name].numbers(2))
    assert found.told.any()


def test_none_is_none():
    x = torch.randn(8, 1, 4, 4)
    found = augmented(x, AugmentConfig(), seeded())
    assert found.x is x
    assert found.told.shape == (8, 0)


# Choosing ---------------------------------------------------------------------------------------------------------------


def test_the_menu_in_words():
    def meant(**chosen):
        return {f"augment.{name}": value for name, value in AugmentConfig(shift=0, **chosen)} | {
            f"augment.{name}": value for name, value in chosen.items()
        }

    given = {"flip": True, "rotate": 15.0, "probability": 0.12}
    assert parse_augmentation("flip,shift:2,rotate:15") == meant(**given) | {"augment.shift": 2}
    assert parse_augmentation("mirror") == meant(mirror=True)
    colours = dict.fromkeys(("brightness", "contrast", "hue", "saturation"), 0.2)
    assert parse_augmentation("colour:0.2", 0.5) == meant(**colours, probability=0.5)
    for text, message in (
        ("flop", "did you mean 'flip'"),
        ("flip:2", "has no amount"),
        ("rotate:much", "no amount"),
        ("shift:0.5", "no amount"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_augmentation(text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"flip": True}, "would never happen"),
        ({"probability": 0.1, "shift": 0}, "nothing is chosen"),
        ({"probability": 0.1, "probabilities": {"flop": 1}}, "did you mean 'flip'"),
        ({"probability": 0.1, "probabilities": {"flip": 1}}, "would never happen"),
    ],
)
def test_what_would_do_nothing_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        AugmentConfig(**config)


@pytest.mark.parametrize(
    ("name", "shape", "colours", "message"),
    [
        ("rotate", (1, 50), 1, "of 2 axes"),
        ("turn", (3, 8, 10), 3, "no squares"),
        ("hue", (1, 8, 8), 1, "three colours"),
        ("flip", (5, 1), 5, "have no places"),
    ],
)
def test_what_makes_no_sense_of_the_data_is_refused(name, shape, colours, message):
    config = one(name, EVERYTHING[name])
    with pytest.raises(UsageError, match=message):
        config.check(shape, colours)
    with pytest.raises(UsageError, match="latents"):
        one("flip", True).check((4, 8, 8), 4, latents=True)
    AugmentConfig(probability=0.1).check(shape, colours, latents=True)
