"""Runs of tasks: the label and what is seen reach the network, resume is exact, answers keep what is known, two stages sample together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import undiffuse
from tests.small import TINY_SETTINGS, randomised, tiny_model
from undiffuse.data.config import DataConfig
from undiffuse.data.sources import open_data
from undiffuse.models import restoration
from undiffuse.models.file import load
from undiffuse.runs.prepare import prepare
from undiffuse.training.cadence import Intervals

EACH = "inpaint,upscale:2,denoise"
SETTINGS = TINY_SETTINGS | {
    "training.steps": 6,
    "training.budget": None,
    "training.batch_size": 12,
    "augment.probability": 0.5,
}


def made(folder, text=EACH, **settings):
    from undiffuse.conditioning.degradations import parse_tasks

    return prepare(
        DataConfig(source="digits"),
        folder,
        settings=SETTINGS | settings,
        watch=Intervals(1e9, 1e9),
        tasks=parse_tasks(text),
    ).run()


def finished(run):
    for _ in run.updates():
        pass
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return finished(made(tmp_path_factory.mktemp("tasks") / "r"))


def test_stopping_and_resuming_changes_no_bit(tmp_path, trained):
    part = made(tmp_path / "part")
    for update in part.updates():
        if update.step == 3:
            part.save()
            break
    again = finished(made(tmp_path / "part"))
    a, b = trained.loop.tensors(), again.loop.tensors()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_file_says_what_it_can_do(trained):
    model = load(trained.folder)
    assert list(model.config.degradations) == ["inpaint", "upscale:2", "denoise"]
    assert list(model.config.conditions) == ["class", "augmentation", "observation", "task"]
    assert list((trained.folder / "samples").iterdir())
    assert (trained.folder / "condition_sensitivity.png").exists()


def test_what_is_seen_and_the_label_change_the_answer(trained):
    model, values = load(trained.folder), open_data(DataConfig(source="digits")).values[:2]
    one, other = (restoration.degrade(model, values, "denoise", seed=seed) for seed in (0, 1))
    mislabelled = restoration.Observation(one.channels, ("inpaint",) * 2, one.values)
    with torch.no_grad():
        x, level = torch.zeros(2, 1, 8, 8), model.schedule(500.0)
        of = [
            model.denoiser(
                x, level, model.denoiser.conditions.encode({"observation": seen.channels, "task": list(seen.tasks)}, 2)
            ).mean
            for seen in (one, other, mislabelled)
        ]
    assert not torch.allclose(of[0], of[1], atol=1e-6)
    assert not torch.allclose(of[0], of[2], atol=1e-6)


def test_in_a_mixture_each_example_is_what_it_is_alone(trained):
    model, values = load(trained.folder), open_data(DataConfig(source="digits")).values[:2]
    parts = [restoration.degrade(model, values, name) for name in model.config.degradations]
    mixed = restoration.restore(model, restoration.concatenate(parts), n=2, steps=3)
    assert mixed.values.shape == (6, 2, 1, 8, 8)
    for k, part in enumerate(parts):
        first = 4 * k  # examples of the seed before this part
        alone = model.sample(
            4, {"observation": part.channels.repeat_interleave(2, 0), "task": [part.tasks[0]] * 4}, first=first, steps=3
        )
        if part.known is not None:
            alone = torch.where(part.known.repeat_interleave(2, 0), part.kept.repeat_interleave(2, 0), alone)
        assert (
            alone.reshape(2, 2, 1, 8, 8) - mixed.values[2 * k : 2 * k + 2]
        ).abs().max() <= 1  # of 16, from float rounding


def test_what_is_known_comes_back_as_it_was_given(trained):
    model, values = load(trained.folder), open_data(DataConfig(source="digits")).values[:3].astype(np.float32)
    hidden = np.zeros((8, 8), bool)
    hidden[4:] = True
    seen = restoration.observe(model, values, "inpaint", hidden=hidden)
    answer = restoration.restore(model, seen, n=2, steps=2, conditions={"class": ["0", "1", "2"]}).values
    assert torch.equal(answer[:, :, :, :4], torch.from_numpy(values)[:, None, :, :4].expand(-1, 2, -1, -1, -1))
    values[:, :, 4:] = 7  # what stands at hidden places does not matter
    again = restoration.observe(model, values, "inpaint", hidden=hidden)
    assert torch.equal(again.channels, seen.channels)


def test_given_and_simulated_are_shown_the_same_way(trained):
    model, values = load(trained.folder), open_data(DataConfig(source="digits")).values[:3]
    small = torch.from_numpy(values).float().reshape(3, 1, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(
        restoration.observe(model, small, "upscale:2").channels,
        restoration.degrade(model, values, "upscale:2").channels,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task": "sharpen"}, "was not trained for the task 'sharpen': it can do inpaint"),
        ({"task": None}, "choose one"),
        ({"task": "denoise", "noise": 5.0}, "trained for noise of 0.1 to 1, not of 5"),
        ({"task": "denoise", "hidden": np.ones((8, 8))}, "belongs to inpainting"),
        ({"task": "upscale:2"}, "takes examples of shape"),
        ({"task": "inpaint"}, "give a mask"),
        ({"task": "inpaint", "hidden": np.ones((8, 8))}, "hides everything"),
        ({"task": "inpaint", "hidden": np.zeros((8, 8))}, "hides nothing"),
        ({"task": "inpaint", "hidden": np.ones((7, 8))}, "give one of their size"),
    ],
)
def test_what_does_not_fit_is_refused(trained, arguments, words):
    model, values = load(trained.folder), open_data(DataConfig(source="digits")).values[:1].astype(np.float32)
    with pytest.raises(ValueError, match=words):
        restoration.observe(model, values, **arguments)


def test_two_stages_and_models_that_are_none(tmp_path):
    from undiffuse.conditioning.degradations import second_stage

    base = undiffuse.train("digits", runs=tmp_path, name="plain", settings=SETTINGS)
    with pytest.raises(ValueError, match="not trained for tasks: 'undiffuse inpaint'"):
        restoration.degrade(base, np.zeros((1, 1, 8, 8)), "inpaint")
    with pytest.raises(ValueError, match="`upscale_factor`"):
        restoration.upscale_samples(base, torch.zeros(1, 1, 4, 4))
    up = finished(
        prepare(
            DataConfig(source="digits"),
            tmp_path / "up",
            settings=SETTINGS,
            watch=Intervals(1e9, 1e9),
            tasks={"upscale:2": second_stage(2)},
        ).run()
    )
    model = load(up.folder)
    assert list(model.config.conditions) == ["class", "augmentation", "observation"]
    small = open_data(DataConfig(source="digits", shrink=2)).values[:4].astype(np.float32)
    randomised(
        model.denoiser
    )  # so short a training has learned nothing of what is seen, and whole numbers would hide it
    plain, noisy = (
        restoration.upscale_samples(
            model, torch.from_numpy(small), augmentation=noise, conditions={"class": "3"}, steps=2
        )
        for noise in (0.0, 0.3)
    )
    assert plain.shape == (4, 1, 8, 8)
    assert not torch.equal(plain, noisy)


def test_latents_have_no_tasks_and_names_are_taken(tmp_path):
    from undiffuse.conditioning.degradations import parse_tasks

    with pytest.raises(ValueError, match="leave `latent` or `degradation` out"):
        prepare(
            DataConfig(source="digits"),
            tmp_path / "r",
            settings={"training.steps": 1},
            latent=2,
            tasks=parse_tasks("denoise"),
        )
    with pytest.raises(ValueError, match="shrink by a number that divides every side"):
        open_data(DataConfig(source="digits", shrink=3))


def test_a_run_of_tasks_is_fine_tuned(tmp_path, trained):
    tuned = undiffuse.train("digits", runs=tmp_path, name="tuned", start=trained.folder, steps=2, batch_size=8)
    assert list(tuned.config.degradations) == ["inpaint", "upscale:2", "denoise"]
    assert set(tuned.config.conditions) == {"class", "observation", "task"}


def test_peak_signal_to_noise_is_of_the_range_of_the_data():
    """An error of a tenth of the range everywhere is 20 dB, and none at all infinite."""
    model, values = tiny_model(), torch.full((2, 1, 8, 8), 100.0)
    assert restoration.psnr(model, values, values + 25.5).tolist() == pytest.approx([20, 20])
    assert restoration.psnr(model, values, values).isinf().all()
