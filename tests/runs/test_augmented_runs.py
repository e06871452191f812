"""Runs on changed and balanced examples: what the network gets of a batch, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

import undiffuse
from tests.small import TINY_SETTINGS
from undiffuse.conditioning.spec import Condition
from undiffuse.data.augmentation import AugmentConfig, parse_augmentation
from undiffuse.data.config import DataConfig
from undiffuse.errors import UsageError
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

EVERYTHING = {
    "augment.probability": 0.8,
    "augment.flip": True,
    "augment.turn": True,
    "augment.rotate": 20,
    "augment.scale": 0.1,
    "augment.mirror": True,
}


@pytest.fixture
def pictured(tmp_path):
    """60 smooth images with themselves, a mask, half their size, and a class that is rare as conditions."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:8, :8]
    images = np.stack(
        [127 + 60 * np.sin(a * x / 4) + 60 * np.cos(b * y / 4) for a, b in rng.uniform(0.3, 1.5, (60, 2))]
    )
    images = images.round().astype(np.uint8)
    images[0, 0, :2] = 0, 255
    path = tmp_path / "data.npz"
    mask = (images > 140).astype(np.uint8)
    small = images[:, ::2, ::2].copy()
    label = np.where(np.arange(60) % 10 == 3, 1, 0)
    np.savez(path, images=images, labels=label, same=images, mask=mask, small=small, wide=images[:, ::2].copy())
    return path


def tiny(path, folder, declared=None, **settings):
    settings = TINY_SETTINGS | {"training.steps": 2, "training.budget": None, "augment.probability": 0.0} | settings
    return prepare(
        DataConfig(source=str(path)), folder, settings=settings, conditions=declared, watch=Intervals(1e9, 1e9)
    ).run()


def test_pictures_move_along_and_masks_stay_masks(tmp_path, pictured):
    declared = {name: Condition(kind="image", inject="embedding") for name in ("same", "mask", "small")}
    run = tiny(pictured, tmp_path / "r", declared, **EVERYTHING)
    plain, _ = run.loader(0)
    x, values = run.batch(0)
    told = values["augmentation"].any(1)
    assert (x != plain).flatten(1).any(1).sum() > 5
    assert told.any()
    torch.testing.assert_close(values["same"][:, :1], x, atol=1e-5, rtol=0)
    assert set(values["mask"].unique().tolist()) == {-1.0, 1.0}
    clear = (x - (140.5 / 255 * 2 - 1)).abs() > 0.25  # no edge of the mask between this place and the next
    assert torch.equal((values["mask"][:, :1] > 0)[clear], (x > 140.5 / 255 * 2 - 1)[clear])
    assert (values["small"][:, 1:] == 1).all()


def test_pictures_of_other_proportions_are_refused(tmp_path, pictured):
    declared = {"wide": Condition(kind="image", inject="embedding")}
    with pytest.raises(ValueError, match=r"'wide' would have to move along .* 4×8 and 8×8"):
        tiny(pictured, tmp_path / "r", declared, **EVERYTHING)
    tiny(pictured, tmp_path / "r", declared)


def test_a_batch_is_a_function_of_seed_and_step(tmp_path, pictured):
    a, b = (tiny(pictured, tmp_path / name, **EVERYTHING, **{"training.balance": 1.0}) for name in "ab")
    first = [a.batch(step) for step in (0, 1, 2)]
    for step in (2, 0, 1):
        x, values = b.batch(step)
        assert torch.equal(x, first[step][0])
        assert all(torch.equal(values[name], first[step][1][name]) for name in values)


def test_augmentation_is_a_condition_and_mirroring_is_none(tmp_path, pictured):
    run = tiny(pictured, tmp_path / "a", **EVERYTHING)
    assert run.model_config.conditions["augmentation"].numbers == 2 + 1 + 2 + 1 + 2
    for _ in run.updates():
        pass
    model = undiffuse.load(tmp_path / "a")
    assert model.sample(2, {"class": "1"}, steps=2).shape == (2, 1, 8, 8)
    mirrored = tiny(pictured, tmp_path / "b", **{"augment.mirror": True})
    assert "augmentation" not in mirrored.model_config.conditions
    plain, x = mirrored.loader(0)[0], mirrored.batch(0)[0]
    flipped = (x == plain.flip(-1)).flatten(1).all(1)
    assert torch.equal(torch.where(flipped[:, None, None, None], plain.flip(-1), plain), x)
    assert 0 < flipped.sum() < len(x)


def test_fine_tuning_with_another_menu(tmp_path, pictured):
    run = tiny(pictured, tmp_path / "a", **{"augment.probability": 0.5})
    for _ in run.updates():
        pass
    settings = {"training.steps": 2, "augment.probability": 0.5, "augment.flip": True}
    tuned = prepare(
        DataConfig(source=str(pictured)),
        tmp_path / "b",
        settings=settings,
        start=tmp_path / "a",
        watch=Intervals(1e9, 1e9),
    ).run()
    assert tuned.model_config.conditions["augmentation"].numbers == 3
    assert tuned.batch(0)[1]["augmentation"].shape[1] == 3
    for _ in tuned.updates():
        pass


def test_balanced_classes(tmp_path, pictured):
    """Of 6 rare and 54 other examples, less what is held out: as often, to within the last draw of an epoch."""
    run = tiny(pictured, tmp_path / "a", **{"training.balance": 1.0})
    n, batch = len(run.prepared.training), run.config.design.training.batch_size
    labels = torch.cat([run.batch(step)[1]["class"] for step in range(-(-3 * n // batch))])[: 3 * n]
    counts = Counter(labels.tolist())
    assert abs(counts[0] - counts[1]) <= 2
    unconditional = tiny(pictured, tmp_path / "b", {}, **{"training.balance": 1.0})
    assert unconditional.loader.balanced is not None
    with pytest.raises(ValueError, match="and colour is none; the classes are class"):
        tiny(pictured, tmp_path / "c", **{"training.balance": 1.0, "training.balance_by": "colour"})
    declared = {"same": Condition(kind="image")}
    assert tiny(pictured, tmp_path / "d", declared, **{"training.balance": 0.5}).loader.balanced is not None
    np.save(tmp_path / "x.npy", np.load(pictured)["images"])
    with pytest.raises(ValueError, match="declare one"):
        tiny(tmp_path / "x.npy", tmp_path / "e", **{"training.balance": 1.0})


def test_the_words_of_the_command_line(tmp_path, pictured):
    model = undiffuse.train(
        pictured,
        runs=tmp_path,
        name="r",
        settings=TINY_SETTINGS,
        steps=1,
        augment="flip,rotate:10",
        augment_probability=0.3,
    )
    assert model.config.conditions["augmentation"].numbers == 3


def test_new_colours_move_nothing(tmp_path, pictured):
    """So pictures of other proportions may be conditions beside them."""
    declared = {"wide": Condition(kind="image", inject="embedding")}
    run = tiny(
        pictured,
        tmp_path / "r",
        declared,
        **{"augment.probability": 0.9, "augment.brightness": 0.1, "augment.shift": 0},
    )
    x, values = run.batch(0)
    plain, given = run.loader(0)
    assert not torch.equal(x, plain)
    assert torch.equal(values["wide"], given["wide"])
    for moving in ({"augment.shift": 1, "augment.probability": 0.5}, {"augment.mirror": True}):
        with pytest.raises(UsageError, match="same proportions"):
            tiny(pictured, tmp_path / "s", declared, **moving)


def test_what_is_not_named_is_off_whatever_a_preset_or_a_plan_chose(tmp_path, pictured):
    words = parse_augmentation("rotate:10")
    before = {"augment.flip": True, "augment.mirror": True, "augment.probabilities": {"flip": 1.0}}
    run = tiny(pictured, tmp_path / "r", None, **(EVERYTHING | before | words))
    assert run.config.design.augment == AugmentConfig(shift=0, rotate=10.0, probability=0.12)
